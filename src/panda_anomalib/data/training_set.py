"""Which images a training set takes: so many of the normal ones, and anomalous ones on purpose (DN2, Sec. 4.4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

__all__ = ["check_training_set", "draw_impurities", "draw_normal"]


def check_training_set(num_train: int | None, impurity: float, num_classes: int) -> None:
    """Refuse a training set that cannot be.

    Args:
        num_train: Normal training images to use; None for all.
        impurity: Share of the training images that are anomalous.
        num_classes: Number of normal classes.

    Raises:
        ValueError: If a value is out of range.
    """
    if num_train is not None and num_train < num_classes:
        needed = "at least 1" if num_classes == 1 else f"at least one for each of the {num_classes} normal classes"
        raise ValueError(f"num_train must be {needed}, got {num_train}; leave it out to use all.")
    if not 0 <= impurity < 1:
        raise ValueError(f"impurity must be from 0 to below 1, got {impurity}; one image in twenty is 0.05.")


def draw_normal(images: Mapping[str, Sequence[Path]], count: int, seed: int) -> dict[str, list[Path]]:
    """So many images, as evenly from the classes as they allow; fewer with the same seed are a part of more.

    Args:
        images: Normal training images by class.
        count: How many to take of all.
        seed: Of the draw.

    Raises:
        ValueError: If there are fewer.
    """
    if count > (available := sum(map(len, images.values()))):
        raise ValueError(
            f"num_train must be at most the number of normal training images, {available}, got {count}; lower it, or "
            "leave it out to use all."
        )
    ranked = [
        (rank, number, name, own[position])
        for number, (name, own) in enumerate(images.items())
        for rank, position in enumerate(_generator(seed, "normal").permutation(len(own)).tolist())
    ]
    taken = sorted(ranked)[:count]  # each class's first image, then each one's second
    return {name: sorted(path for _, _, own, path in taken if own == name) for name in images}


def draw_impurities(others: Sequence[Path], num_normal: int, impurity: float, seed: int) -> list[Path]:
    """Anomalous images for a training set of which they make up a share; a smaller share is a part of a larger one.

    Args:
        others: Training images of the other classes.
        num_normal: Normal images in the training set.
        impurity: Share of the whole, in (0, 1): ``impurity = drawn / (num_normal + drawn)``.
        seed: Of the draw.

    Raises:
        ValueError: If there are too few of them, or the share is less than half an image.
    """
    count = round(impurity * num_normal / (1 - impurity))
    if not others:
        raise ValueError(
            f"impurity must be 0 for data without training images of other classes, got {impurity}; those of the test "
            "set are never taken."
        )
    if not 1 <= count <= len(others):
        raise ValueError(
            f"impurity must be at most {len(others) / (num_normal + len(others)):.3g}, for which the {len(others)} "
            f"training images of other classes are enough, and make at least one image beside {num_normal} normal "
            f"ones, got {impurity}, which makes {count}."
        )
    order = _generator(seed, "impurities").permutation(len(others))[:count]
    return sorted(others[position] for position in order.tolist())


def _generator(seed: int, what: str) -> np.random.Generator:
    # not the numbers that have drawn the split
    return np.random.default_rng([seed, *what.encode()])
