"""What a checkpoint keeps of the images in the memory bank, so that they can be changed without training again."""

import logging
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from panda_anomalib.backbones.weight_files import file_sha256
from panda_anomalib.models.cleaning import Removal
from panda_anomalib.models.conditions import Conditions
from panda_anomalib.progress import track

__all__ = ["FORMAT", "BankRecord", "RemovedImages", "exact_copies", "file_digests", "normal_digests"]

logger = logging.getLogger(__name__)

FORMAT = 2
"""Raised when an older version could no longer make sense of what is written: 2 has images removed by cleaning."""


@dataclass
class RemovedImages:
    """Images that cleaning has left out of the memory bank, the most unusual first.

    Attributes:
        removal: Their positions among all training images, why they were removed, and the nearest ones kept.
        paths: Absolute paths.
        nearest: Paths of the nearest images that are kept.
        digests: SHA-256 of each file; empty where it could not be read.
        distances: ``(R,)``, to the fitted scorer, which has not seen them.
        calibrating: Whether the threshold comes from an image.
        embeddings: ``(R, D)`` or ``(R, S, D)``, on the CPU; None where they were not to be kept.
    """

    removal: Removal
    paths: list[str]
    nearest: list[str]
    digests: list[str]
    distances: Tensor
    calibrating: list[bool]
    embeddings: Tensor | None

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain data, as checkpoints may hold them."""
        own = {name: getattr(self, name) for name in ("paths", "nearest", "digests", "distances", "calibrating")}
        return {**own, "embeddings": self.embeddings, "removal": self.removal.to_plain()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "RemovedImages":
        """What ``to_plain`` has made."""
        tensors = {name: None if plain[name] is None else plain[name].cpu() for name in ("distances", "embeddings")}
        return cls(**{**plain, **tensors, "removal": Removal.from_plain(plain["removal"])})


@dataclass
class BankRecord:
    """Of each image, in the order of ``training_paths``, what its file was and what the scorer saw of it.

    Attributes:
        embeddings: ``(N, D)``, or ``(N, S, D)`` of S snapshots, on the CPU; None where the scorer holds them bit for
            bit itself, or they were not to be kept.
        digests: SHA-256 of each file, 64 hexadecimal digits; empty where it could not be read.
        calibrated: Positions of the images that the threshold comes from; None for all.
        conditions: Under which the embeddings were computed.
        removed: Images that cleaning has left out; None where nothing was removed.
    """

    embeddings: Tensor | None
    digests: list[str]
    calibrated: list[int] | None = None
    conditions: Conditions = field(default_factory=dict)
    removed: RemovedImages | None = None

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain data, as checkpoints may hold them."""
        return {
            "format": 1 if self.removed is None else 2,
            "embeddings": self.embeddings,
            "digests": self.digests,
            "calibrated": self.calibrated,
            "conditions": self.conditions,
            **({} if self.removed is None else {"removed": self.removed.to_plain()}),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any] | None) -> "BankRecord | None":
        """Record of a checkpoint; None of one that has none, or one that a later version has written."""
        if plain is None:
            return None
        if plain["format"] > FORMAT:
            logger.warning(
                "The memory bank was written by a later version of panda_anomalib (format %d, known is %d): it scores, "
                "but cannot be changed by this one.",
                *(plain["format"], FORMAT),
            )
            return None
        embeddings = plain["embeddings"]
        return cls(
            embeddings=None if embeddings is None else embeddings.cpu(),
            digests=list(plain["digests"]),
            calibrated=plain["calibrated"],
            conditions=dict(plain["conditions"]),
            removed=RemovedImages.from_plain(plain["removed"]) if plain.get("removed") else None,
        )


def file_digests(paths: Sequence[str], description: str | None = None) -> list[str]:
    """SHA-256 of each file as hexadecimal digits, computed in threads; empty for one that cannot be read.

    Args:
        paths: Files.
        description: What the progress bar says; none is shown without it.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(_digest, paths)
        return list(digests if description is None else track(digests, description, total=len(paths)))


def normal_digests(paths: Sequence[str]) -> list[str]:
    """As ``file_digests``, of the normal images of a fit; exact copies among them are counted in a warning."""
    digests = file_digests(paths, "Hashes of the normal images")
    if copies := exact_copies(digests):
        logger.warning(
            "%d of %d normal images are exact copies of others, such as %s: their distance to each other is 0, which "
            "makes the threshold too low. Remove them.",
            *(len(copies), len(paths), paths[copies[0]]),
        )
    return digests


def exact_copies(digests: Sequence[str], known: Collection[str] = ()) -> list[int]:
    """Positions of the files whose content is known or that of an earlier one; what is not known is no copy."""
    seen = {"", *known}
    copies = []
    for position, digest in enumerate(digests):
        if digest and digest in seen:
            copies.append(position)
        seen.add(digest)
    return copies


def _digest(path: str) -> str:
    try:
        return file_sha256(Path(path))
    except OSError:
        return ""
