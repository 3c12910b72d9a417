"""Which files of a folder are images, and which folders are classes."""

import os
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

__all__ = ["IMAGE_EXTENSIONS", "find_classes", "find_images", "is_image"]

IMAGE_EXTENSIONS = IMG_EXTENSIONS  # anomalib's list: its datamodules and ours see the same files


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether the name has an accepted extension and is not hidden (``._x.jpg`` of macOS archives is no image)."""
    path = Path(path)
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All images below a folder, through links, without hidden folders, sorted by their path inside it."""
    root = Path(folder)
    images = []
    for parent, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images += [Path(parent, name) for name in files if is_image(name)]
    return sorted(images, key=lambda path: path.relative_to(root).as_posix())


def find_classes(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the class folders directly inside a folder, sorted, without hidden ones."""
    return sorted(path.name for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith("."))
