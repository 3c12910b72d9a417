"""One page about a test or predict run: the extreme images, the score distribution and the ROC curve."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import auc, roc_curve

from panda_anomalib.data.reading import read_image

__all__ = ["ANOMALOUS_COLOR", "NORMAL_COLOR", "Thumbnails", "draw_overview"]

# Vermilion and blue of Okabe and Ito (2008): told apart with every kind of colour vision, and in grey print.
ANOMALOUS_COLOR = "#D55E00"
NORMAL_COLOR = "#0072B2"
_COLUMNS = 8


class Thumbnails:
    """Reads images as small RGB pictures and keeps the last ones, because a few training images are neighbours of many.

    Args:
        size: Largest width and height in pixels; smaller images keep their size.
        capacity: Number of pictures kept, at most ``3 * size ** 2`` bytes each.
    """

    def __init__(self, size: int, *, capacity: int) -> None:
        self._size = size
        self.get = lru_cache(capacity)(self._read)

    def _read(self, path: str) -> Image.Image | str:
        """Return the picture, or what is wrong with the file in a few words."""
        try:
            pixels = read_image(path)
        except FileNotFoundError:
            return "moved or deleted"
        except ValueError:
            return "cannot be read"
        # numpy, not torch: its operations start threads of their own beside those of the caller.
        pixels_hwc = pixels.numpy().transpose(1, 2, 0)
        picture = Image.fromarray((pixels_hwc * 255 + 0.5).astype(np.uint8))
        picture.thumbnail((self._size, self._size), Image.Resampling.LANCZOS, reducing_gap=3.0)
        return picture


def draw_overview(rows: pd.DataFrame, title: str, readers: Callable[..., Thumbnails] = Thumbnails) -> Figure:
    """Draw the contact sheet of the most and least anomalous images, the histogram of scores and the ROC curve.

    Args:
        rows: Table of ``PredictionTable.frame``, at least one row; images are read again from ``path``.
        title: First line of the page.
        readers: Makes what reads the pictures, from a size and a capacity.

    Returns:
        Figure without pyplot state; save it with ``savefig``.
    """
    figure = Figure(figsize=(15, 10), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    figure.suptitle(title, fontsize=16, fontweight="bold")
    parts: Any = figure.subfigures(3, 1, height_ratios=[1, 1, 1.7])
    most, least, charts = parts
    ordered = rows.sort_values("distance", ascending=False, kind="stable")
    labelled = bool(rows["label"].notna().any())
    frame = " (true label: orange frame anomalous, blue frame normal)" if labelled else ""
    thumbnails = readers(256, capacity=2 * _COLUMNS)
    _draw_strip(most, ordered.head(_COLUMNS), f"Most anomalous{frame}", thumbnails)
    _draw_strip(least, ordered.tail(_COLUMNS), "Least anomalous", thumbnails)
    histogram, curve = charts.subplots(1, 2, width_ratios=[1.6, 1])
    _draw_histogram(histogram, rows)
    _draw_roc(curve, rows)
    return figure


def _draw_strip(figure: Any, rows: pd.DataFrame, title: str, thumbnails: Thumbnails) -> None:
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    axes = figure.subplots(1, _COLUMNS)
    for cell in axes:
        cell.set_axis_off()
    for cell, row in zip(axes, rows.to_dict("records"), strict=False):
        cell.set_axis_on()
        cell.set(xticks=[], yticks=[])
        picture, name = thumbnails.get(row["path"]), Path(row["path"])
        if isinstance(picture, str):
            cell.set(facecolor="0.9", box_aspect=1)
            cell.text(0.5, 0.5, picture, ha="center", va="center", transform=cell.transAxes)
        else:
            cell.imshow(picture)
        color = "0.6" if pd.isna(row["label"]) else _color(row["label"])
        for spine in cell.spines.values():
            spine.set(color=color, linewidth=1 if pd.isna(row["label"]) else 4)
        caption = "/".join(name.parts[-2:])
        caption = caption if len(caption) <= 24 else f"…{caption[-23:]}"
        cell.set_xlabel(f"{row['score']:.3f}\n{caption}", fontsize=8, parse_math=False)


def _color(label: int) -> str:
    return ANOMALOUS_COLOR if label else NORMAL_COLOR


def _draw_histogram(axes: Axes, rows: pd.DataFrame) -> None:
    scores = rows["score"].to_numpy()
    edges = np.histogram_bin_edges(np.append(scores[np.isfinite(scores)], 0.5), bins=40)
    groups = {"normal": rows["label"] == 0, "anomalous": rows["label"] == 1, "label unknown": rows["label"].isna()}
    colors = {"normal": NORMAL_COLOR, "anomalous": ANOMALOUS_COLOR, "label unknown": "0.45"}
    for name, chosen in groups.items():
        part = scores[chosen.fillna(value=False).to_numpy(bool)]
        if len(part):
            axes.hist(part, edges.tolist(), color=colors[name], alpha=0.65, label=f"{name} ({len(part)})")
    axes.axvline(0.5, color="black", linestyle="--", linewidth=1.5, label="threshold 0.5")
    axes.set(title="Scores", xlabel="score", ylabel="images")
    axes.legend()


def _draw_roc(axes: Axes, rows: pd.DataFrame) -> None:
    known = rows[rows["label"].notna()]
    labels: NDArray[np.int8] = known["label"].to_numpy(np.int8)
    missing = [name for value, name in enumerate(("normal", "anomalous")) if not (labels == value).any()]
    if missing:
        axes.set_axis_off()
        reason = "the labels are not known" if known.empty else f"the test set has no {missing[0]} image"
        axes.text(0.5, 0.5, f"No ROC curve: {reason}.", ha="center", va="center", fontsize=12)
        return
    distances = known["distance"].to_numpy(np.float64)
    false_alarms, found, _ = roc_curve(labels, distances, drop_intermediate=False)
    axes.plot(false_alarms, found, color="black", label=f"AUROC {auc(false_alarms, found):.4f}")
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", label="chance")
    if known["predicted_label"].notna().all():
        flagged = known["predicted_label"].to_numpy(bool)
        point = flagged[labels == 0].mean(), flagged[labels == 1].mean()
        axes.plot(
            *point, "o", color=ANOMALOUS_COLOR, label=f"threshold: {point[0]:.1%} false alarms, {point[1]:.1%} found"
        )
    axes.set(title="ROC", xlabel="false alarms / normal images", ylabel="found / anomalous images", box_aspect=1)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
