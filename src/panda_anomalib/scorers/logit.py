"""Logit of a trained linear head (outlier exposure, PANDA Sec. 3)."""

import torch
from torch import Tensor
from typing_extensions import override

from panda_anomalib.scorers.base import Neighbors, Scorer
from panda_anomalib.scorers.knn import KNNScorer

__all__ = ["LogitScorer"]


class LogitScorer(Scorer):
    """``w . z + b`` of a head that was trained to tell outliers from normal images; higher is more anomalous.

    Unlike a distance it has no lower bound, and it knows nothing of the normal images it is fitted on: they serve to
    calibrate it, and as the neighbours shown beside an image.

    Shapes: embeddings ``(B, D)``, logits ``(B,)``.
    """

    gives_logits = True
    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.bank = KNNScorer()
        self.register_buffer("weight", torch.empty(0))
        self.register_buffer("bias", torch.zeros(1))

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Take over the head: weight ``(D,)``, bias ``(1,)``."""
        self.weight, self.bias = weight.detach().float().clone(), bias.detach().float().clone()

    @override
    def _fit(self, embeddings: Tensor) -> None:
        if len(self.weight) != embeddings.shape[1]:
            raise RuntimeError("the linear head is not trained; it comes from outlier exposure (PandaOe).")
        self.bank.fit(embeddings, calibrate=False)

    @override
    def fitted_embeddings(self) -> Tensor | None:
        return self.bank.fitted_embeddings()

    @override
    def _calibrate(self, embeddings: Tensor) -> Tensor:
        return self._logits(embeddings)

    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        self._require_fitted()
        return self._logits(embeddings)

    def _logits(self, embeddings: Tensor) -> Tensor:
        # row by row: one logit whatever the batch
        return (embeddings.float() * self.weight).sum(dim=1) + self.bias

    @override
    def neighbors(self, embeddings: Tensor, num_neighbors: int) -> Neighbors | None:
        return self.bank.neighbors(embeddings, num_neighbors)
