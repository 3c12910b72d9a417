"""Backbone, normalisation and scorer as one exportable module."""

from collections.abc import Callable
from typing import Any

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from typing_extensions import override

from panda_anomalib.backbones import Backbone, EmbeddingNormalization, RuntimeName, make_runtime
from panda_anomalib.scorers import Scorer

__all__ = ["Detector"]


class Detector(nn.Module):
    """Image -> distance.

    Shapes: images ``(B, 3, H, W)``, pre-processed; embeddings ``(B, D)`` float32; distances ``(B,)``.

    Args:
        backbone: Image -> pooled embedding.
        normalization: Pooled embedding -> embedding.
        scorer: Embedding -> distance.
    """

    def __init__(self, backbone: Backbone, normalization: EmbeddingNormalization, scorer: Scorer) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalization = normalization
        self.scorer = scorer
        self.runtime: Callable[[Tensor], Tensor] | None = None
        """What executes the backbone instead of eager PyTorch; never part of an exported graph."""

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` float32."""
        run = self.backbone if self.runtime is None or torch.compiler.is_compiling() else self.runtime
        embeddings: Tensor = self.normalization(run(images).float())
        return embeddings

    def make_runtime(self, name: RuntimeName, batch_size: int | None = None) -> Callable[[Tensor], Tensor]:
        """Runtime ``images -> pooled embeddings``, to be set as ``runtime``; see ``runtimes.make_runtime``."""
        self.backbone.load_weights()  # now: a runtime that traces the network must not trace the reading of its weights
        return make_runtime(name, self.backbone, batch_size=batch_size)

    @override
    def forward(self, images: Tensor) -> InferenceBatch:
        return InferenceBatch(pred_score=self.scorer(self.embed(images)))

    def __getstate__(self) -> dict[str, Any]:
        """State without the runtime, which was made for this process."""
        return {**self.__dict__, "runtime": None}
