"""ROC curves of the best models, a panel for each of a few classes."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from panda_anomalib.benchmark.report.blocks import Figure
from panda_anomalib.benchmark.report.class_results import ClassResult
from panda_anomalib.benchmark.report.curves import Curve
from panda_anomalib.benchmark.report.figures.style import LINE, PAPER, TEXT, Look, add_legend, draw, legend_rows
from panda_anomalib.benchmark.report.summary import DatasetResult

__all__ = ["roc_curves"]

_MOST_PANELS = 12


def roc_curves(result: DatasetResult, models: list[str], looks: dict[str, Look], name: str) -> Figure | None:
    """ROC curves, mean over seeds, with the threshold in use as a point; None if no distances were saved.

    Args:
        result: The data set.
        models: Those to show.
        looks: Of all models.
        name: Of the figure.
    """
    having = [one for one in result.classes if any(_curve(one, model) for model in models)]
    if not having:
        return None
    having.sort(key=lambda one: max(outcome.mean for outcome in one.outcomes.values()))
    panels = having[:_MOST_PANELS]
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    drawn = [model for model in models if any(_curve(one, model) for one in panels)]

    def paint(canvas: Canvas) -> None:
        grid = canvas.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, one in zip(grid, panels, strict=False):
            _draw_panel(axes, one, drawn, looks)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[max(len(panels) - columns, 0) : len(panels)]:
            axes.set_xlabel("false alarms, % of normal")
            axes.tick_params(labelbottom=True)  # of the panel above an empty place, too
        for axes in grid[::columns]:
            axes.set_ylabel("found, % of anomalous")
        add_legend(canvas, drawn)

    side = 2.6 if columns > 1 else 4.2
    left_out = len(having) - len(panels)
    return Figure(
        name,
        draw(5.6, rows * (side + 0.2) + 0.3 + 0.22 * legend_rows(drawn), paint),
        alt=f"ROC curves of {', '.join(drawn)} on {', '.join(one.category for one in panels)} of {result.dataset}; the "
        "tables give their areas.",
        caption="ROC curves, mean over seeds at each false-alarm rate. The marker is the threshold in use."
        + (f" The {len(panels)} hardest classes of {len(having)}." if left_out else ""),
    )


def _draw_panel(axes: Axes, one: ClassResult, models: list[str], looks: dict[str, Look]) -> None:
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
    for model in models:
        if not (curve := _curve(one, model)):
            continue
        look = looks[model]
        axes.plot(curve.false_alarms, curve.found, color=look.color, linestyle=look.dash, linewidth=1.6)
        if curve.point:
            point: dict[str, Any] = {
                "markersize": 7,
                "markeredgecolor": PAPER,
                "color": look.color,
                "zorder": 3,
                "clip_on": False,
            }
            axes.plot(*curve.point, look.marker, **point)
        axes.plot([], [], look.dash, marker=look.marker, color=look.color, linewidth=1.6, label=model)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set(title=one.category, xlim=(0, 1), ylim=(0, 1.01), box_aspect=1, xticks=ticks, yticks=ticks)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=None))
    axes.title.set_color(TEXT)


def _curve(one: ClassResult, model: str) -> Curve | None:
    return one.outcomes[model].curve if model in one.outcomes else None
