"""A single number that is its own score."""

from torch import Tensor
from typing_extensions import override

from panda_anomalib.scorers.base import Scorer

__all__ = ["ValueScorer"]


class ValueScorer(Scorer):
    """The value of one-dimensional embeddings: nothing is compared, and normal ones only set the threshold.

    Shapes: embeddings ``(B, 1)``, at least 0; distances ``(B,)``.
    """

    @override
    def _check(self, embeddings: Tensor) -> None:
        super()._check(embeddings)
        if embeddings.shape[1] != 1:
            raise ValueError(f"embeddings must be of one dimension to be scores, got {embeddings.shape[1]}.")

    @override
    def _fit(self, embeddings: Tensor) -> None:
        """Nothing is learnt."""

    @override
    def _calibrate(self, embeddings: Tensor) -> Tensor:
        return embeddings[:, 0].clone()

    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        self._require_fitted()
        return embeddings[:, 0].float()
