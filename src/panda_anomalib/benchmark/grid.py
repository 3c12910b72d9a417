"""From lists of values in a configuration to every combination of them."""

import itertools
from collections.abc import Iterator
from typing import Any

__all__ = ["ALL", "expand_grid"]

ALL = {"grid": "all"}
"""Stands for every class of a data set, which only the data set knows."""


def expand_grid(value: Any) -> Iterator[Any]:
    """Every combination of the ``grid`` lists in a configuration; the first list changes slowest.

    Unlike anomalib's, only a key that *is* ``grid`` counts (not ``grid_size``), and grids may stand inside grids.
    ``{"grid": "all"}`` is left as it is.

    Raises:
        ValueError: If a ``grid`` is not a list, is empty, or has keys beside it.
    """
    if not isinstance(value, dict) or value == ALL:
        yield value
    elif "grid" in value:
        if len(value) > 1 or not isinstance(value["grid"], list) or not value["grid"]:
            raise ValueError(f"grid must be a list of values and stand alone in its section, got {value}.")
        for choice in value["grid"]:
            yield from expand_grid(choice)
    else:
        for combination in itertools.product(*(list(expand_grid(part)) for part in value.values())):
            yield dict(zip(value, combination, strict=True))
