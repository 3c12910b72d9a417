"""Scorers: embedding -> distance. One contract (``base.Scorer``), one class a file."""

import inspect
from typing import Any, Literal, get_args

from panda_anomalib.scorers.base import Scorer
from panda_anomalib.scorers.center import CenterScorer
from panda_anomalib.scorers.kmeans import KMeansScorer
from panda_anomalib.scorers.knn import KNNScorer
from panda_anomalib.scorers.ocsvm import OCSVMScorer
from panda_anomalib.scorers.set_pooling import set_embeddings
from panda_anomalib.scorers.value import ValueScorer
from panda_anomalib.scorers.whitening import WhiteningScorer

__all__ = [
    "CenterScorer",
    "KMeansScorer",
    "KNNScorer",
    "OCSVMScorer",
    "Scorer",
    "ScorerName",
    "ValueScorer",
    "WhiteningScorer",
    "make_scorer",
    "set_embeddings",
]

ScorerName = Literal["knn", "kmeans", "center", "whitening", "ocsvm"]

_CLASSES: dict[str, type[Scorer]] = {
    "knn": KNNScorer,
    "kmeans": KMeansScorer,
    "center": CenterScorer,
    "whitening": WhiteningScorer,
    "ocsvm": OCSVMScorer,
}


def make_scorer(name: ScorerName, **arguments: Any) -> Scorer:
    """Build a scorer by name.

    Raises:
        ValueError: If the name is unknown, or the scorer has no such argument, or does not accept its value.
    """
    if name not in _CLASSES:
        raise ValueError(f"scorer must be one of {', '.join(get_args(ScorerName))}, got {name!r}.")
    accepted = list(inspect.signature(_CLASSES[name]).parameters)
    if unknown := sorted(set(arguments) - set(accepted)):
        raise ValueError(
            f"scorer {name!r} accepts {', '.join(accepted) or 'no arguments'}, got {', '.join(unknown)}; remove it."
        )
    return _CLASSES[name](**arguments)
