"""Cleaning of an impure training set: its most unusual images are left out (DN2, arXiv:2002.10445, Sec. 4.4)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from panda_anomalib.scorers import KNNScorer
from panda_anomalib.scorers.search import mean_and_norms, nearest

__all__ = ["Removal", "check_cleaning", "find_removal"]

_NUM_NEIGHBORS = 2  # the paper's k


@dataclass(frozen=True)
class Removal:
    """Which of N training images are left out of the memory bank, the most unusual first.

    Attributes:
        positions: ``(R,)``, among the N images.
        distances: ``(R,)``; of each to the others of the N.
        nearest: ``(R,)``, positions of the nearest images that are kept.
    """

    positions: Tensor
    distances: Tensor
    nearest: Tensor

    def kept(self, count: int) -> Tensor:
        """Positions of the other images of ``count``, ascending."""
        left = torch.ones(count, dtype=torch.bool)
        left[self.positions] = False
        return left.nonzero()[:, 0]

    def to_plain(self) -> dict[str, Tensor]:
        """Tensors, as checkpoints may hold them."""
        return {"positions": self.positions, "distances": self.distances, "nearest": self.nearest}

    @classmethod
    def from_plain(cls, plain: dict[str, Any] | None) -> "Removal | None":
        """What ``to_plain`` has made; None of None."""
        return None if plain is None else cls(**{name: value.cpu() for name, value in plain.items()})


def check_cleaning(cleaning: float) -> float:
    """Refuse what is no share of a training set.

    Raises:
        ValueError: If it is not in [0, 1).
    """
    if not 0 <= cleaning < 1:
        raise ValueError(f"cleaning must be from 0 to below 1, got {cleaning}; 0.1 removes one image in ten.")
    return cleaning


def find_removal(embeddings: Tensor, cleaning: float) -> Removal | None:
    """Choose the share of images whose mean squared distance to their 2 nearest others is largest.

    Of images at one distance the earlier ones are chosen. One pass: a removed image still was a neighbour of others.

    Args:
        embeddings: ``(N, D)`` of all training images, as a scorer takes them.
        cleaning: Share of them to remove, in [0, 1), rounded to whole images.

    Returns:
        None where it is less than half an image.

    Raises:
        ValueError: If fewer than two images would be left.
    """
    count = len(embeddings)
    number = round(cleaning * count)
    if number == 0:
        return None
    if count - number < 2:
        raise ValueError(
            f"cleaning must leave at least 2 of the {count} training images, got {cleaning}, which leaves "
            f"{count - number}; lower it or add images."
        )
    scorer = KNNScorer(min(_NUM_NEIGHBORS, count - 1))
    scorer.fit(embeddings)
    distances, order = scorer.calibration_distances().sort(descending=True, stable=True)
    removed = order[:number]
    left = torch.ones(count, dtype=torch.bool, device=removed.device)
    left[removed] = False
    kept = left.nonzero()[:, 0]
    bank = scorer.memory_bank[kept]
    found = nearest(scorer.memory_bank[removed], bank, *mean_and_norms(bank), 1)[1][:, 0]
    return Removal(removed.cpu(), distances[:number].cpu(), kept[found].cpu())
