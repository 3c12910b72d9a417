"""Which images a model gets most wrong."""

from dataclasses import dataclass

import numpy as np

from panda_anomalib.benchmark.report.scores import Scores

__all__ = ["Example", "Examples", "find_examples"]

_COUNT = 6


@dataclass(frozen=True)
class Example:
    """An image with its distance and the share of the other kind's images that it should lie beyond and does not."""

    path: str
    distance: float
    misranked: float


@dataclass(frozen=True)
class Examples:
    """Normal images with the largest distances, and anomalous ones with the smallest, worst first."""

    normal: list[Example]
    anomalous: list[Example]


def find_examples(scores: Scores) -> Examples:
    """Choose the images that cost the most AUROC."""
    normal, anomalous = (np.sort(scores.distances[scores.labels == kind]) for kind in (False, True))
    order = np.argsort(scores.distances, kind="stable")
    worst_normal = order[::-1][~scores.labels[order[::-1]]][:_COUNT]
    worst_anomalous = order[scores.labels[order]][:_COUNT]
    return Examples(
        [_example(scores, i, np.searchsorted(anomalous, scores.distances[i]) / len(anomalous)) for i in worst_normal],
        [
            _example(scores, i, 1 - np.searchsorted(normal, scores.distances[i], side="right") / len(normal))
            for i in worst_anomalous
        ],
    )


def _example(scores: Scores, position: int, misranked: float) -> Example:
    return Example(str(scores.paths[position]), float(scores.distances[position]), float(misranked))
