"""The critical-difference diagram of Demsar (2006), by scikit-posthocs."""

import importlib.util
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from panda_anomalib.benchmark.report.blocks import Figure
from panda_anomalib.benchmark.report.figures.style import TEXT, draw

__all__ = ["can_draw_critical_difference", "critical_difference"]


def can_draw_critical_difference() -> bool:
    """Whether the extra ``report`` is installed."""
    return importlib.util.find_spec("scikit_posthocs") is not None


def critical_difference(ranks: "pd.Series[float]", pairs: pd.DataFrame, name: str) -> Figure:
    """Models along their mean ranks; bars join those that could not be told apart.

    Args:
        ranks: Mean ranks by model, 1 is best.
        pairs: Adjusted p-values, models x models.
        name: Of the figure.

    Raises:
        ModuleNotFoundError: Without scikit-posthocs.
    """
    import scikit_posthocs

    line: dict[str, Any] = {"color": TEXT, "linewidth": 1.2}

    def paint(canvas: Canvas) -> None:
        axes: Axes = canvas.subplots()
        axes.grid(visible=False)
        scikit_posthocs.critical_difference_diagram(
            ranks,
            pairs,
            ax=axes,
            label_fmt_left="{label}  {rank:.2f} ",
            label_fmt_right=" {rank:.2f}  {label}",
            label_props={"fontsize": 10},
            elbow_props=line,
            marker_props={"s": 16},
            crossbar_props={"color": TEXT, "linewidth": 4, "marker": None},
        )
        axes.set_xlabel("mean rank (1 is best)")
        axes.xaxis.set_label_position("top")

    best = ranks.index[0]
    like_best = [str(model) for model in ranks.index if model != best and pairs.loc[model, best] >= 0.05]
    return Figure(
        name,
        draw(5.6, 1.1 + 0.26 * len(ranks), paint),
        alt=f"Critical-difference diagram of {len(ranks)} models: {best} has the best mean rank, {ranks.iloc[0]:.2f}; "
        + (f"not told apart from it: {', '.join(like_best)}." if like_best else "all others differ from it."),
        caption="Mean ranks over data sets. A thick bar joins models that could not be told apart.",
    )
