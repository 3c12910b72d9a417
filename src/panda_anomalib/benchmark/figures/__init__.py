"""Figures of studies: from the results of a benchmark, from watched trainings, and of embeddings.

Importing this package imports neither torch nor anomalib; `panda_anomalib.benchmark.figures.tsne` does.
"""

from panda_anomalib.benchmark.figures.collapse import draw_collapse_runs
from panda_anomalib.benchmark.figures.drawing import Drawn, draw_results

__all__ = ["Drawn", "draw_collapse_runs", "draw_results"]
