"""What embeddings of normal images tell about collapse, without a single label.

PANDA (arXiv:2010.05903, Sec. 3) calls it collapse when adaptation maps all images, anomalous ones too, to one point,
and more generally when the features lose what they could tell apart. Embeddings ``(N, D)`` may lie on any device and
be of any float type; everything is computed in float64 on the CPU, because a collapsed set differs in its last digits.
"""

import numpy as np
import torch
from torch import Tensor

from panda_anomalib.scorers.search import mean_and_norms, nearest

__all__ = [
    "center_distance",
    "effective_rank",
    "held_out_ratio",
    "knn_distances",
    "neighbor_preservation",
    "split_held_out",
    "total_variance",
    "typical_distance",
]

_QUERY_BLOCK = 256  # candidates of a block are held as differences: (256, k + margin, D)


def center_distance(embeddings: Tensor, center: Tensor) -> float:
    """Mean squared distance of embeddings to ``center`` ``(D,)``, divided by D: the compactness loss (METHODS S8).

    Raises:
        ValueError: If the shapes do not fit, there is no row, or values are not finite.
    """
    rows = _checked(embeddings, "embeddings", minimum=1)
    if center.shape != rows.shape[1:]:
        raise ValueError(f"center must have shape {tuple(rows.shape[1:])}, got {tuple(center.shape)}.")
    return float((rows - center.detach().cpu().double()).square().mean())


def total_variance(embeddings: Tensor) -> float:
    """Trace of the covariance (divisor N - 1); its ratio to that at the start is the share of variance kept.

    Raises:
        ValueError: If there are fewer than two rows, or values are not finite.
    """
    return float(_checked(embeddings, "embeddings").var(dim=0).sum())


def effective_rank(embeddings: Tensor) -> float:
    """Number of directions in which embeddings spread, weighted by how much: at least 1, at most min(N - 1, D).

    Exponential of the entropy of the covariance's eigenvalues divided by their sum (Roy & Vetterli, "The effective
    rank", EUSIPCO 2007, of the covariance matrix, whose singular values they are). Rows and columns may be rotated or
    scaled by one factor without changing it. 0 where all rows are equal.

    Raises:
        ValueError: If there are fewer than two rows, or values are not finite.
    """
    rows = _checked(embeddings, "embeddings")
    centred = rows - rows.mean(dim=0)
    # the smaller of the two products with the same non-zero eigenvalues
    product = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    eigenvalues = torch.linalg.eigvalsh(product).clamp(min=0)
    total = eigenvalues.sum()
    # below rounding of the mean the eigenvalues are noise, whose rank is high
    if total <= rows.square().sum() * torch.finfo(rows.dtype).eps:
        return 0.0
    return float(torch.special.entr(eigenvalues / total).sum().exp())


def knn_distances(queries: Tensor, bank: Tensor, num_neighbors: int = 2, *, same: bool = False) -> Tensor:
    """Mean squared distances ``(B,)`` float64 of queries to their nearest rows of the bank (METHODS S2).

    Args:
        queries: ``(B, D)``.
        bank: ``(N, D)``.
        num_neighbors: k; cut to the rows there are.
        same: Queries are the bank itself, and no row finds itself.

    Raises:
        ValueError: If the shapes do not fit, there are too few rows, or values are not finite.
    """
    return _neighbors(queries, bank, num_neighbors, same=same)[0].mean(dim=1)


def split_held_out(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Positions of a tenth of ``count`` images, at least one, and of the other nine tenths; both ascending.

    Raises:
        ValueError: If there are fewer than two images.
    """
    if count < 2:
        raise ValueError(f"count must be at least 2, got {count}; add normal images.")
    order = np.random.default_rng(seed).permutation(count)
    held = max(1, round(count / 10))
    return torch.from_numpy(np.sort(order[:held])), torch.from_numpy(np.sort(order[held:]))


def typical_distance(embeddings: Tensor, num_neighbors: int = 2, *, seed: int = 0) -> float:
    """PANDA's s_t: mean kNN distance of a tenth of the normal images to the other nine tenths (App. D; METHODS S9).

    Squared distances, mean over the k neighbours, not divided by D: what ``KNNScorer`` gives by default.

    Raises:
        ValueError: If there are fewer than two rows, or values are not finite.
    """
    held, rest = split_held_out(len(embeddings), seed=seed)
    rows = _checked(embeddings, "embeddings")
    return float(knn_distances(rows[held], rows[rest], num_neighbors).mean())


def neighbor_preservation(before: Tensor, after: Tensor, num_neighbors: int = 10) -> float:
    """Share in [0, 1] of each image's nearest neighbours before that are among its nearest after, self left out.

    Scale does not matter. Embeddings without relation give k / (N - 1) on average.

    Args:
        before: ``(N, D)``.
        after: ``(N, E)`` of the same images in the same order.
        num_neighbors: k; cut to N - 1.

    Raises:
        ValueError: If the numbers of rows differ, there are fewer than two rows, or values are not finite.
    """
    if len(before) != len(after):
        raise ValueError(
            f"after must hold the {len(before)} images of before, got {len(after)}; embed the same images."
        )
    found = [_neighbors(rows, rows, num_neighbors, same=True)[1] for rows in (before, after)]
    return float((found[0][:, :, None] == found[1][:, None, :]).any(dim=2).double().mean())


def held_out_ratio(train: Tensor, held_out: Tensor, num_neighbors: int = 2) -> float:
    """How much farther held-out normal images lie from the training images than these from each other.

    Mean kNN distance of ``held_out`` ``(M, D)`` to ``train`` ``(N, D)``, divided by that of the training images to
    the other training images. 1 without adaptation, when both are drawn alike; it grows as the network fits the
    images it sees and not others. NaN where all training images have the same embedding.

    Raises:
        ValueError: If the shapes do not fit, there are too few rows, or values are not finite.
    """
    within = float(knn_distances(train, train, num_neighbors, same=True).mean())
    return float(knn_distances(held_out, train, num_neighbors).mean()) / within if within else float("nan")


def _neighbors(queries: Tensor, bank: Tensor, num_neighbors: int, *, same: bool) -> tuple[Tensor, Tensor]:
    queries, bank = _checked(queries, "queries", minimum=1), _checked(bank, "bank", minimum=1 + same)
    if queries.shape[1] != bank.shape[1]:
        raise ValueError(f"queries must have {bank.shape[1]} columns like the bank, got {queries.shape[1]}.")
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}.")
    mean, norms = mean_and_norms(bank)
    k = min(num_neighbors, len(bank) - same)
    found = [
        nearest(queries[own], bank, mean, norms, k, exclude=own if same else None)
        for own in torch.arange(len(queries)).split(_QUERY_BLOCK)
    ]
    return torch.cat([squared for squared, _ in found]), torch.cat([positions for _, positions in found])


def _checked(embeddings: Tensor, name: str, *, minimum: int = 2) -> Tensor:
    """Rows as float64 on the CPU, after the checks that every number needs."""
    if embeddings.ndim != 2 or len(embeddings) < minimum:
        raise ValueError(
            f"{name} must be (N, D) with at least {minimum} rows, got shape {tuple(embeddings.shape)}; add images."
        )
    rows = embeddings.detach().cpu().double()
    if not torch.isfinite(rows).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity; check the learning rate and the precision.")
    return rows
