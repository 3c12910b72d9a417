"""Which images of a tree of class folders train, and which test."""

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from panda_anomalib.data.files import IMAGE_EXTENSIONS, find_classes, find_images

__all__ = ["OneClassSplit", "split_one_class"]


_NAMED_IN_ERRORS = 20


class OneClassSplit(NamedTuple):
    """Training images of the normal class, test images by class, and in words where the split comes from."""

    train: list[Path]
    test: dict[str, list[Path]]
    source: str


def split_one_class(
    root: Path,
    normal_class: str,
    *,
    classes: list[str] | None,
    train_dir: str | None,
    test_dir: str | None,
    test_split_ratio: float,
    seed: int,
) -> OneClassSplit:
    """Split as `panda_anomalib.data.OneClassFolder` documents, by folders if both exist, else by the seed.

    Raises:
        FileNotFoundError: If root is missing.
        ValueError: If a class is unknown or has no images, or only one of the two folders exists.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"root must be an existing folder, got '{root}'; check the path.")
    if train_dir is not None and test_dir is not None:
        train_root, test_root = root / train_dir, root / test_dir
        if train_root.is_dir() and test_root.is_dir():
            return _split_by_folders(train_root, test_root, normal_class, classes)
        if train_root.is_dir() or test_root.is_dir():
            found, missing = (train_root, test_root) if train_root.is_dir() else (test_root, train_root)
            raise ValueError(
                f"root must hold both '{train_dir}' and '{test_dir}' or neither, got '{found}' without '{missing}'; "
                f"add that folder, or set train_dir to null if '{found.name}' is a class.",
            )
    return _split_by_seed(root, normal_class, classes, test_split_ratio, seed)


def _split_by_folders(train_root: Path, test_root: Path, normal_class: str, classes: list[str] | None) -> OneClassSplit:
    _check_class("normal_class", normal_class, train_root)
    used = _select_classes(test_root, classes, optional=normal_class)  # the test set may hold anomalies only
    train = _images_of(train_root, normal_class)
    return OneClassSplit(
        train=train,
        test={name: _images_of(test_root, name) for name in used},
        source=f"split by the folders {train_root.name} and {test_root.name}",
    )


def _split_by_seed(root: Path, normal_class: str, classes: list[str] | None, ratio: float, seed: int) -> OneClassSplit:
    _check_class("normal_class", normal_class, root)
    train: list[Path] = []
    test: dict[str, list[Path]] = {}
    for name in _select_classes(root, classes):
        images = _images_of(root, name)
        # A generator for each class: adding a class leaves the others as they were.
        order = np.random.default_rng(seed).permutation(len(images))
        cut = math.floor((1 - ratio) * len(images) + 1e-9)  # (1 - 0.9) * 10 is a little less than 1
        if name == normal_class:
            train = sorted(images[index] for index in order[:cut])
        test[name] = sorted(images[index] for index in order[cut:])
    return OneClassSplit(train, test, source=f"{ratio:g} of each class drawn with seed {seed}")


def _select_classes(root: Path, classes: Sequence[str] | None, optional: str | None = None) -> list[str]:
    if classes is None:
        return find_classes(root)
    existing = find_classes(root)
    for name in classes:
        if name != optional:
            _check_class("classes", name, root)
    return [name for name in existing if name in classes]


def _check_class(argument: str, name: str, root: Path) -> None:
    existing = find_classes(root)
    if not existing:
        raise ValueError(f"root must hold one folder per class, got none in '{root}'; put the images into such.")
    if name not in existing:
        nearest = difflib.get_close_matches(name, existing, n=_NAMED_IN_ERRORS, cutoff=0.0)
        known = ", ".join(map(repr, nearest)) + (", ..." if len(existing) > len(nearest) else "")
        raise ValueError(f"{argument} must be class folders of '{root}', got {name!r}; did you mean one of {known}?")


def _images_of(root: Path, name: str) -> list[Path]:
    images = find_images(root / name)
    if not images:
        raise ValueError(
            f"class folders must hold images ({' '.join(IMAGE_EXTENSIONS)}), got none in '{root / name}'; "
            "remove the folder, or name the others in classes.",
        )
    return images
