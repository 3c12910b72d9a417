"""Exact nearest neighbours by Euclidean distance, in bounded memory.

Two steps: a matrix product ranks the bank block by block and keeps a few candidates more than asked for; then the
distances of the candidates are computed from differences. The product alone cancels digits where the distance is
small against the norms, which is where normal images lie, and its last digits depend on the batch.
"""

import torch
from torch import Tensor

__all__ = ["mean_and_norms", "nearest", "refine"]

_BLOCK = 16384  # bank rows at once: (B, 16384) ranks instead of (B, N)
_MARGIN = 8  # candidates beyond k, against rounding in the ranking


def mean_and_norms(bank: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)`` of the bank and squared norms ``(N,)`` of its rows minus the mean."""
    mean = bank.mean(dim=0, dtype=torch.float64).to(bank.dtype)
    norms = torch.cat([(block - mean).square().sum(dim=1) for block in bank.split(_BLOCK)])
    return mean, norms


def nearest(
    queries: Tensor,
    bank: Tensor,
    mean: Tensor,
    norms: Tensor,
    num_neighbors: int,
    *,
    exclude: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Squared distances and positions of the nearest rows.

    Shapes: queries ``(B, D)``, bank ``(N, D)``, mean ``(D,)``, norms ``(N,)`` from ``mean_and_norms``; results
    ``(B, k)``, ascending, k at most N.

    Args:
        queries: Rows to search for.
        bank: Rows to search in.
        mean: Mean of the bank.
        norms: Squared norms of the bank minus its mean.
        num_neighbors: k.
        exclude: Position ``(B,)`` in the bank that each query must not find: itself, when the bank is searched for
            its own rows. By position, because duplicates are neighbours like others.
    """
    candidates = _rank(queries, bank, mean, norms, count=num_neighbors + _MARGIN, exclude=exclude)
    return refine(queries, bank, candidates, num_neighbors)


def refine(queries: Tensor, bank: Tensor, candidates: Tensor, num_neighbors: int) -> tuple[Tensor, Tensor]:
    """Exact squared distances of candidates ``(B, c)``, the nearest ``num_neighbors`` of them, ascending."""
    squared = (queries[:, None] - bank[candidates]).square().sum(dim=2)  # (B, c, D) -> (B, c)
    values, order = squared.topk(min(num_neighbors, candidates.shape[1]), dim=1, largest=False)
    return values, candidates.gather(1, order)


def _rank(queries: Tensor, bank: Tensor, mean: Tensor, norms: Tensor, *, count: int, exclude: Tensor | None) -> Tensor:
    centred = queries - mean
    shift = centred @ mean  # (q - m)(b - m) = (q - m) b - (q - m) m: no centred copy of the bank is needed
    best: tuple[Tensor, Tensor] | None = None
    available = len(bank) - (exclude is not None)
    for start in range(0, len(bank), _BLOCK):
        block = bank[start : start + _BLOCK]
        ranks = norms[start : start + _BLOCK] - 2 * (centred @ block.T - shift[:, None])  # (B, rows)
        if exclude is not None:
            rows = torch.nonzero((exclude >= start) & (exclude < start + len(block)))[:, 0]
            ranks[rows, exclude[rows] - start] = torch.inf
        values, positions = ranks.topk(min(count, len(block)), dim=1, largest=False)
        if best is not None:
            values = torch.cat([best[0], values], dim=1)
            positions = torch.cat([best[1], positions + start], dim=1)
            values, order = values.topk(min(count, values.shape[1]), dim=1, largest=False)
            positions = positions.gather(1, order)
        best = values, positions
    if best is None:
        raise RuntimeError("the bank is empty; fit the scorer first.")
    return best[1][:, : min(count, available)]
