"""Which images a command means, and which of them it must not take."""

import difflib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from panda_anomalib.data.reading import verify_images

__all__ = ["find_in_bank", "named", "refuse_unreadable"]

_NAMED = 5  # images in a message
_HASH = re.compile(r"[0-9a-f]{8,64}")


def find_in_bank(name: str, paths: Sequence[str], digests: Sequence[str]) -> list[int]:
    """Positions of the images that a path, a folder, or the first eight or more digits of a hash name.

    Raises:
        ValueError: If there are none, or a hash names files of different content.
    """
    path = os.path.abspath(name)  # noqa: PTH100 - keeps links, as the paths of the bank do
    found = [number for number, own in enumerate(paths) if own == path or own.startswith(f"{path}{os.sep}")]
    if not found and _HASH.fullmatch(name.lower()):
        found = [number for number, digest in enumerate(digests) if digest.startswith(name.lower())]
        if (count := len({digests[number] for number in found})) > 1:
            raise ValueError(f"hash must name one file, got {name!r}, with which those of {count} begin; give more.")
    if not found:
        near = [own for own in paths if Path(own).name == Path(name).name] or difflib.get_close_matches(path, paths)
        hint = f"did you mean {', '.join(map(repr, near[:3]))}?" if near else "`bank list` names them."
        raise ValueError(f"images must be in the bank, by path, folder or hash, got {name!r}; {hint}")
    return found


def refuse_unreadable(paths: Sequence[str]) -> None:
    """Decode all images, as cheaply as shows damage.

    Raises:
        ValueError: If one cannot be read; it names the first of them.
    """
    if damaged := verify_images(paths):
        reasons = named([f"'{path}': {reason}" for path, reason in damaged.items()])
        raise ValueError(
            f"images must be readable, got {len(damaged)} of {len(paths)} that are not ({reasons}); repair or remove "
            "them."
        )


def named(items: Collection[str]) -> str:
    """The first five of the items, and how many more there are."""
    more = f"; and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return "; ".join(list(items)[:_NAMED]) + more
