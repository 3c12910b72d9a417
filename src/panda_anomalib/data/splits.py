"""Which images of a data set train, and which test."""

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from panda_anomalib.data.files import IMAGE_EXTENSIONS, find_classes, find_images

__all__ = ["OneClassSplit", "check_classes", "split_at_random", "split_by_folders", "split_one_class", "split_table"]


_NAMED_IN_ERRORS = 20


class OneClassSplit(NamedTuple):
    """Training images of the normal classes and test images of all, by class; in words, where the split comes from."""

    train: dict[str, list[Path]]
    test: dict[str, list[Path]]
    source: str
    others: Callable[[], list[Path]] = list
    """Finds the training images of the other classes, which are used for impure training sets only."""


def split_one_class(
    root: Path,
    normal_classes: Sequence[str],
    *,
    classes: Sequence[str] | None,
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
            return split_by_folders(train_root, test_root, normal_classes, classes)
        if train_root.is_dir() or test_root.is_dir():
            found, missing = (train_root, test_root) if train_root.is_dir() else (test_root, train_root)
            raise ValueError(
                f"root must hold both '{train_dir}' and '{test_dir}' or neither, got '{found}' without '{missing}'; "
                f"add that folder, or set train_dir to null if '{found.name}' is a class.",
            )
    _check_folders("normal_class", normal_classes, root)
    images = {name: _images_of(root, name) for name in _select_classes(root, classes)}
    return split_at_random(images, normal_classes, test_split_ratio, seed)


def split_by_folders(
    train_root: Path, test_root: Path, normal_classes: Sequence[str], classes: Sequence[str] | None = None
) -> OneClassSplit:
    """Training classes of one folder, test classes of another."""
    _check_folders("normal_class", normal_classes, train_root)
    used = _select_classes(test_root, classes, optional=normal_classes)  # the test set may hold anomalies only
    return OneClassSplit(
        train={name: _images_of(train_root, name) for name in normal_classes},
        test={name: _images_of(test_root, name) for name in used},
        source=f"split by the folders {train_root.name} and {test_root.name}",
        others=lambda: [
            path
            for name in find_classes(train_root)
            if name not in normal_classes and (classes is None or name in classes)
            for path in find_images(train_root / name)
        ],
    )


def split_at_random(
    images: dict[str, list[Path]], normal_classes: Sequence[str], ratio: float, seed: int
) -> OneClassSplit:
    """Split each class of ``images`` on its own; floor((1 - ratio) n) of its n images are its training part."""
    train: dict[str, list[Path]] = {}
    test: dict[str, list[Path]] = {}
    for name, own in images.items():
        # A generator for each class: adding a class leaves the others as they were.
        order = np.random.default_rng(seed).permutation(len(own))
        cut = math.floor((1 - ratio) * len(own) + 1e-9)  # (1 - 0.9) * 10 is a little less than 1
        train[name], test[name] = (sorted(own[index] for index in part) for part in (order[:cut], order[cut:]))
    return OneClassSplit(
        {name: train[name] for name in normal_classes},
        test,
        f"{ratio:g} of each class drawn with seed {seed}",
        lambda: _of_others(train, normal_classes),
    )


def split_table(
    rows: Iterable[tuple[Path, str, bool]], normal_classes: Sequence[str], where: str, source: str
) -> OneClassSplit:
    """Split as a data set's own list says.

    Args:
        rows: Path, class, and whether it is a training image, of each image.
        normal_classes: Classes that train.
        where: What the classes are classes of, for errors.
        source: What the split is, in words.

    Raises:
        ValueError: If a class is unknown.
        FileNotFoundError: If an image is missing.
    """
    train: dict[str, list[Path]] = {}
    test: dict[str, list[Path]] = {}
    for path, name, trains in rows:
        (train if trains else test).setdefault(name, []).append(path)
    check_classes("normal_class", normal_classes, sorted(train), f"classes of {where}")
    chosen = {name: train[name] for name in normal_classes}
    missing = [path for images in (*chosen.values(), *test.values()) for path in images if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"root must hold the images that its list names, got none at '{missing[0]}'"
            + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
            + "; unpack the archive again."
        )
    return OneClassSplit(chosen, test, source, lambda: _of_others(train, normal_classes))


def check_classes(argument: str, names: Iterable[str], existing: Sequence[str], where: str) -> None:
    """Refuse names of classes that are not there, and say which are near.

    Raises:
        ValueError: If one is not among the existing ones.
    """
    for name in names:
        if name not in existing:
            nearest = difflib.get_close_matches(name, existing, n=_NAMED_IN_ERRORS, cutoff=0.0)
            known = ", ".join(map(repr, nearest)) + (", ..." if len(existing) > len(nearest) else "")
            hint = f"did you mean one of {known}?" if known else "there is none."
            raise ValueError(f"{argument} must be {where}, got {name!r}; {hint}")


def _of_others(train: dict[str, list[Path]], normal_classes: Sequence[str]) -> list[Path]:
    return [path for name, images in train.items() if name not in normal_classes for path in images]


def _check_folders(argument: str, names: Iterable[str], root: Path) -> None:
    if not (existing := find_classes(root)):
        raise ValueError(f"root must hold one folder per class, got none in '{root}'; put the images into such.")
    check_classes(argument, names, existing, f"class folders of '{root}'")


def _select_classes(root: Path, classes: Sequence[str] | None, optional: Sequence[str] = ()) -> list[str]:
    existing = find_classes(root)
    if classes is None:
        return existing
    _check_folders("classes", (name for name in classes if name not in optional), root)
    return [name for name in existing if name in classes]


def _images_of(root: Path, name: str) -> list[Path]:
    images = find_images(root / name)
    if not images:
        raise ValueError(
            f"class folders must hold images ({' '.join(IMAGE_EXTENSIONS)}), got none in '{root / name}'; "
            "remove the folder, or name the others in classes.",
        )
    return images
