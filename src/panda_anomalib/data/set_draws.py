"""Sets of images drawn from classes: the two tasks of DN2, Sec. 4.5."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["DrawnSets", "draw_one_class", "draw_one_of_each"]


class DrawnSets(NamedTuple):
    """Normal and anomalous sets of images, each in an order that was drawn."""

    normal: list[list[Path]]
    anomalous: list[list[Path]]


def draw_one_of_each(
    images: Mapping[str, Sequence[Path]], num_normal: int, num_anomalous: int, rng: np.random.Generator
) -> DrawnSets:
    """Normal: one image of each of M classes. Anomalous: M images of classes drawn at random among the same.

    Anomalous draws in which each class happens to be there once are drawn again: they would be normal ones.

    Args:
        images: Images by class, at least two classes.
        num_normal: Number of normal sets.
        num_anomalous: Number of anomalous sets.
        rng: Draws.
    """
    names = list(images)
    count = len(names)

    def draw(classes: Sequence[int]) -> list[Path]:
        picked = {number: rng.permutation(len(images[names[number]]))[:count].tolist() for number in sorted({*classes})}
        return [images[names[number]][picked[number].pop()] for number in classes]

    normal = [draw(rng.permutation(count).tolist()) for _ in range(num_normal)]
    anomalous = []
    for _ in range(num_anomalous):
        classes = rng.integers(count, size=count)
        while len(set(classes.tolist())) == count:
            classes = rng.integers(count, size=count)
        anomalous.append(draw(classes.tolist()))
    return DrawnSets(normal, anomalous)


def draw_one_class(
    images: Mapping[str, Sequence[Path]],
    sizes: tuple[int, int],
    num_normal: int,
    num_anomalous: int,
    rng: np.random.Generator,
) -> DrawnSets:
    """Normal: images of one class, whichever. Anomalous: images of different classes, at least two.

    Args:
        images: Images by class, at least two classes.
        sizes: Fewest and most images in a set, all numbers between being equally likely.
        num_normal: Number of normal sets.
        num_anomalous: Number of anomalous sets.
        rng: Draws.
    """
    names = list(images)
    everything = [(number, path) for number, name in enumerate(names) for path in images[name]]

    def draw_size() -> int:
        return int(rng.integers(sizes[0], sizes[1] + 1))

    normal = []
    for _ in range(num_normal):
        own = images[names[int(rng.integers(len(names)))]]
        normal.append([own[position] for position in rng.permutation(len(own))[: draw_size()].tolist()])
    anomalous = []
    for _ in range(num_anomalous):
        size = draw_size()
        drawn = [everything[position] for position in rng.choice(len(everything), size, replace=False).tolist()]
        while len({number for number, _ in drawn}) == 1:
            drawn = [everything[position] for position in rng.choice(len(everything), size, replace=False).tolist()]
        anomalous.append([path for _, path in drawn])
    return DrawnSets(normal, anomalous)
