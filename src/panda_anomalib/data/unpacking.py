"""Images that lie inside other files, written once as files of their own.

Paths are what everything else works on: the order of the memory bank, the pictures of neighbours, the tables, and the
person who looks at an image. So a pickle or an idx file becomes a tree of PNG files, which is lossless, and nothing
else has to know of such files.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from panda_anomalib.progress import track

__all__ = ["write_images"]


def write_images(folder: Path, images: Iterable[tuple[str, NDArray[Any]]], *, description: str, total: int) -> None:
    """Write all images or none: the folder appears when the last one is in it. Does nothing where it is there already.

    Args:
        folder: Folder to make; what several processes make at once is the same, and one of them wins.
        images: Name inside the folder, ending in .png, and uint8 pixels ``(H, W)`` or ``(H, W, 3)`` of each image.
        description: What is done, for the progress.
        total: Number of images.

    Raises:
        RuntimeError: If the folder cannot be written.
    """
    if folder.is_dir():
        return
    unfinished = folder.with_name(f".{folder.name}-{uuid4().hex[:8]}")
    made: set[Path] = set()
    try:
        for name, pixels in track(images, description, total):
            target = unfinished / name
            if target.parent not in made:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(target.parent)
            target.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=1))
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    except OSError as error:
        raise RuntimeError(
            f"root must be a folder that images can be written to once, got '{folder.parent}' ({error}); make room or "
            "copy the files to another folder."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
