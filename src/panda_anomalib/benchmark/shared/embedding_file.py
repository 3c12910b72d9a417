"""Embeddings of images on disk, each computed once; a pass that was killed goes on where it stopped."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from panda_anomalib.atomic import write_atomically

__all__ = ["EmbeddingFile", "EmbeddingRows", "image_key", "path_of"]

Positions = NDArray[np.int64]


class EmbeddingRows(NamedTuple):
    """What a process needs to read embeddings that are there.

    Attributes:
        path: Float32 rows, one after the other.
        dim: Numbers in a row.
        seconds_per_image: What it took to make one.
        provenance: Where the weights came from.
    """

    path: Path
    dim: int
    seconds_per_image: float
    provenance: dict[str, str]

    def read(self, positions: Positions) -> Tensor:
        """Copy of rows ``(B, D)``."""
        mapped = np.memmap(self.path, dtype=np.float32, mode="r").reshape(-1, self.dim)
        return torch.from_numpy(np.ascontiguousarray(mapped[positions]))


class EmbeddingFile:
    """Rows of one kind of embeddings, by image.

    ``rows.f32`` holds the rows, ``images.txt`` a line for each. Both only grow, the rows first: whatever a killed
    process has left, the lines that are whole have their rows.

    Args:
        folder: Of this kind; made where it is not there.
        kind: What the embeddings depend on, see `panda_anomalib.benchmark.shared.kinds`.
    """

    def __init__(self, folder: Path, kind: dict[str, Any]) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._about: dict[str, Any] = {"kind": kind, "dim": 0, "images": 0, "seconds": 0.0, "provenance": {}}
        self.positions: dict[str, int] = {}
        """Row of each image by its key."""
        self._open()

    @property
    def rows(self) -> EmbeddingRows:
        """All that is there."""
        about = self._about
        seconds = float(about["seconds"] / max(1, about["images"]))
        return EmbeddingRows(self._rows, about["dim"], seconds, dict(about["provenance"]))

    def find(self, keys: Sequence[str]) -> Positions:
        """Rows ``(B,)`` of images, which must be there."""
        return np.array([self.positions[key] for key in keys], dtype=np.int64)

    def add(self, keys: Sequence[str], rows: Tensor, seconds: float, provenance: dict[str, str]) -> None:
        """Append rows ``(B, D)``.

        Args:
            keys: Of the images, see ``image_key``.
            rows: Their embeddings.
            seconds: That it took to compute them.
            provenance: Where the weights came from.

        Raises:
            OSError: If they cannot be written.
        """
        about = self._about
        about.update(
            dim=rows.shape[1], images=about["images"] + len(keys), seconds=about["seconds"] + seconds,
            provenance=provenance,
        )  # fmt: skip
        text = json.dumps(about, indent=1, default=str)
        write_atomically(self._folder / "about.json", lambda path: path.write_text(text, encoding="utf-8"))
        with self._rows.open("ab") as file:
            file.write(rows.float().cpu().contiguous().numpy().tobytes())
        with self._images.open("a", encoding="utf-8") as file:
            file.write("".join(f"{key}\n" for key in keys))
        for key in keys:
            self.positions[key] = len(self.positions)

    @property
    def _rows(self) -> Path:
        return self._folder / "rows.f32"

    @property
    def _images(self) -> Path:
        return self._folder / "images.txt"

    def _open(self) -> None:
        """Read what is there, and cut off what was not written to its end."""
        try:
            about = json.loads((self._folder / "about.json").read_text(encoding="utf-8"))
            lines = self._images.read_text(encoding="utf-8").splitlines(keepends=True)
        except (OSError, ValueError):  # nothing is there yet
            lines, about = [], self._about
        self._about = about
        width = 4 * about["dim"]
        whole = self._rows.stat().st_size // width if width and self._rows.is_file() else 0
        keys = [line[:-1] for line in lines if line.endswith("\n")][:whole]
        self.positions = {key: position for position, key in enumerate(keys)}
        if self._rows.is_file():
            os.truncate(self._rows, width * len(keys))
        if lines:
            text = "".join(f"{key}\n" for key in keys)
            write_atomically(self._images, lambda path: path.write_text(text, encoding="utf-8"))


def image_key(path: str) -> str:
    """Key of an image file: another one once its path, size or time of last change is another.

    Raises:
        OSError: If it is not there.
    """
    status = os.stat(path)  # noqa: PTH116 - tens of thousands of images
    return f"{status.st_size} {status.st_mtime_ns} {os.path.abspath(path)}"  # noqa: PTH100 - keeps links


def path_of(key: str) -> str:
    """Absolute path of the image that a key is of; one string for all jobs that name it."""
    return sys.intern(key.split(" ", 2)[2])
