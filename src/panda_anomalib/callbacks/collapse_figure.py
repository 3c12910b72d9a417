"""The curves of PANDA's Fig. 1: what adaptation does to normal and anomalous images, minibatch by minibatch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

__all__ = ["draw_collapse"]


@dataclass(frozen=True)
class _Curve:
    label: str
    color: str
    style: str
    marker: str


# Colours of Okabe and Ito (2008), told apart with every kind of colour vision; styles and markers also in grey print.
_GROUPS = {
    "train": _Curve("normal, training", "#000000", "-", "o"),
    "val_normal": _Curve("normal, validation", "#56B4E9", "--", "s"),
    "test_normal": _Curve("normal, test", "#0072B2", "-.", "D"),
    "test_anomalous": _Curve("anomalous, test", "#D55E00", "-", "^"),
}
_AUROC = _Curve("AUROC (right axis)", "#B0357B", "-", "D")
_KEPT = {
    "variance_kept": _Curve("variance", "#E69F00", "-", "s"),
    "effective_rank_kept": _Curve("effective rank", "#009E73", "--", "o"),
    "neighbors_kept": _Curve("nearest neighbours", "#000000", "-.", "^"),
}
_MARKED = 25  # with more measurements markers run into each other


def draw_collapse(rows: Sequence[Mapping[str, float]], *, warned_at: int | None = None) -> Figure:
    """Draw distances to the centre, the same by the typical distance, and what is left of the features.

    Args:
        rows: Measurements of ``CollapseMonitor.history``, at least one, in order; values that a row lacks or that are
            not finite leave a gap.
        warned_at: Minibatch at which the monitor warned, drawn as a vertical line.

    Returns:
        Figure without pyplot state; save it with ``savefig``.
    """
    figure = Figure(figsize=(16, 5.2), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    panels: Any = figure.subplots(1, 3)
    distances, ratios, left = panels
    for group, curve in _GROUPS.items():
        _plot(distances, rows, f"{group}_distance", curve)
        _plot(ratios, rows, f"{group}_ratio", curve)
    distances.set(title="Distance to the centre", ylabel="mean squared distance / D (embedding units², log scale)")
    ratios.set(title="Distance / typical distance", ylabel="squared distance / $s_t$ (no unit, log scale)")
    for panel in (distances, ratios):
        panel.set_yscale("log", nonpositive="mask")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panel.yaxis.set_minor_locator(NullLocator())
    _draw_left(left, rows)
    # not left to matplotlib: it leaves out the minibatches of gaps, where a collapse may end
    first, last = rows[0]["minibatch"], rows[-1]["minibatch"]
    margin = 0.03 * max(last - first, 1)
    for panel in panels:
        panel.set(xlabel="minibatches", xlim=(first - margin, last + margin))
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        panel.grid(color="0.9")
        if warned_at is not None:
            panel.axvline(warned_at, color="0.5", linestyle=":", linewidth=1.5, zorder=1)
            panel.annotate(
                f"warning at {warned_at}",
                (warned_at, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-3, -3),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="top",
                fontsize=8,
                color="0.35",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
            )
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    return figure


def _draw_left(axes: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    for name, curve in _KEPT.items():
        _plot(axes, rows, name, curve)
    axes.set(title="What is left of the features", ylabel="share of the value at the start (normal, training)")
    axes.set_ylim(0, 1.05 * max(axes.get_ylim()[1], 1))
    if not any(math.isfinite(row.get("test_auroc", math.nan)) for row in rows):
        return
    # an axis of its own: a gain of a point, which is much, would be a flat line among shares
    right = axes.twinx()
    _plot(right, rows, "test_auroc", _AUROC, linewidth=2.5)
    low, high = right.get_ylim()
    right.set_ylim(min(low, high - 0.05), high)
    right.set_ylabel("AUROC of test images", color=_AUROC.color, fontweight="bold")
    right.tick_params(axis="y", colors=_AUROC.color)
    right.yaxis.set_major_formatter(FormatStrFormatter("%.2f"))
    axes.plot([], [], color=_AUROC.color, linewidth=2.5, label=_AUROC.label)  # one legend for both axes


def _plot(axes: Axes, rows: Sequence[Mapping[str, float]], name: str, curve: _Curve, *, linewidth: float = 1.5) -> None:
    values = [row.get(name, math.nan) for row in rows]
    if not any(math.isfinite(value) for value in values):
        return
    axes.plot(
        [row["minibatch"] for row in rows],
        values,
        color=curve.color,
        linestyle=curve.style,
        marker=curve.marker if len(rows) <= _MARKED else None,
        markersize=4,
        linewidth=linewidth,
        label=curve.label,
    )
