"""Checks of the protocol itself: what makes every number of a benchmark worthless, looked for with every benchmark."""

from panda_anomalib.benchmark.checks.running import run_checks

__all__ = ["run_checks"]
