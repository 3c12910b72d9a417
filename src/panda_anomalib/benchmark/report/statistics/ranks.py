"""Models over several data sets: Friedman's test, then Wilcoxon's signed-rank test of each pair with Holm's correction.

After Demsar (JMLR 2006) and Benavoli, Corani & Mangili (JMLR 2016). A data set gives one number per model: its classes
share images and protocol, so counting each class as a data set would claim independence that is not there.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from panda_anomalib.benchmark.report.statistics.holm import holm

__all__ = ["RankComparison", "compare_ranks"]

_LEVEL = 0.05


@dataclass(frozen=True)
class RankComparison:
    """What several data sets say about models.

    Attributes:
        mean_ranks: Mean rank of each model, 1 is best, ascending; empty with fewer than two data sets or models.
        friedman_p: Of all models being alike; None with fewer than three models or two data sets.
        pairs: Holm-adjusted p-values, models x models; None where no difference could be shown, see ``remark``.
        remark: What the reader must know, in full sentences.
    """

    mean_ranks: "pd.Series[float]"
    friedman_p: float | None
    pairs: pd.DataFrame | None
    remark: str


def compare_ranks(means: pd.DataFrame) -> RankComparison:
    """Compare models over data sets.

    Args:
        means: AUROC, data sets x models, nothing missing.

    Returns:
        The comparison.
    """
    num_sets, num_models = means.shape
    if min(num_sets, num_models) < 2:
        return RankComparison(pd.Series(dtype=float), None, None, _too_little(num_sets, num_models))
    # Rounded: what differs by less than a thousandth of a point is level, not a rank.
    values = means.round(5)
    ranks = values.rank(axis=1, ascending=False, method="average").mean().sort_values(kind="stable")
    friedman = None
    if num_models > 2:
        # Undefined when all models are level on every data set: then nothing speaks against their being alike.
        level = bool((values.nunique(axis=1) == 1).all())
        friedman = 1.0 if level else float(stats.friedmanchisquare(*values.to_numpy().T).pvalue)
    smallest = smallest_adjusted_p(num_sets, num_models)
    if smallest > _LEVEL:
        return RankComparison(ranks, friedman, None, _too_few(num_sets, num_models, smallest))
    return RankComparison(ranks, friedman, _wilcoxon_holm(values), _reading(num_sets))


def smallest_adjusted_p(num_sets: int, num_models: int) -> float:
    """Smallest p-value that any result could reach: all data sets agree, the first of all pairs after Holm."""
    pairs = num_models * (num_models - 1) // 2
    return float(min(1.0, pairs * 2 * 0.5**num_sets))


def _wilcoxon_holm(values: pd.DataFrame) -> pd.DataFrame:
    models = list(values.columns)
    rows, columns = np.triu_indices(len(models), 1)
    differences = [values[models[i]] - values[models[j]] for i, j in zip(rows, columns, strict=True)]
    # Zero differences are ranked (Pratt), not dropped: with few data sets, dropping them overstates agreement.
    p_values = [
        float(stats.wilcoxon(difference, zero_method="pratt").pvalue) if difference.any() else 1.0
        for difference in differences
    ]
    matrix = np.ones((len(models), len(models)))
    matrix[rows, columns] = matrix[columns, rows] = holm(p_values)
    return pd.DataFrame(matrix, index=models, columns=models)


def _too_little(num_sets: int, num_models: int) -> str:
    return f"Ranks need two data sets and two models that were run on all of them, got {num_sets} and {num_models}."


def _too_few(num_sets: int, num_models: int, smallest: float) -> str:
    pairs = num_models * (num_models - 1) // 2
    needed = next(n for n in range(num_sets, 100) if smallest_adjusted_p(n, num_models) <= _LEVEL)
    return (
        f"{num_sets} data sets are too few to tell models apart: even if one model won on all of them, Wilcoxon's test "
        f"would give p = {0.5 ** (num_sets - 1):.3g}, and {smallest:.3g} after Holm's correction for {pairs} "
        f"pair{'s' if pairs > 1 else ''}. From {needed} data sets on a difference could be shown, so no pairs are "
        "tested and no critical-difference diagram is drawn; the ranks describe, and prove nothing."
    )


def _reading(num_sets: int) -> str:
    rough = " Friedman's p-value is an approximation that is rough below ten data sets." if num_sets < 10 else ""
    return (
        "Models joined by a bar could not be told apart (Wilcoxon's signed-rank test of every pair, Holm's correction, "
        f"5 %); that does not show that they are equal.{rough}"
    )
