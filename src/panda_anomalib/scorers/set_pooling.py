"""One embedding for a set of images, from the embeddings of its images (DN2, arXiv:2002.10445, Sec. 4.5)."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["SetPoolingName", "set_embeddings"]

SetPoolingName = Literal["mean", "max", "concatenation", "covariance_trace"]


def set_embeddings(embeddings: Tensor | Sequence[Tensor], pooling: SetPoolingName) -> Tensor:
    """Embed sets of images.

    Args:
        embeddings: ``(S, M, D)`` of S sets of M images, or one ``(M, D)`` for each set, where sizes differ.
        pooling: ``mean`` and ``max`` over the images, which do not know their order; ``concatenation`` in their order,
            for sets of one size; ``covariance_trace``, the total variance of the images, with M - 1 in the denominator
            so that sets of all sizes can be compared. The last is a score itself: the larger, the more the images
            differ from each other.

    Returns:
        ``(S, D)``; ``(S, M * D)`` of ``concatenation``, ``(S, 1)`` of ``covariance_trace``.

    Raises:
        ValueError: If the pooling is unknown, a set is too small for it, or sizes differ where they must not.
    """
    if pooling not in get_args(SetPoolingName):
        raise ValueError(f"pooling must be one of {', '.join(get_args(SetPoolingName))}, got {pooling!r}.")
    sets = list(embeddings)
    if not sets:
        raise ValueError("embeddings must be of at least one set, got none.")
    sizes = sorted({len(rows) for rows in sets})
    least = 2 if pooling == "covariance_trace" else 1
    if sizes[0] < least:
        raise ValueError(f"sets must have at least {least} images for {pooling}, got one of {sizes[0]}.")
    if pooling == "concatenation" and len(sizes) > 1:
        raise ValueError(
            f"sets must be of one size for concatenation, got sizes from {sizes[0]} to {sizes[-1]}; take mean."
        )
    return torch.stack([_pool(rows, pooling) for rows in sets])


def _pool(rows: Tensor, pooling: SetPoolingName) -> Tensor:
    if pooling == "mean":
        return rows.mean(dim=0)
    if pooling == "max":
        return rows.amax(dim=0)
    if pooling == "concatenation":
        return rows.flatten()
    # differences from the mean, not of two large sums, which cancel digits where images are alike
    return (rows - rows.mean(dim=0)).square().sum()[None] / (len(rows) - 1)
