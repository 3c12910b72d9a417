"""Pairs of images in a memory bank that are nearly the same to the network."""

import torch
from torch import Tensor

from panda_anomalib.progress import track
from panda_anomalib.scorers.search import mean_and_norms, nearest

__all__ = ["near_copies"]

_SHARE_OF_SPACING = 0.25  # as of outliers, see `panda_anomalib.adaptation.near_duplicates`
_SEARCH_BLOCK = 512


def near_copies(embeddings: Tensor) -> list[tuple[int, int]]:
    """Positions of pairs within a quarter of the typical spacing, the median distance to the nearest other image.

    Shapes: embeddings ``(N, ...)``; fewer than three have no spacing.
    """
    rows = embeddings.flatten(1)
    if len(rows) < 3:
        return []
    mean, norms = mean_and_norms(rows)
    lengths, positions = [], []
    for own in track(torch.arange(len(rows)).split(_SEARCH_BLOCK), "Near copies"):
        squared, found = nearest(rows[own], rows, mean, norms, 1, exclude=own)
        lengths.append(squared[:, 0].sqrt())
        positions.append(found[:, 0])
    distances, others = torch.cat(lengths), torch.cat(positions)
    near = (distances < _SHARE_OF_SPACING * distances.median()).nonzero()[:, 0].tolist()
    return sorted({(min(number, int(others[number])), max(number, int(others[number]))) for number in near})
