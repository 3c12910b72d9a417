"""Which files of a folder are images, and which folders are classes."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from panda_anomalib.commands import nearest_path

__all__ = ["IMAGE_EXTENSIONS", "collect_images", "find_classes", "find_images", "find_others", "is_image"]

IMAGE_EXTENSIONS = IMG_EXTENSIONS  # anomalib's list: its datamodules and ours see the same files


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether the name has an accepted extension and is not hidden (``._x.jpg`` of macOS archives is no image)."""
    path = Path(path)
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All images below a folder, through links, without hidden folders, sorted by their path inside it."""
    root = Path(folder)
    return sorted(filter(is_image, _files(root)), key=lambda path: path.relative_to(root).as_posix())


def find_others(folder: str | os.PathLike[str]) -> list[Path]:
    """The files below a folder that ``find_images`` passes over, but for hidden ones, sorted."""
    return sorted(path for path in _files(Path(folder)) if not is_image(path) and not path.name.startswith("."))


def collect_images(sources: Iterable[str | os.PathLike[str]], argument: str = "path") -> list[Path]:
    """All images that are named, or lie below folders that are, each once and sorted.

    Args:
        sources: Images and folders.
        argument: What the errors call them.

    Raises:
        FileNotFoundError: If a source does not exist.
        ValueError: If a file has no accepted extension, or no image is found.
    """
    places = [Path(source) for source in sources]
    found: set[Path] = set()
    for place in places:
        if place.is_dir():
            found.update(find_images(place))
        elif not place.exists():
            raise FileNotFoundError(
                f"{argument} must be an existing image or folder, got '{place}'{nearest_path(place)}"
            )
        elif is_image(place):
            found.add(place)
        else:
            raise ValueError(f"{argument} must name images ({' '.join(IMAGE_EXTENSIONS)}), got '{place}'; convert it.")
    if not found:
        named = ", ".join(f"'{place}'" for place in places) or "an empty list"
        raise ValueError(f"{argument} must hold images ({' '.join(IMAGE_EXTENSIONS)}), got none in {named}; add some.")
    return sorted(found)


def _files(root: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files)


def find_classes(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the class folders directly inside a folder, sorted, without hidden ones."""
    return sorted(path.name for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith("."))
