"""What all one-class datamodules share: some classes are normal, all others are anomalous."""

import logging
import os
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import TestSplitMode, ValSplitMode
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Transform
from typing_extensions import override

from panda_anomalib.data.dataset import ImageDataset, automatic_workers, make_loader
from panda_anomalib.data.image_files import shared_image_files
from panda_anomalib.data.reading import CorruptName, check_on_corrupt, judge_damage
from panda_anomalib.data.splits import OneClassSplit
from panda_anomalib.data.training_set import check_training_set, draw_impurities, draw_normal
from panda_anomalib.room import CacheName, check_cache

__all__ = ["OneClassData"]

logger = logging.getLogger(__name__)


class OneClassData(AnomalibDataModule):
    """Base of our datamodules: the training set is of the normal classes, the test set of all.

    A subclass says in ``split`` which images these are. With several normal classes there is one training set of all;
    the column ``class_name`` of the samples keeps them apart.

    Args:
        root: Folder of the data.
        normal_class: Name of the normal class, or a list of several.
        num_train: How many of the normal training images to use, drawn with ``seed``: as many of each normal class as
            there are, and with fewer a part of those with more. By default all.
        impurity: Share of the training images that are anomalous, in [0, 1): training images of other classes, drawn
            with ``seed``, are added to the normal ones and labelled normal. Images of the test set are never taken.
        seed: Seed of a split that is drawn, of ``num_train`` and ``impurity``, and of ``val_split_mode``.
        name: Name of the data in the run folder ``<model>/<name>/<normal_class>``; by default the data set's, or that
            of root.
        on_corrupt: "error" stops before training and names the images that cannot be read; "skip" leaves them out.
        cache: Where decoded images are kept for the datamodules of one root, their epochs and workers: ``auto``
            (memory while there is room, else disk, else nowhere), ``memory``, ``disk`` or ``off``.
        memory_budget: Bytes of memory for that at most; by default a quarter of what is available.
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
        ValueError: If an argument is out of range; in `setup`, if no training image of a normal class is left, there
            are fewer images than ``num_train`` or ``impurity`` ask for, or an image cannot be read.
    """

    impurities: list[Path]
    """Anomalous images in the training set, sorted; known after `setup`."""

    def __init__(
        self,
        root: Path | str,
        normal_class: str | int | Sequence[str | int],
        *,
        num_train: int | None = None,
        impurity: float = 0.0,
        seed: int = 0,
        name: str | None = None,
        on_corrupt: CorruptName = "error",
        cache: CacheName = "auto",
        memory_budget: int | None = None,
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
        check_ratio("val_split_ratio", val_split_ratio)
        check_on_corrupt(on_corrupt)
        check_cache(cache, memory_budget)
        # OmegaConf hands over its own lists, and YAML numbers where class names are digits.
        names = [normal_class] if isinstance(normal_class, str | int) else list(normal_class)
        normal_classes = [str(one) for one in names]
        if not normal_classes or len(set(normal_classes)) < len(normal_classes):
            raise ValueError(
                f"normal_class must be a class or several different ones, got {normal_classes}; name each once."
            )
        check_training_set(num_train, impurity, len(normal_classes))
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
            seed=seed,
        )
        self.root = Path(root)
        self.normal_classes = normal_classes
        self.normal_class = "+".join(normal_classes)
        self.num_train = num_train
        self.impurity = impurity
        self.impurities = []
        self.on_corrupt = on_corrupt
        self.cache = cache
        self.memory_budget = memory_budget
        self._split_seed = seed
        self._auto_workers = num_workers is None
        self._name = name
        self._category = self.normal_class

    @abstractmethod
    def split(self) -> OneClassSplit:
        """Training images of the normal classes, test images of all classes."""

    @abstractmethod
    def class_names(self) -> list[str]:
        """Classes that take the part of the normal one in turn, where all are to be measured."""

    @property
    @override
    def name(self) -> str:
        """Name of the data in the run folder."""
        return self._name or self.root.resolve().name

    @override
    def _setup(self, _stage: str | None = None) -> None:
        split = self.split()
        train, test = split.train, split.test
        available = sum(map(len, train.values()))
        if self.num_train is not None and all(train.values()):
            train = draw_normal(train, self.num_train, self._split_seed)
        impurities = self._draw_impurities(split, sum(map(len, train.values())))
        files = shared_image_files(self.root, self.cache, self.memory_budget)
        paths = [*chain.from_iterable(train.values()), *impurities, *chain.from_iterable(test.values())]
        damage = files.inspect(paths)
        judge_damage(damage, len(paths), self.on_corrupt)
        train, test = (_without(damage, images) for images in (train, test))
        self.impurities = [path for path in impurities if path not in damage]
        for name, images in train.items():
            if not images:
                tested = f", whose {len(test[name])} are to test" if test.get(name) else ""
                raise ValueError(f"normal_class must have training images, got none for {name!r}{tested}; add some.")
        normal = [path for name in self.normal_classes for path in test.get(name, [])]
        anomalous = [path for name, images in test.items() if name not in self.normal_classes for path in images]
        classes = {path: name for part in (train, test) for name, images in part.items() for path in images}
        training = [*chain.from_iterable(train.values())]
        drawn = f" (of {available}, drawn with seed {self._split_seed})" if self.num_train is not None else ""
        if self.impurities:
            share = len(self.impurities) / (len(training) + len(self.impurities))
            drawn += f" and {len(self.impurities)} anomalous ones labelled normal (impurity {share:.3g})"
        if len(training) == 1:
            logger.warning("One normal training image: most scorers need at least two.")
        if not normal or not anomalous:
            logger.warning("The test set has %d normal and %d anomalous images: no AUROC.", len(normal), len(anomalous))
        everything = [*training, *self.impurities]
        self.train_data = ImageDataset(everything, [], split="train", classes=classes, read=files.read)
        self.test_data = ImageDataset(normal, anomalous, split="test", classes=classes, read=files.read)
        logger.info(
            "%s, normal class%s %s: %d normal training images%s; test: %d normal, %d anomalous (%s).",
            *(self.name, "es" if len(train) > 1 else "", ", ".join(map(repr, train)), len(training), drawn),
            *(len(normal), len(anomalous), split.source),
        )

    def _draw_impurities(self, split: OneClassSplit, num_normal: int) -> list[Path]:
        if not self.impurity:
            return []
        tested = {path for images in split.test.values() for path in images}
        others = [path for path in split.others() if path not in tested]
        return draw_impurities(others, num_normal, self.impurity, self._split_seed)

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


def check_ratio(name: str, ratio: float) -> None:
    """Refuse what is no part of a set.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"{name} must be between 0 and 1 (exclusive), got {ratio}; a fifth is 0.2.")


def _without(left_out: Iterable[Path], images: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    unwanted = set(left_out)
    return {name: [path for path in paths if path not in unwanted] for name, paths in images.items()}
