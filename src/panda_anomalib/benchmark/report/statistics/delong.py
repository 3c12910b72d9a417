"""Difference of AUROCs measured on the same images: DeLong, DeLong & Clarke-Pearson (1988).

In the form of Sun & Xu (2014, doi:10.1109/LSP.2014.2337313): midranks in place of all pairs of images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["Comparison", "auroc_covariance", "compare"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A difference of AUROCs with its 95 % interval, and the two-sided p-value of there being none."""

    difference: float
    low: float
    high: float
    p_value: float


def auroc_covariance(distances: Array, labels: NDArray[np.bool_]) -> tuple[Array, Array]:
    """AUROCs of K scorings of the same M images, and the covariance of their errors.

    Args:
        distances: ``(K, M)``, higher is more anomalous.
        labels: ``(M,)``, True for anomalous.

    Returns:
        AUROCs ``(K,)`` in [0, 1], ties counted half, and their covariance ``(K, K)``.

    Raises:
        ValueError: If there are not at least two images of each kind.
    """
    anomalous, normal = distances[:, labels], distances[:, ~labels]
    num_anomalous, num_normal = anomalous.shape[1], normal.shape[1]
    if min(num_anomalous, num_normal) < 2:
        raise ValueError(f"labels must have two images of each kind, got {num_normal} normal, {num_anomalous} others.")
    among_all = stats.rankdata(distances, axis=1)
    # Of each anomalous image the share of normal ones below it; of each normal image that of anomalous ones above it.
    below = (among_all[:, labels] - stats.rankdata(anomalous, axis=1)) / num_normal
    above = 1 - (among_all[:, ~labels] - stats.rankdata(normal, axis=1)) / num_anomalous
    covariance = np.atleast_2d(np.cov(below)) / num_anomalous + np.atleast_2d(np.cov(above)) / num_normal
    return below.mean(axis=1), covariance


def compare(aurocs: Array, covariance: Array, first: list[int], second: list[int]) -> Comparison:
    """Mean AUROC of the scorings ``first`` minus that of ``second`` (several seeds of two models, for instance).

    The certainty is that of the test images: another draw of them, the trained models as they are.

    Args:
        aurocs: ``(K,)``.
        covariance: ``(K, K)``, both of ``auroc_covariance``.
        first: Positions of the one model's scorings.
        second: Positions of the other's.

    Returns:
        The difference; without a variance (equal orders, or both perfect) p is 1 for none and undefined for any other.
    """
    contrast = np.zeros(len(aurocs))
    contrast[first] = 1 / len(first)
    contrast[second] -= 1 / len(second)
    difference = float(contrast @ aurocs)
    error = float(np.sqrt(max(float(contrast @ covariance @ contrast), 0.0)))
    if error < 1e-12:
        return Comparison(difference, difference, difference, 1.0 if abs(difference) < 1e-12 else float("nan"))
    margin = float(stats.norm.ppf(0.975)) * error
    p_value = float(2 * stats.norm.sf(abs(difference) / error))
    return Comparison(difference, difference - margin, difference + margin, p_value)
