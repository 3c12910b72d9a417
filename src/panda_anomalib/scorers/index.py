"""Faster, approximate search in large memory banks: a faiss index as a cache that is rebuilt from the bank."""

import math
from typing import Any, Literal

import faiss
import torch
from torch import Tensor

__all__ = ["IndexName", "build_index", "search_index"]

IndexName = Literal["exact", "flat", "ivf", "hnsw"]

_PROBED_CELLS = 16
_LINKS = 32
_SEARCH_WIDTH = 128


def build_index(kind: IndexName, bank: Tensor) -> Any:
    """Build a faiss index over the bank ``(N, D)``.

    ``flat`` searches everything; ``ivf`` the 16 nearest of about 4 sqrt(N) cells; ``hnsw`` follows a neighbour graph
    (32 links, width 128). Deterministic: the same bank gives the same index.
    """
    rows = bank.detach().cpu().numpy()
    count, dim = rows.shape
    if kind == "flat":
        index: Any = faiss.IndexFlatL2(dim)
    elif kind == "ivf":
        cells = max(1, min(int(4 * math.sqrt(count)), count // 39))  # faiss wants 39 points for each cell
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, cells)
        index.nprobe = _PROBED_CELLS
        index.train(rows)
    else:
        index = faiss.IndexHNSWFlat(dim, _LINKS)
        index.hnsw.efSearch = _SEARCH_WIDTH
    index.add(rows)
    return index


def search_index(index: Any, queries: Tensor, count: int) -> Tensor:
    """Positions ``(B, count)`` of candidate neighbours; where fewer were found the last one is repeated."""
    _, found = index.search(queries.detach().cpu().numpy(), count)
    positions = torch.from_numpy(found).to(queries.device)
    first = positions[:, :1].clamp_min(0)
    return torch.where(positions < 0, first, positions)
