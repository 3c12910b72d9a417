"""DeLong's test of every pair of models on one test set."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from panda_anomalib.benchmark.report.scores import Scores
from panda_anomalib.benchmark.report.statistics import Comparison, auroc_covariance, compare, holm

__all__ = ["Pair", "Pairs", "compare_models"]

_LEVEL = 0.05
_FEW = 10


@dataclass(frozen=True)
class Pair:
    """Two models on the same images; ``adjusted`` is the p-value after Holm's correction for all pairs of the set."""

    first: str
    second: str
    comparison: Comparison
    adjusted: float


@dataclass(frozen=True)
class Pairs:
    """All pairs of models whose scores of the same images are there, and what to know about them in full sentences."""

    pairs: list[Pair]
    remarks: list[str]

    def between(self, first: str, second: str) -> Pair | None:
        """The comparison of two models, in whichever order it was made."""
        return next((pair for pair in self.pairs if {pair.first, pair.second} == {first, second}), None)

    def told_apart(self, first: str, second: str) -> bool | None:
        """Whether the models differ at the 5 % level; None if that was not or could not be tested."""
        pair = self.between(first, second)
        return None if pair is None or np.isnan(pair.adjusted) else pair.adjusted < _LEVEL


def compare_models(scores: dict[str, dict[int, Scores]]) -> Pairs:
    """Compare the mean AUROCs over seeds of all models that scored the same images.

    Where seeds have test images of their own (random splits), the images that most models scored are taken, of the
    first such seed: a test over several splits of one data set would count its images several times.

    Args:
        scores: Model -> seed -> scores.
    """
    same_images: dict[bytes, list[tuple[str, Scores]]] = defaultdict(list)
    for model, by_seed in scores.items():
        for found in by_seed.values():
            same_images[found.fingerprint].append((model, found))
    group = max(same_images.values(), key=lambda jobs: (len({model for model, _ in jobs}), len(jobs)), default=[])
    columns: dict[str, list[int]] = defaultdict(list)
    for column, (model, _) in enumerate(group):
        columns[model].append(column)
    if len(columns) < 2:
        return Pairs([], [])
    labels = group[0][1].labels
    counts = int((~labels).sum()), int(labels.sum())
    if min(counts) < 2:
        kinds = f"{counts[0]} normal and {counts[1]} anomalous"
        return Pairs([], [f"DeLong's test needs two images of each kind; this test set has {kinds}."])
    aurocs, covariance = auroc_covariance(np.stack([found.distances for _, found in group]), labels)
    named = list(combinations(columns, 2))
    compared = [compare(aurocs, covariance, columns[first], columns[second]) for first, second in named]
    adjusted = holm([comparison.p_value for comparison in compared])
    pairs = [Pair(*names, one, float(p)) for names, one, p in zip(named, compared, adjusted, strict=True)]
    return Pairs(pairs, _remarks(scores, list(columns), len(group), counts))


def _remarks(
    scores: dict[str, dict[int, Scores]], compared: list[str], num_jobs: int, counts: tuple[int, int]
) -> list[str]:
    remarks = []
    if left_out := [model for model in scores if model not in compared]:
        remarks.append(f"Not compared, because their test images were others: {', '.join(left_out)}.")
    total = sum(len(scores[model]) for model in compared)
    if num_jobs < total:
        remarks.append(
            "The seeds have different test images, so the test is of one seed's images and scores alone, and its "
            "differences are not those of the means over seeds."
        )
    if min(counts) < _FEW:
        remarks.append(
            f"With {counts[0]} normal and {counts[1]} anomalous images the p-values are rough: DeLong's variance is "
            "that of many images."
        )
    return remarks
