"""One look for all drawings, in colours that a page can replace by those of a dark scheme."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from matplotlib import rc_context
from matplotlib.figure import Figure

__all__ = [
    "LINE",
    "PAPER",
    "SERIES",
    "TEXT",
    "Look",
    "add_legend",
    "draw",
    "draw_png",
    "legend_rows",
    "looks_of",
    "recoloured",
]

TEXT, PAPER, LINE = "#1f2328", "#fffffe", "#c9d1d9"  # sentinels: nothing else in a drawing has these colours
SERIES = ("#0072b2", "#c4530a", "#007f5c", "#a8508a", "#8a6a00", "#5b5fc7", "#b3243b", "#4d6b78")
"""Colours of models: at least 4.5 to 1 on white; the page has a lighter one of each for dark paper."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", ":", "-.")
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's font
    "svg.hashsalt": "panda_anomalib",  # the same results give the same bytes
    "font.family": "sans-serif",
    "font.size": 11,
    "text.parse_math": False,  # a model may be named k=2_$x$
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), TEXT),
}


@dataclass(frozen=True)
class Look:
    """How a model is drawn everywhere: no two of a report have the same colour and marker."""

    color: str
    marker: str
    dash: str


def looks_of(models: Sequence[str]) -> dict[str, Look]:
    """A look for each model; colours repeat after eight, with another marker and dash."""
    count = len(SERIES)
    return {
        model: Look(SERIES[i % count], _MARKERS[(i + i // count) % len(_MARKERS)], _DASHES[i // count % len(_DASHES)])
        for i, model in enumerate(models)
    }


def draw(width: float, height: float, paint: Callable[[Figure], None]) -> str:
    """SVG of a figure.

    Args:
        width: In inches; 5.6 fill a text column.
        height: In inches.
        paint: Draws on the empty figure.
    """
    file = io.StringIO()
    no_date = {"Date": None, "Creator": None, "Format": None, "Type": None}
    _draw(width, height, paint, file, format="svg", metadata=no_date)
    svg = file.getvalue()
    return re.sub(r"font:([^;]*?) [^;]*sans-serif", r"font:\1 system-ui, sans-serif", svg[svg.index("<svg") :])


def draw_png(path: Path, width: float, height: float, paint: Callable[[Figure], None]) -> None:
    """The same as a file of pixels, 150 for an inch."""
    _draw(width, height, paint, path, format="png", dpi=150)


def _draw(width: float, height: float, paint: Callable[[Figure], None], target: Any, **options: Any) -> None:
    with rc_context(cast("Any", _SETTINGS)):  # matplotlib types its keys one by one
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        figure.savefig(target, **options)


def add_legend(canvas: Figure, models: Sequence[str]) -> None:
    """Names of the models below the drawing, in columns if they are short enough."""
    found: dict[str, Any] = {}
    for axes in canvas.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    shown = [(found[model], model) for model in models if model in found]
    canvas.legend(*zip(*shown, strict=True), loc="outside lower center", ncols=_legend_columns(models), fontsize=10)


def legend_rows(models: Sequence[str]) -> int:
    """Lines that the names of the models take below a drawing."""
    return math.ceil(len(models) / _legend_columns(models))


def _legend_columns(models: Sequence[str]) -> int:
    widest = max(len(model) for model in models)
    return min(len(models), 3 if widest <= 16 else 2 if widest <= 30 else 1)


def recoloured(svg: str, name: str) -> str:
    """The drawing as a part of a page: its colours are the page's variables, its ids begin with its name."""
    variables = {TEXT: "text", PAPER: "paper", LINE: "line"}
    variables |= {color: f"series-{i}" for i, color in enumerate(SERIES, start=1)}
    for color, variable in variables.items():
        svg = svg.replace(color, f"var(--{variable})")
    svg = re.sub(r'(?<= id=")(?=[^"]+")', f"{name}-", svg)
    svg = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", svg)
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
