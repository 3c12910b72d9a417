"""How far an AUROC could move on another draw of the test images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_aurocs", "percentile_interval"]

Array = NDArray[np.float64]

_NUMBERS_AT_ONCE = 4_000_000  # some 100 MB, whatever the number of images


def bootstrap_aurocs(
    labels: NDArray[np.bool_],
    scorings: Sequence[tuple[NDArray[np.intp], Array]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Array:
    """AUROCs of resampled test images, all scorings on the same resamples.

    Normal and anomalous images are drawn separately, with replacement, as many as there are. A scoring may cover a part
    of the images only (the test images of one of several splits); it gets the drawn ones among them.

    Args:
        labels: ``(M,)`` of all images, True for anomalous.
        scorings: Positions ``(m,)`` among the M images and distances ``(m,)`` of each of K scorings.
        resamples: How often to draw.
        seed: Of the draws.

    Returns:
        ``(resamples, K)``; NaN where a scoring got no normal or no anomalous image.
    """
    rng = np.random.default_rng(seed)
    aurocs = np.empty((resamples, len(scorings)))
    orders = [np.argsort(distances, kind="stable") for _, distances in scorings]
    step = max(1, _NUMBERS_AT_ONCE // len(labels))
    for start in range(0, resamples, step):
        counts = _draw(labels, min(step, resamples - start), rng)
        for column, ((positions, distances), order) in enumerate(zip(scorings, orders, strict=True)):
            chosen = positions[order]
            aurocs[start : start + step, column] = _weighted(counts[:, chosen], labels[chosen], distances[order])
    return aurocs


def percentile_interval(values: Array, level: float = 0.95) -> tuple[float, float]:
    """Central share of the values ``(resamples,)``, those that are NaN left out."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _draw(labels: NDArray[np.bool_], resamples: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """How often each image was drawn, ``(resamples, M)``."""
    counts = np.zeros((resamples, len(labels)), dtype=np.int32)
    for kind in (False, True):
        images = np.flatnonzero(labels == kind)
        if not len(images):
            continue
        drawn = rng.integers(len(images), size=(resamples, len(images)))
        drawn += len(images) * np.arange(resamples)[:, None]
        counts[:, images] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return counts


def _weighted(counts: NDArray[np.int32], labels: NDArray[np.bool_], distances: Array) -> Array:
    """AUROC of images that count several times, ``(resamples,)``; all in ascending order of distance."""
    starts = np.flatnonzero(np.append(True, np.diff(distances) > 0))  # of groups of equal distances
    normal = np.add.reduceat(np.where(labels, 0, counts), starts, axis=1, dtype=np.int64)
    anomalous = np.add.reduceat(np.where(labels, counts, 0), starts, axis=1, dtype=np.int64)
    below = np.cumsum(normal, axis=1) - normal
    pairs = normal.sum(axis=1) * anomalous.sum(axis=1)
    won = (anomalous * (2 * below + normal)).sum(axis=1)
    return np.divide(won, 2 * pairs, out=np.full(len(counts), np.nan), where=pairs > 0)
