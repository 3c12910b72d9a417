"""A metric for each of some words, such as models or classes: bars, with the spread over seeds as lines."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from panda_anomalib.benchmark.figures.points import Points
from panda_anomalib.benchmark.figures.words import is_share, metric_name
from panda_anomalib.benchmark.report.figures.style import TEXT, add_legend, looks_of

__all__ = ["bars_height", "draw_bars"]

_CHANCE = 50.0


def bars_height(points: Points) -> float:
    """Inches that the drawing needs."""
    return 1.0 + points.table[points.x].nunique() * (0.14 + 0.2 * len(points.lines)) + 0.1 * len(points.lines)


def draw_bars(canvas: Figure, points: Points, paper: Mapping[tuple[str, str], float]) -> None:
    """Draw on an empty figure.

    Args:
        canvas: The figure.
        points: What is drawn.
        paper: (line, x) -> published percent, a diamond on the bar.
    """
    axes: Axes = canvas.subplots()
    looks = looks_of(points.lines)
    scale = 100 if is_share(points.metric) else 1
    places = [str(value) for value in dict.fromkeys(points.table[points.x])]
    height = 0.8 / len(points.lines)
    means = scale * points.table["mean"]
    published = [paper[key] for key in paper]
    start = _CHANCE if points.metric == "image_AUROC" and min([*means, *published]) > _CHANCE else 0.0
    labelled = False
    for index, line in enumerate(points.lines):
        own = points.table[points.table["line"] == line]
        rows = np.array([places.index(str(value)) for value in own[points.x]]) - 0.4 + (index + 0.5) * height
        mean, spread = scale * own["mean"].to_numpy(float), scale * own["std"].fillna(0).to_numpy(float)
        axes.barh(rows, mean - start, height * 0.9, start, color=looks[line].color, label=line or None)
        axes.hlines(rows, mean - spread, mean + spread, color=TEXT, linewidth=1.4)
        for row, value, middle, end in zip(rows, own[points.x], mean, mean + spread, strict=True):
            axes.annotate(f" {middle:.1f}", (end, row), va="center", fontsize=9)
            if (line, str(value)) in paper:
                name = None if labelled else "paper"
                axes.plot(paper[line, str(value)], row, "D", color=TEXT, markersize=5, label=name, zorder=3)
                labelled = True
    axes.set_yticks(range(len(places)), places)
    axes.set_ylim(len(places) - 0.5, -0.5)
    highest = max([*means, *published])
    axes.set(xlabel=metric_name(points.metric) + ("; bars begin at chance" if start else ""), xlim=(start, None))
    axes.set_xlim(start, start + 1.12 * (highest - start))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    names = [*filter(None, points.lines), *(["paper"] if labelled else [])]
    if len(names) > 1 or labelled:
        add_legend(canvas, names)
