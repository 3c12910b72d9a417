"""Names that tell apart what a benchmark compares."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from anomalib.utils.config import flatten_dict

__all__ = ["distinct_labels"]

_ABSENT = "default"


def distinct_labels(names: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names, followed by the arguments in which things of one name differ.

    ``Dn2 knn`` and ``Dn2 whitening``, or ``Dn2 num_neighbors=2``: words speak for themselves, all else is named. What
    has no value of its own for an argument goes without.

    Args:
        names: What each is called.
        arguments: Of each; equal arguments of one name get one label.
    """
    flat = [{key: _shown(value) for key, value in flatten_dict(dict(one)).items()} for one in arguments]
    labels = list(names)
    for name in dict.fromkeys(names):
        own = [position for position, other in enumerate(names) if other == name]
        keys = dict.fromkeys(key for position in own for key in flat[position])
        varying = [key for key in keys if len({flat[position].get(key) for position in own}) > 1]
        different = len({tuple(flat[position].get(key) for key in varying) for position in own})
        for style in (_short, _full):
            for position in own:
                labels[position] = " ".join([name, *style(flat[position], varying)])
            if len({labels[position] for position in own}) == different:
                break
    return labels


def _short(arguments: Mapping[str, tuple[str, bool]], keys: Sequence[str]) -> list[str]:
    found = [(key.rpartition(".")[2], *arguments[key]) for key in keys if key in arguments]
    return [text if is_word else f"{key}={text}" for key, text, is_word in found]


def _full(arguments: Mapping[str, tuple[str, bool]], keys: Sequence[str]) -> list[str]:
    return [f"{key}={arguments.get(key, (_ABSENT, True))[0]}" for key in keys]


def _shown(value: Any) -> tuple[str, bool]:
    """Text of a value, and whether it is a word that needs no name; of a path its last part."""
    if isinstance(value, str) and value:
        return PurePath(value).name or value, True
    return str(value), False
