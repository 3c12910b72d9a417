"""What can be said of differences between models, and with which certainty; numbers in, numbers out."""

from panda_anomalib.benchmark.report.statistics.bootstrap import bootstrap_aurocs, percentile_interval
from panda_anomalib.benchmark.report.statistics.delong import Comparison, auroc_covariance, compare
from panda_anomalib.benchmark.report.statistics.holm import holm
from panda_anomalib.benchmark.report.statistics.ranks import RankComparison, compare_ranks
from panda_anomalib.benchmark.report.statistics.rates import Rate, realised_rate

__all__ = [
    "Comparison",
    "RankComparison",
    "Rate",
    "auroc_covariance",
    "bootstrap_aurocs",
    "compare",
    "compare_ranks",
    "holm",
    "percentile_interval",
    "realised_rate",
]
