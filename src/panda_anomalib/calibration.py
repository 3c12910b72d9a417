"""Distance -> threshold, bounded score, p-value; all from normal images alone.

anomalib's post-processor needs anomalous images for its threshold, clamps scores to [0, 1], which makes ties, and
compares with 0.5 whatever the threshold is when normalisation is off. This one takes the distances of normal images
that a scorer had not seen, and maps distances to scores strictly monotonically: AUROC of the scores is AUROC of the
distances.
"""

import logging
import math
from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from lightning.pytorch import Callback, LightningModule, Trainer
from scipy.stats import beta
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["Calibration", "conformal_p_values", "conformal_threshold", "fewest_images", "realised_rates"]

logger = logging.getLogger(__name__)


def conformal_threshold(distances: Tensor, false_positive_rate: float) -> Tensor:
    """Split-conformal threshold: the ``ceil((M + 1)(1 - rate))``-th smallest of M normal distances.

    For normal images exchangeable with those, the expected share above it is at most ``false_positive_rate``. With
    fewer than ``1 / rate - 1`` distances no finite threshold has that guarantee; the largest distance is returned,
    whose expected share is ``1 / (M + 1)``.

    Shapes: distances ``(M,)``, result 0-d.
    """
    return distances.sort().values[_rank(len(distances), false_positive_rate) - 1]


def realised_rates(count: int, false_positive_rate: float) -> tuple[float, float, float]:
    """False-alarm rate of a threshold from ``count`` distances: its mean, and the limits it keeps 9 times in 10.

    The share of new normal images above the r-th smallest of M exchangeable distances has the distribution
    ``Beta(M + 1 - r, r)`` over the draws of those M (Vovk 2012, arXiv:1209.2673).

    Returns:
        Mean, 5 % and 95 % quantile, each in (0, 1).
    """
    rank = _rank(count, false_positive_rate)
    low, high = beta.ppf([0.05, 0.95], count + 1 - rank, rank)
    return (count + 1 - rank) / (count + 1), float(low), float(high)


def _rank(count: int, false_positive_rate: float) -> int:
    # round: (M + 1)(1 - rate) is a whole number more often than floats say
    rank = math.ceil(round((count + 1) * (1 - false_positive_rate), 9))
    return min(max(rank, 1), count)


def _checked(false_positive_rate: float) -> float:
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate must be between 0 and 1, got {false_positive_rate}; 0.05 is usual.")
    return false_positive_rate


def fewest_images(false_positive_rate: float) -> int:
    """Fewest normal images whose threshold keeps this rate: with M images the smallest p-value is 1 / (M + 1)."""
    return math.ceil(round(1 / false_positive_rate, 9)) - 1


def conformal_p_values(distances: Tensor, calibration: Tensor) -> Tensor:
    """Share of normal images at least as distant, ``(1 + #{calibration >= d}) / (M + 1)``, in (0, 1].

    Shapes: distances ``(B,)``, calibration ``(M,)`` in ascending order, result ``(B,)``.
    """
    below = torch.searchsorted(calibration, distances.contiguous(), right=False)
    return (1 + len(calibration) - below).to(torch.float32) / (len(calibration) + 1)


class Calibration(nn.Module, Callback):
    """Post-processor: ``score = d / (d + t)``, label ``d > t``, p-value.

    The score lies in [0, 1) and is 0.5 at the threshold t, as anomalib's convention asks. Logits, which may be
    negative, go through the logistic function centred at the threshold instead.

    Shapes: distances ``(B,)``, at least 0; logits ``(B,)``.

    Args:
        false_positive_rate: Share of normal images that may be called anomalous, in (0, 1).
        logits: Whether the distances are logits.

    Raises:
        ValueError: If the rate is not between 0 and 1.
    """

    threshold: Tensor
    """Distance t, 0-d; NaN before ``fit``."""
    distances: Tensor
    """Calibration distances (M,) of normal images, ascending."""

    def __init__(self, false_positive_rate: float = 0.05, *, logits: bool = False) -> None:
        super().__init__()
        self.false_positive_rate = _checked(false_positive_rate)
        self.logits = logits
        self.register_buffer("threshold", torch.tensor(torch.nan))
        self.register_buffer("distances", torch.empty(0))

    @property
    def num_calibration(self) -> int:
        """Number of normal images behind the threshold."""
        return len(self.distances)

    def fit(self, distances: Tensor) -> None:
        """Set the threshold from distances ``(M,)`` of normal images to a scorer that had not seen them.

        Raises:
            ValueError: If there are none, or one is not finite.
        """
        if len(distances) == 0 or not torch.isfinite(distances).all():
            raise ValueError(f"distances must be finite and at least one, got {distances.tolist()[:5]} ...")
        self.distances = distances.detach().float().sort().values
        threshold = conformal_threshold(self.distances, self.false_positive_rate)
        if threshold <= 0 and not self.logits:
            logger.warning(
                "Most normal images are exact duplicates of others: the threshold would be 0, and is the smallest "
                "number above it. Whatever differs at all will be called anomalous; remove the duplicates."
            )
            threshold = threshold.new_tensor(torch.finfo(torch.float32).tiny)
        self.threshold = threshold
        if (count := self.num_calibration) < (fewest := fewest_images(self.false_positive_rate)):
            logger.warning(
                "false_positive_rate=%s needs at least %d normal images, got %d: the threshold is their largest "
                "distance, good for a rate of about %.3f.",
                self.false_positive_rate,
                fewest,
                count,
                1 / (count + 1),
            )

    def move_threshold(self, false_positive_rate: float) -> None:
        """Set the threshold anew, for another rate, from the distances that are kept.

        Raises:
            ValueError: If the rate is not between 0 and 1, or ``fit`` was not called.
        """
        self.false_positive_rate = _checked(false_positive_rate)
        self.fit(self.distances)

    @override
    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Score and label from distances, as exported models compute them (``InferenceBatch`` has no p-value)."""
        distances = predictions.pred_score
        score = torch.sigmoid(distances - self.threshold) if self.logits else distances / (distances + self.threshold)
        return InferenceBatch(pred_score=score, pred_label=distances > self.threshold)

    def post_process_batch(self, batch: Batch) -> None:
        """Set ``pred_score``, ``pred_label`` and ``p_value`` of a batch that has ``distance``."""
        if torch.isnan(self.threshold):
            raise RuntimeError("the threshold is not set; train the model, or give the checkpoint of a trained one.")
        result = self(InferenceBatch(pred_score=batch.distance))
        batch.pred_score, batch.pred_label = result.pred_score, result.pred_label
        batch.p_value = conformal_p_values(batch.distance, self.distances)

    @override
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.post_process_batch(outputs)

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.post_process_batch(outputs)

    @override
    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.post_process_batch(outputs)

    def checkpoint_config(self) -> dict[str, Any]:
        """Settings that anomalib keeps in the checkpoint."""
        return {"false_positive_rate": self.false_positive_rate}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Take the settings back from a checkpoint."""
        self.false_positive_rate = config["false_positive_rate"]

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if (distances := state_dict.get(f"{prefix}distances")) is not None:
            self.distances = torch.empty_like(distances, device=self.distances.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
