"""A table of methods and data sets, or classes, coloured by the metric."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from panda_anomalib.benchmark.figures.points import Points
from panda_anomalib.benchmark.figures.words import is_share, metric_name

__all__ = ["draw_heat", "heat_size"]


def heat_size(points: Points) -> tuple[float, float]:
    """Inches that the drawing needs."""
    longest = max(len(line) for line in points.lines)
    columns = points.table[points.x].nunique() + 1
    return 1.2 + 0.085 * longest + 0.95 * columns, 1.4 + 0.5 * len(points.lines)


def draw_heat(canvas: Figure, points: Points, paper: Mapping[tuple[str, str], float]) -> None:
    """Draw on an empty figure; the best of each column is bold, the last column is the mean of full rows.

    Args:
        canvas: The figure.
        points: What is drawn.
        paper: (line, x) -> published percent, in brackets.
    """
    axes: Axes = canvas.subplots()
    scale = 100 if is_share(points.metric) else 1
    cells = scale * points.table.pivot_table(index="line", columns=points.x, values="mean", sort=False)
    cells = cells.reindex(points.lines)
    if cells.shape[1] > 1:
        cells["mean"] = cells.mean(axis=1, skipna=False)
    values = cells.to_numpy(float)
    # each column by itself: easy data sets would hide what differs in hard ones
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    shade = (values - low) / np.where(high > low, high - low, 1)
    axes.imshow(np.where(high > low, shade, 0.5), cmap="YlGnBu", vmin=-0.3, vmax=1.9, aspect="auto")
    for row, line in enumerate(cells.index):
        for column, name in enumerate(cells.columns):
            value = values[row, column]
            text = "" if np.isnan(value) else f"{value:.1f}"
            if (line, str(name)) in paper:
                text += f"\n({paper[line, str(name)]:g})"
            weight = "bold" if value == high[column] and len(cells) > 1 else "normal"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, fontweight=weight)
    axes.set_xticks(range(cells.shape[1]), _wrapped(cells.columns), rotation=30 if cells.shape[1] > 7 else 0)
    axes.set_yticks(range(len(cells)), list(cells.index))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(metric_name(points.metric) + ("; in brackets the paper's" if paper else ""))


def _wrapped(names: "pd.Index[str]") -> list[str]:
    return [str(name).replace("_", "\n", 1) if len(str(name)) > 9 else str(name) for name in names]
