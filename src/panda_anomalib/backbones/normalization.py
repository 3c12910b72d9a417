"""Normalisation of embeddings between pooling and scorer."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["EmbeddingNormalization", "NormalizationName"]

NormalizationName = Literal["none", "l2", "power_l2"]


class EmbeddingNormalization(nn.Module):
    """Nothing, L2 normalisation, or a signed power followed by L2 normalisation.

    ``power_l2`` is ``sign(x) |x|^power`` and then unit length; power 0.5 is the Hellinger (root) normalisation. It
    damps the few channels that dominate Euclidean distances between pooled features. An embedding of several parts
    (average and maximum pooling) is normalised part by part and divided by the root of their number, so that it has
    unit length again.

    Shapes: embeddings ``(B, D)`` to ``(B, D)``.

    Args:
        kind: What to do; ``none`` is the papers' setting.
        power: Exponent of ``power_l2``, in (0, 1].
        num_parts: Number of equally long parts of an embedding.

    Raises:
        ValueError: If kind or power is not accepted.
    """

    def __init__(self, kind: NormalizationName = "power_l2", *, power: float = 0.5, num_parts: int = 1) -> None:
        super().__init__()
        if kind not in ("none", "l2", "power_l2"):
            raise ValueError(f"normalization must be none, l2 or power_l2, got {kind!r}.")
        if not 0 < power <= 1:
            raise ValueError(f"power must be above 0 and at most 1, got {power}; 0.5 is the root normalisation.")
        self.kind = kind
        self.power = power
        self.num_parts = num_parts

    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        if self.kind == "none":
            return embeddings
        parts = embeddings.unflatten(1, (self.num_parts, -1))  # (B, D) -> (B, P, D / P)
        if self.kind == "power_l2":
            # the square root is exact where pow is not, and every runtime has it
            magnitude = parts.abs().sqrt() if self.power == 0.5 else parts.abs().pow(self.power)
            parts = parts.sign() * magnitude
        return F.normalize(parts, dim=2).flatten(1) / self.num_parts**0.5

    @override
    def extra_repr(self) -> str:
        return self.kind if self.kind != "power_l2" else f"power_l2, power={self.power}"
