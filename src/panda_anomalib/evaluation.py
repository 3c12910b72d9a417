"""Image-level metrics on raw distances, and the default evaluator.

anomalib's AUROC and AUPR push raw distances through a sigmoid and give 0.0 for a test set with one class; these are
scikit-learn's on the distances as they are, and NaN with a reason in the log where they are undefined.
"""

import hashlib
import logging
from typing import Any

import numpy as np
import torch
from anomalib.metrics import AnomalibMetric, Evaluator
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

__all__ = [
    "AUPR",
    "AUROC",
    "FPR95",
    "F1Max",
    "F1Score",
    "FalseAlarmRate",
    "MissRate",
    "image_evaluator",
    "image_metrics",
]

logger = logging.getLogger(__name__)

Values = NDArray[np.float64]
Labels = NDArray[np.bool_]


class _ImageMetric(Metric):
    """Keeps one value and one label per image, and drops the copies that distributed samplers add."""

    full_state_update = False
    higher_is_better = True
    needs_normal = True
    needs_anomalous = True
    values: list[Tensor]
    labels: list[Tensor]
    keys: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("values", "labels", "keys"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @override
    def update(self, values: Tensor, labels: Tensor, paths: list[str]) -> None:
        """Add a batch: values ``(B,)``, labels ``(B,)``, and the paths that identify its images."""
        if not torch.isfinite(values).all():
            raise ValueError(f"values must be finite, got {values.tolist()}.")
        self.values.append(values.detach().double())
        self.labels.append(labels.detach().bool())
        digests = [hashlib.blake2b(str(path).encode(), digest_size=8).digest() for path in paths]
        keys = [int.from_bytes(digest, "little", signed=True) for digest in digests]
        self.keys.append(torch.tensor(keys, device=values.device))

    @override
    def compute(self) -> Tensor:
        """Value in [0, 1], or NaN where the images of a class that it needs are missing."""
        values, labels, keys = (_joined(state).cpu().numpy() for state in (self.values, self.labels, self.keys))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            first = np.sort(np.unique(keys, return_index=True)[1])
            values, labels = values[first], labels[first]
        missing = [
            name
            for name, needed, present in (
                ("normal", self.needs_normal, (~labels).any()),
                ("anomalous", self.needs_anomalous, labels.any()),
            )
            if needed and not present
        ]
        if missing:
            logger.warning("%s is undefined: no %s image.", type(self).__name__, " and no ".join(missing))
            return torch.tensor(torch.nan, dtype=torch.float64)
        return torch.tensor(float(self.score(values, labels)), dtype=torch.float64)

    @staticmethod
    def score(values: Values, labels: Labels) -> float:
        """Metric of values and labels of all images, with the classes present that it needs."""
        raise NotImplementedError


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    if isinstance(state, Tensor):  # reduced over processes already
        return state
    return torch.cat(state) if state else torch.empty(0)


class AUROC(AnomalibMetric, _ImageMetric):
    """Area under the ROC curve: the chance that an anomalous image is more distant than a normal one."""

    @staticmethod
    def score(values: Values, labels: Labels) -> float:
        """See the class."""
        return float(metrics.roc_auc_score(labels, values))


class AUPR(AnomalibMetric, _ImageMetric):
    """Area under the precision-recall curve, as average precision."""

    @staticmethod
    def score(values: Values, labels: Labels) -> float:
        """See the class."""
        return float(metrics.average_precision_score(labels, values))


class FPR95(AnomalibMetric, _ImageMetric):
    """Share of normal images flagged by the highest threshold that flags at least 95 % of the anomalous ones."""

    higher_is_better = False

    @staticmethod
    def score(values: Values, labels: Labels) -> float:
        """See the class."""
        false_rate, true_rate, _ = metrics.roc_curve(labels, values, drop_intermediate=False)
        return float(false_rate[np.argmax(true_rate >= 0.95)])


class F1Max(AnomalibMetric, _ImageMetric):
    """Largest F1 over all thresholds: chosen on the test labels, so an upper bound and no result."""

    @staticmethod
    def score(values: Values, labels: Labels) -> float:
        """See the class."""
        precision, recall, _ = metrics.precision_recall_curve(labels, values)
        return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


class F1Score(AnomalibMetric, _ImageMetric):
    """F1 of the labels given at the threshold in use."""

    @staticmethod
    def score(values: Values, labels: Labels) -> float:
        """See the class."""
        return float(metrics.f1_score(labels, values > 0.5, zero_division=0.0))


class FalseAlarmRate(AnomalibMetric, _ImageMetric):
    """Share of normal images that the threshold in use calls anomalous."""

    higher_is_better = False
    needs_anomalous = False

    @staticmethod
    def score(values: Values, labels: Labels) -> float:
        """See the class."""
        return float(np.mean(values[~labels] > 0.5))


class MissRate(AnomalibMetric, _ImageMetric):
    """Share of anomalous images that the threshold in use calls normal."""

    higher_is_better = False
    needs_normal = False

    @staticmethod
    def score(values: Values, labels: Labels) -> float:
        """See the class."""
        return float(np.mean(values[labels] <= 0.5))


_RANKED: tuple[type[_ImageMetric], ...] = (AUROC, AUPR, F1Max, FPR95)
_LABELLED: tuple[type[_ImageMetric], ...] = (F1Score, FalseAlarmRate, MissRate)


def image_metrics(distances: Values, flagged: Labels, labels: Labels) -> dict[str, float]:
    """What ``image_evaluator`` computes, of all M images of a test set at once.

    Shapes: distances, flagged and labels ``(M,)``.

    Args:
        distances: Higher is more anomalous.
        flagged: Verdicts, True for anomalous.
        labels: The truth, True for anomalous.

    Returns:
        Values in [0, 1] by name; those are missing whose class of images is.
    """
    given = [(metric, distances) for metric in _RANKED] + [(metric, flagged.astype(np.float64)) for metric in _LABELLED]
    return {
        f"image_{metric.__name__}": float(metric.score(values, labels))
        for metric, values in given
        if (labels.any() or not metric.needs_anomalous) and (not labels.all() or not metric.needs_normal)
    }


def image_evaluator() -> Evaluator:
    """Evaluator with all metrics of this module, named ``image_<Class>``, for validation and test."""

    def build() -> list[AnomalibMetric]:
        ranked = [metric(fields=["distance", "gt_label", "image_path"], prefix="image_") for metric in _RANKED]
        # strict=False: a model used without post-processor has no labels
        labelled = [
            metric(fields=["pred_label", "gt_label", "image_path"], prefix="image_", strict=False)
            for metric in _LABELLED
        ]
        return [*ranked, *labelled]

    return Evaluator(val_metrics=build(), test_metrics=build())
