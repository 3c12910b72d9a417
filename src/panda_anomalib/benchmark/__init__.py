"""anomalib's benchmark, so that its table can be trusted: no row is lost, and no failure is passed over."""

from panda_anomalib.benchmark.jobs import BenchmarkJob, BenchmarkJobGenerator
from panda_anomalib.benchmark.runner import Benchmark, BenchmarkRunner

__all__ = ["Benchmark", "BenchmarkJob", "BenchmarkJobGenerator", "BenchmarkRunner"]
