"""ROC curves, averaged over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from panda_anomalib.benchmark.report.scores import Scores

__all__ = ["Curve", "mean_curve"]

_GRID = np.linspace(0, 1, 201)


@dataclass(frozen=True)
class Curve:
    """ROC curve on a grid of G false-alarm rates.

    Attributes:
        false_alarms: ``(G,)``, ascending.
        found: ``(G,)``, share of anomalous images found at no more than that rate.
        point: False alarms and found images at the threshold in use; None if there is none.
    """

    false_alarms: NDArray[np.float64]
    found: NDArray[np.float64]
    point: tuple[float, float] | None


def mean_curve(scores: Sequence[Scores]) -> Curve:
    """Mean over seeds at each false-alarm rate: distances of different fits share no scale, so they are not pooled."""
    found = np.mean([_on_grid(one) for one in scores], axis=0)
    points = [_point(one) for one in scores if one.flagged is not None]
    point = None if len(points) < len(scores) else (np.mean(points, axis=0).tolist())
    return Curve(_GRID, found, None if point is None else (point[0], point[1]))


def _on_grid(scores: Scores) -> NDArray[np.float64]:
    false_alarms, found, _ = roc_curve(scores.labels, scores.distances, drop_intermediate=False)
    # The curve is a staircase: the last step at or before each rate. The margin is for rates that are grid points.
    return np.asarray(found[np.searchsorted(false_alarms, _GRID + 1e-12, side="right") - 1], dtype=np.float64)


def _point(scores: Scores) -> tuple[float, float]:
    if scores.flagged is None:
        raise ValueError("scores must have verdicts, got none.")
    return float(scores.flagged[~scores.labels].mean()), float(scores.flagged[scores.labels].mean())
