"""One-class data from a tree with one folder per class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from panda_anomalib.data.files import find_classes
from panda_anomalib.data.one_class import OneClassData, check_ratio
from panda_anomalib.data.splits import OneClassSplit, split_one_class

__all__ = ["OneClassFolder"]


class OneClassFolder(OneClassData):
    """Datamodule for a tree of class folders; one class is normal, or several, and all others are anomalous.

    ``root/train_dir/<class>`` and ``root/test_dir/<class>``, where both exist, are the split: the training set is the
    normal class of the first, the test set all classes of the second. Otherwise ``root/<class>`` is split at random,
    each class on its own: of its n images, sorted by path and permuted with ``seed``, the first
    floor((1 - test_split_ratio) n) are its training part, the others its test part. The training parts of anomalous
    classes are left out. Class folders are searched recursively; hidden files and other kinds of files are ignored.

    Args:
        root: Folder of the data.
        normal_class: Name of the normal class folder, or a list of several.
        train_dir: Folder of training classes inside root; None if root is never split by folders.
        test_dir: Folder of test classes inside root; None if root is never split by folders.
        classes: Class folders to use; None takes all.
        test_split_ratio: Test part of each class when there are no folders that say it, between 0 and 1.
        **arguments: Those of `OneClassData`.

    Raises:
        ValueError: If an argument is out of range; in `setup`, if a class is unknown or empty, only one of train_dir
            and test_dir exists, no normal training image is left, or an image cannot be read.
        FileNotFoundError: In `setup`, if root is missing.
    """

    def __init__(
        self,
        root: Path | str,
        normal_class: str | int | Sequence[str | int],
        *,
        train_dir: str | None = "train",
        test_dir: str | None = "test",
        classes: Sequence[str | int] | None = None,
        test_split_ratio: float = 0.2,
        **arguments: Any,
    ) -> None:
        check_ratio("test_split_ratio", test_split_ratio)
        super().__init__(root, normal_class, **arguments)
        self.train_dir = train_dir
        self.test_dir = test_dir
        self.classes = None if classes is None else [str(name) for name in classes]
        self.test_split_ratio = test_split_ratio
        for name in self.normal_classes:
            if self.classes is not None and name not in self.classes:
                raise ValueError(f"normal_class must be one of classes {self.classes}, got {name!r}; add it to them.")

    @override
    def split(self) -> OneClassSplit:
        return split_one_class(
            self.root,
            self.normal_classes,
            classes=self.classes,
            train_dir=self.train_dir,
            test_dir=self.test_dir,
            test_split_ratio=self.test_split_ratio,
            seed=self._split_seed,
        )

    @override
    def class_names(self) -> list[str]:
        if self.train_dir is not None and (self.root / self.train_dir).is_dir():
            return find_classes(self.root / self.train_dir)
        return self.classes or find_classes(self.root)
