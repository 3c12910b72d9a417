"""A metric over a number: a line for each method, a band for the spread over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from panda_anomalib.benchmark.figures.points import Points
from panda_anomalib.benchmark.figures.words import axis_name, is_share, metric_name
from panda_anomalib.benchmark.report.figures.style import TEXT, Look, add_legend, looks_of

__all__ = ["PaperCurve", "draw_curve"]

PaperCurve = Mapping[float | None, float]
"""Percent by x; the only key None for a value that is the same everywhere."""

_MOST_TICKS = 12
_DECADES = 30  # of the largest x to the smallest from which on the axis is logarithmic
_NEAR = 1.25  # ratio of two ticks of a logarithmic axis whose labels would run into each other


def draw_curve(canvas: Figure, points: Points, paper: Mapping[str, PaperCurve]) -> None:
    """Draw on an empty figure; a line without x, as of a method without that setting, is level.

    Args:
        canvas: The figure.
        points: What is drawn.
        paper: Name -> published values; dashed, in the colour of the line that is called so, else grey.
    """
    axes: Axes = canvas.subplots()
    looks = looks_of(points.lines)
    scale = 100 if is_share(points.metric) else 1
    values = sorted(points.table[points.x].dropna().astype(float).unique())
    _set_axis(axes, values)
    names = []
    for line in points.lines:
        own = points.table[points.table["line"] == line]
        own = own.assign(mean=scale * own["mean"], std=scale * own["std"].fillna(0))
        shown = line or metric_name(points.metric).removesuffix(" in percent")
        if len(level := own[own[points.x].isna()]):
            names.append(f"{shown}, no {axis_name(points.x)}")
            _draw_level(axes, level, looks[line], names[-1])
        if len(sloping := own[own[points.x].notna()]):
            names.append(shown)
            _draw_line(axes, sloping, points.x, looks[line], shown)
    for name, curve in paper.items():
        color = looks[name].color if name in looks else TEXT
        names.append(_draw_paper(axes, name, curve, color))
    axes.set(xlabel=axis_name(points.x), ylabel=metric_name(points.metric))
    axes.margins(y=0.08)
    if len(names) > 1:
        add_legend(canvas, names)


def _draw_line(axes: Axes, own: pd.DataFrame, x: str, look: Look, name: str) -> None:
    at, mean, spread = (own[column].to_numpy(float) for column in (x, "mean", "std"))
    axes.plot(at, mean, look.marker, linestyle=look.dash, color=look.color, markersize=5, linewidth=1.6, label=name)
    axes.fill_between(at, mean - spread, mean + spread, color=look.color, alpha=0.2, linewidth=0)


def _draw_level(axes: Axes, own: pd.DataFrame, look: Look, name: str) -> None:
    mean, spread = (float(own[column].iloc[0]) for column in ("mean", "std"))
    axes.axhline(mean, color=look.color, linewidth=1.6, label=name)
    axes.axhspan(mean - spread, mean + spread, color=look.color, alpha=0.15, linewidth=0)


def _draw_paper(axes: Axes, name: str, curve: PaperCurve, color: str) -> str:
    shown = f"paper: {name}"
    if None in curve:
        shown = f"{shown}, {curve[None]:g}"
        axes.axhline(curve[None], color=color, linewidth=1.2, linestyle=(0, (5, 3)), label=shown)
    else:
        at: Sequence[Any] = sorted(key for key in curve if key is not None)
        values = [curve[key] for key in at]
        axes.plot(at, values, color=color, linewidth=1.2, linestyle=(0, (5, 3)), marker="x", label=shown)
    return shown


def _set_axis(axes: Axes, values: Sequence[float]) -> None:
    logarithmic = values[0] > 0 and values[-1] >= _DECADES * values[0]
    if logarithmic:
        axes.set_xscale("log")
    if len(values) <= _MOST_TICKS:
        kept = values[-1:]
        for value in reversed(values[:-1]):
            distance = kept[0] / value / _NEAR > 1 if logarithmic else kept[0] - value > 0.04 * np.ptp(values)
            kept = [value, *kept] if distance else kept
        axes.xaxis.set_major_locator(FixedLocator(kept))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
