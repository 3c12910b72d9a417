"""One-class data from a tree with one folder per class: one class is normal, all others are anomalous."""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import TestSplitMode, ValSplitMode
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Transform
from typing_extensions import override

from panda_anomalib.data.dataset import ImageDataset, automatic_workers, make_loader
from panda_anomalib.data.reading import CorruptName, check_on_corrupt, judge_damage, verify_images
from panda_anomalib.data.splits import split_one_class

__all__ = ["OneClassFolder"]

logger = logging.getLogger(__name__)


class OneClassFolder(AnomalibDataModule):
    """Datamodule for a tree of class folders; one class is normal, all others are anomalous.

    ``root/train_dir/<class>`` and ``root/test_dir/<class>``, where both exist, are the split: the training set is the
    normal class of the first, the test set all classes of the second. Otherwise ``root/<class>`` is split at random,
    each class on its own: of its n images, sorted by path and permuted with ``seed``, the first
    floor((1 - test_split_ratio) n) are its training part, the others its test part. The training parts of anomalous
    classes are left out. Class folders are searched recursively; hidden files and other kinds of files are ignored.

    Args:
        root: Folder of the data.
        normal_class: Name of the normal class folder.
        train_dir: Folder of training classes inside root; None if root is never split by folders.
        test_dir: Folder of test classes inside root; None if root is never split by folders.
        classes: Class folders to use; None takes all.
        test_split_ratio: Test part of each class when there are no folders that say it, between 0 and 1.
        seed: Seed of that split, and of ``val_split_mode``.
        name: Name of the data in the run folder ``<model>/<name>/<normal_class>``; None takes root's name.
        on_corrupt: "error" stops before training and names the images that cannot be read; "skip" leaves them out.
        train_batch_size: Images in a training batch.
        eval_batch_size: Images in a validation or test batch.
        num_workers: Worker processes that read images; None takes up to 4, and none for a few images.
        train_augmentations: Applied to training images; they also change what enters a memory bank.
        val_augmentations: Applied to validation images.
        test_augmentations: Applied to test images.
        augmentations: Applied where no augmentations of the stage are given.
        val_split_mode: Validation set: "none"; a part of the training set ("from_train", normal images only) or of
            the test set ("from_test"); the test set ("same_as_test"); drawn defects ("synthetic").
        val_split_ratio: Part of the training or test set that validation takes.

    Raises:
        ValueError: If an argument is out of range; in `setup`, if a class is unknown or empty, only one of train_dir
            and test_dir exists, no normal training image is left, or an image cannot be read.
        FileNotFoundError: In `setup`, if root is missing.
    """

    def __init__(
        self,
        root: Path | str,
        normal_class: str,
        *,
        train_dir: str | None = "train",
        test_dir: str | None = "test",
        classes: Sequence[str] | None = None,
        test_split_ratio: float = 0.2,
        seed: int = 0,
        name: str | None = None,
        on_corrupt: CorruptName = "error",
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int | None = None,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_mode: Literal["none", "from_train", "from_test", "same_as_test", "synthetic"] = "none",
        val_split_ratio: float = 0.2,
    ) -> None:
        # OmegaConf hands over its own lists, and YAML numbers where class names are digits.
        normal_class = str(normal_class)
        classes = None if classes is None else [str(name) for name in classes]
        for key, ratio in (("test_split_ratio", test_split_ratio), ("val_split_ratio", val_split_ratio)):
            if not 0 < ratio < 1:
                raise ValueError(f"{key} must be between 0 and 1 (exclusive), got {ratio}; a fifth is 0.2.")
        check_on_corrupt(on_corrupt)
        if classes is not None and normal_class not in classes:
            raise ValueError(f"normal_class must be one of classes {classes}, got {normal_class!r}; add it to them.")
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=min(4, os.cpu_count() or 1) if num_workers is None else num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            val_split_mode=ValSplitMode(val_split_mode),
            val_split_ratio=val_split_ratio,
            test_split_mode=TestSplitMode.FROM_DIR,
            test_split_ratio=test_split_ratio,
            seed=seed,
        )
        self.root = Path(root)
        self._split_seed = seed
        self.normal_class = normal_class
        self.train_dir = train_dir
        self.test_dir = test_dir
        self.classes = classes
        self.on_corrupt = on_corrupt
        self._auto_workers = num_workers is None
        self._name = name
        self._category = normal_class
        self._damage: dict[Path, str | None] = {}

    @property
    @override
    def name(self) -> str:
        """Name of the data in the run folder."""
        return self._name or self.root.resolve().name

    @override
    def _setup(self, _stage: str | None = None) -> None:
        train, test, source = split_one_class(
            self.root,
            self.normal_class,
            classes=self.classes,
            train_dir=self.train_dir,
            test_dir=self.test_dir,
            test_split_ratio=self.test_split_ratio,
            seed=self._split_seed,
        )
        damage = self._find_damage([*train, *(path for images in test.values() for path in images)])
        train = [path for path in train if path not in damage]
        if not train:
            raise ValueError(f"normal_class must have training images, got none for {self.normal_class!r}; add some.")
        if len(train) == 1:
            logger.warning("One normal training image: most scorers need at least two.")
        normal = [path for path in test.pop(self.normal_class, []) if path not in damage]
        anomalous = [path for images in test.values() for path in images if path not in damage]
        if not normal or not anomalous:
            logger.warning("The test set has %d normal and %d anomalous images: no AUROC.", len(normal), len(anomalous))
        self.train_data = ImageDataset(train, [], split="train")
        self.test_data = ImageDataset(normal, anomalous, split="test")
        logger.info(
            "%s, normal class %r: %d normal training images; test: %d normal, %d anomalous (%s).",
            *(self.name, self.normal_class, len(train), len(normal), len(anomalous), source),
        )

    def _find_damage(self, paths: list[Path]) -> set[Path]:
        """Unreadable images among the paths; each file is checked once in the life of this object."""
        new = [path for path in paths if path not in self._damage]
        self._damage.update(dict.fromkeys(new))
        self._damage.update(verify_images(new))
        damaged = {path: reason for path in paths if (reason := self._damage[path]) is not None}
        judge_damage(damaged, len(paths), self.on_corrupt)
        return set(damaged)

    @override
    def _create_test_split(self) -> None:
        """Keep the split of `_setup`: the base class would move training images into a test set without normal ones."""

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training set in random order."""
        return self._loader(self.train_data, self.train_batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Batches of the validation set; without one an empty list, for which Lightning skips validation."""
        if self.val_split_mode == ValSplitMode.NONE:
            # Lightning asks whether the empty list "was your intention": it was.
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
            return []
        return self._loader(self.val_data, self.eval_batch_size)

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test set, sorted by path."""
        return self._loader(self.test_data, self.eval_batch_size)

    def _loader(self, dataset: AnomalibDataset, batch_size: int, *, shuffle: bool = False) -> DataLoader[Any]:
        return make_loader(
            dataset,
            batch_size,
            shuffle=shuffle,
            num_workers=automatic_workers(len(dataset)) if self._auto_workers else self.num_workers,
            collate_fn=self.external_collate_fn,
        )
