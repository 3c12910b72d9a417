"""Distance to the centre of the normal embeddings (PANDA Sec. 3 and 4.2.3)."""

import torch
from torch import Tensor
from typing_extensions import override

from panda_anomalib.scorers.base import Scorer

__all__ = ["CenterScorer"]


class CenterScorer(Scorer):
    """Squared Euclidean distance to the mean of the normal embeddings.

    Shapes: center ``(D,)``, embeddings ``(B, D)``, distances ``(B,)``.
    """

    center: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.empty(0))

    @override
    def _fit(self, embeddings: Tensor) -> None:
        self.center = embeddings.mean(dim=0, dtype=torch.float64).float()

    @override
    def _calibrate(self, embeddings: Tensor) -> Tensor:
        """Leave-one-out in closed form: without x the mean is (N c - x) / (N - 1)."""
        count = len(embeddings)
        return (embeddings - self.center).square().sum(dim=1) * (count / (count - 1)) ** 2

    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        if len(self.center) == 0:
            self._require_fitted()
        return (embeddings.float() - self.center).square().sum(dim=1)
