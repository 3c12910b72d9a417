"""The image files of a detection: which count, and what is to be said about them."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from panda_anomalib.data.copies import first_with_same_bytes
from panda_anomalib.data.files import collect_images, find_others
from panda_anomalib.data.reading import CorruptName, judge_damage, verify_images

__all__ = ["ImagePaths", "as_paths", "choose_images"]

logger = logging.getLogger(__name__)

ImagePaths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""An image, a folder of images (also in folders inside it), or several of these."""

_NAMED = 5


def as_paths(paths: ImagePaths) -> list[Path]:
    """One path or several, as a list."""
    return [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]


def choose_images(
    normal: list[Path] | None, images: list[Path], on_corrupt: CorruptName
) -> tuple[list[Path], list[Path]]:
    """Find the normal images and those to score, and say in the log what is odd about them.

    Files that are no images are passed over. Of normal images with the same bytes the first counts: a copy is its own
    nearest neighbour, and a threshold from such distances would be too strict.

    Args:
        normal: Folders of normal images, or images; None where a fitted model brings its own.
        images: Folders of images to score, or images.
        on_corrupt: "error" to refuse images that cannot be read, "skip" to leave them out.

    Returns:
        Paths of the normal images and of the images to score, sorted.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If there is no image, or one cannot be read.
    """
    found = [] if normal is None else _collect(normal, "normal")
    wanted = _collect(images, "images")
    everything = sorted({*found, *wanted})
    damage = verify_images(everything)
    judge_damage(damage, len(everything), on_corrupt)
    found = [path for path in found if path not in damage]
    wanted = [path for path in wanted if path not in damage]
    if not wanted or (normal is not None and not found):
        raise ValueError(f"{'normal' if wanted else 'images'} must hold images that can be read, got none; add some.")
    return _without_copies(found, wanted), wanted


def _collect(sources: list[Path], argument: str) -> list[Path]:
    found = collect_images(sources, argument)
    folders = [source for source in sources if source.is_dir()]
    inside = Counter(path.parent for path in found)
    if argument == "normal" and len(inside) > 1:
        logger.info("Normal images come from %d folders: %s.", len(inside), _listed(inside))
    others = [path for folder in folders for path in find_others(folder)]
    if others:
        kinds = Counter(path.suffix.lower() or "no extension" for path in others)
        logger.warning("%s: %d files are no images and do not count (%s).", argument, len(others), _listed(kinds))
    return found


def _without_copies(normal: Sequence[Path], images: Sequence[Path]) -> list[Path]:
    together = [*normal, *images]
    first = first_with_same_bytes(together)
    copies = [position for position in range(len(normal)) if first[position] != position]
    if copies:
        pairs = [f"'{together[position]}' = '{together[first[position]]}'" for position in copies[:_NAMED]]
        logger.warning(
            "%d of %d normal images are exact copies of others and do not count: %s.",
            len(copies),
            len(normal),
            ", ".join(pairs) + (", ..." if len(copies) > _NAMED else ""),
        )
    known = [position for position in range(len(normal), len(together)) if first[position] < len(normal)]
    if known:
        logger.warning(
            "%d of %d images are among the normal ones (such as '%s'): compared with themselves they look more normal "
            "than they are.",
            len(known),
            len(images),
            together[known[0]],
        )
    return [path for position, path in enumerate(normal) if first[position] == position]


def _listed(counts: Counter[Path] | Counter[str]) -> str:
    named = ", ".join(f"{name}: {count}" for name, count in counts.most_common(_NAMED))
    return named + (", ..." if len(counts) > _NAMED else "")
