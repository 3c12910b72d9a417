"""Drawings of the report, as SVG without fonts or scripts; each takes results and returns a block."""

from panda_anomalib.benchmark.report.figures.bars import class_bars
from panda_anomalib.benchmark.report.figures.cost import cost_plot
from panda_anomalib.benchmark.report.figures.critical_difference import critical_difference
from panda_anomalib.benchmark.report.figures.roc import roc_curves

__all__ = ["class_bars", "cost_plot", "critical_difference", "roc_curves"]
