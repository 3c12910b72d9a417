"""Image files with the same bytes."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from panda_anomalib.progress import track

__all__ = ["first_with_same_bytes"]


def first_with_same_bytes(paths: Sequence[str | os.PathLike[str]]) -> list[int]:
    """Position of the first file that has the same bytes, for each file; its own where there is none before it.

    Files of a size that no other has are not read.

    Args:
        paths: Files; one path may come twice.

    Raises:
        FileNotFoundError: If a file does not exist.
    """
    sizes = [Path(path).stat().st_size for path in paths]
    count = Counter(sizes)
    first: dict[tuple[int, bytes], int] = {}
    files = track(list(zip(paths, sizes, strict=True)), "Looking for copies", after=2)
    return [
        first.setdefault((size, _digest(path)), position) if count[size] > 1 else position
        for position, (path, size) in enumerate(files)
    ]


def _digest(path: str | os.PathLike[str]) -> bytes:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
