"""Sets of images as samples: a set is normal or anomalous, its images are not (DN2, arXiv:2002.10445, Sec. 4.5)."""

import logging
import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, ImageBatch, ImageItem
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import Transform
from typing_extensions import override

from panda_anomalib.data.dataset import automatic_workers
from panda_anomalib.data.files import find_classes, find_images
from panda_anomalib.data.image_files import shared_image_files
from panda_anomalib.data.reading import CorruptName, check_on_corrupt, judge_damage
from panda_anomalib.data.set_draws import DrawnSets, draw_one_class, draw_one_of_each
from panda_anomalib.data.splits import check_classes
from panda_anomalib.room import CacheName, check_cache

__all__ = ["ImageSetDataset", "ImageSets", "SetKind"]

logger = logging.getLogger(__name__)

SetKind = Literal["folders", "one_of_each", "one_class"]


class ImageSetDataset(Dataset[list[ImageItem]]):
    """Image sets with labels 0 (normal) or 1 (anomalous).

    Args:
        sets: Images of each set by its name.
        labels: Label of each.
        read: Reads an image file.
    """

    def __init__(
        self, sets: dict[str, list[Path]], labels: Sequence[int], read: Callable[[str], tv_tensors.Image]
    ) -> None:
        self.paths = list(sets)
        """Names of the sets."""
        self.images = [[str(path) for path in images] for images in sets.values()]
        self.labels = list(labels)
        self.augmentations: Transform | None = None
        self._read = read

    def __len__(self) -> int:
        """Number of sets."""
        return len(self.paths)

    def __getitem__(self, index: int) -> list[ImageItem]:
        """Images ``(3, H, W)`` of a set, after ``augmentations``, the first one with its place among the sets."""
        items = []
        for path in self.images[index]:
            image = self._read(path)
            items.append(ImageItem(image=self.augmentations(image) if self.augmentations else image, image_path=path))
        items[0].set_position = index
        return items

    def collate(self, sets: list[list[ImageItem]]) -> ImageBatch:
        """Batch of S sets: the images of all, one behind the other, and what is known of each set.

        ``image`` is ``(sum of the sizes, 3, H, W)``. ``image_path`` names the sets, ``gt_label`` is ``(S,)``, and
        ``set_images`` lists the paths of the images of each set.
        """
        positions = [items[0].set_position for items in sets]
        batch = ImageBatch.collate(list(chain.from_iterable(sets)))
        batch.image_path = [self.paths[position] for position in positions]
        batch.gt_label = torch.tensor([self.labels[position] for position in positions])
        batch.set_images = [self.images[position] for position in positions]
        return batch


class ImageSets(AnomalibDataModule):
    """Datamodule of image sets, for ``Dn2Set``.

    ``folders`` reads sets from disk, ``root/train/<class>/<set>/...`` and ``root/test/<class>/<set>/...``: the sets of
    the normal class train, those of all classes test. The other kinds draw sets from images in class folders,
    ``root/train/<class>/...`` and ``root/test/<class>/...``, training sets from the one and test sets from the other:

    * ``one_of_each``: a normal set has one image of each of M classes, an anomalous one M images of classes drawn at
      random among them (draws that hold each class once are drawn again).
    * ``one_class``: a normal set has images of one class, whichever; an anomalous one of several classes.

    A set that was drawn is called ``<root>/<train or test>/<normal or anomalous>-<number>``.

    Args:
        root: Folder of the data.
        kind: Where sets come from.
        normal_class: Class of the normal sets, for ``folders``.
        classes: Class folders to use; by default all.
        set_size: Of drawn sets: M of ``one_of_each``, which takes the first M of the classes (by default all of them);
            images in a set of ``one_class``, or the fewest and the most (by default 10 to 50).
        num_train: Training sets to draw.
        num_test: Normal test sets to draw, and as many anomalous ones.
        seed: Seed of the draws.
        name: Name of the data in the run folder; by default that of root.
        on_corrupt: "error" stops before training and names the images that cannot be read; "skip" leaves out the sets
            that have one.
        cache: As of `OneClassData`.
        memory_budget: As of `OneClassData`.
        train_batch_size: Images in a training batch, which holds whole sets: as many as fit, and at least one.
        eval_batch_size: The same of a test batch.
        num_workers: Worker processes that read images; None takes up to 4, and none for a few images.

    Raises:
        ValueError: If an argument is out of range; in `setup`, if a class is unknown, there are too few images, or one
            cannot be read.
        FileNotFoundError: In `setup`, if a folder is missing.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        kind: SetKind = "folders",
        normal_class: str | int = "normal",
        classes: Sequence[str | int] | None = None,
        set_size: int | Sequence[int] | None = None,
        num_train: int = 1000,
        num_test: int = 1000,
        seed: int = 0,
        name: str | None = None,
        on_corrupt: CorruptName = "error",
        cache: CacheName = "auto",
        memory_budget: int | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int | None = None,
    ) -> None:
        if kind not in get_args(SetKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(SetKind))}, got {kind!r}.")
        for argument, value, least in (("num_train", num_train, 2), ("num_test", num_test, 1)):
            if value < least:
                raise ValueError(f"{argument} must be at least {least}, got {value}.")
        check_on_corrupt(on_corrupt)
        check_cache(cache, memory_budget)
        self._sizes = _sizes(kind, set_size)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=min(4, os.cpu_count() or 1) if num_workers is None else num_workers,
            seed=seed,
        )
        self.root = Path(root)
        self.kind = kind
        self.normal_class = str(normal_class)
        self.classes = None if classes is None else [str(one) for one in classes]
        self.num_train = num_train
        self.num_test = num_test
        self.on_corrupt = on_corrupt
        self.cache = cache
        self.memory_budget = memory_budget
        self._auto_workers = num_workers is None
        self._name = name
        size = "" if self._sizes is None else "-" + "-".join(map(str, sorted(set(self._sizes))))
        self._category = self.normal_class if kind == "folders" else f"{kind}{size}"

    @property
    @override
    def name(self) -> str:
        """Name of the data in the run folder."""
        return self._name or self.root.resolve().name

    @override
    def _setup(self, _stage: str | None = None) -> None:
        for part in ("train", "test"):
            if not (self.root / part).is_dir():
                raise FileNotFoundError(f"root must hold the folders train and test, got '{self.root}' without {part}.")
        train, test = (self._find(part) if self.kind == "folders" else self._draw(part) for part in ("train", "test"))
        files = shared_image_files(self.root, self.cache, self.memory_budget)
        paths = sorted({path for sets, _ in (train, test) for images in sets.values() for path in images})
        damage = files.inspect(paths)
        judge_damage(damage, len(paths), self.on_corrupt)
        for part, (sets, labels) in (("train", train), ("test", test)):
            whole = [name for name, images in sets.items() if damage.keys().isdisjoint(images)]
            dataset = ImageSetDataset(
                {name: sets[name] for name in whole}, [labels[name] for name in whole], files.read
            )
            setattr(self, f"{part}_data", dataset)
        anomalous = sum(self.test_data.labels)
        sizes = [len(images) for images in self.train_data.images]
        logger.info(
            "%s: %d normal training sets of %s images; test: %d normal sets, %d anomalous.",
            *(self.name, len(sizes), "-".join(map(str, sorted({min(sizes), max(sizes)})))),
            *(len(self.test_data) - anomalous, anomalous),
        )

    def _find(self, part: str) -> tuple[dict[str, list[Path]], dict[str, int]]:
        found = self._class_folders(part, [self.normal_class] if part == "train" else self.classes)
        sets: dict[str, list[Path]] = {}
        labels: dict[str, int] = {}
        for name in found:
            for own in find_classes(self.root / part / name):
                folder = self.root / part / name / own
                if not (images := find_images(folder)):
                    raise ValueError(f"set folders must hold images, got none in '{folder}'; remove it.")
                sets[str(folder.absolute())] = images
                labels[str(folder.absolute())] = int(name != self.normal_class)
        if not sets:
            raise ValueError(f"classes must hold one folder per set, got none in '{self.root / part}'; add some.")
        return sets, labels

    def _draw(self, part: str) -> tuple[dict[str, list[Path]], dict[str, int]]:
        names = self._class_folders(part, self.classes)
        if self.kind == "one_of_each" and self._sizes is not None:
            if len(names) < self._sizes[0]:
                raise ValueError(f"set_size must be at most the number of classes, {len(names)}, got {self._sizes[0]}.")
            names = names[: self._sizes[0]]
        if len(names) < 2:
            raise ValueError(f"classes must be at least two for anomalous sets, got {names}.")
        images = {name: find_images(self.root / part / name) for name in names}
        sizes = (len(names), len(names)) if self.kind == "one_of_each" or self._sizes is None else self._sizes
        if poor := [name for name, own in images.items() if len(own) < sizes[1]]:
            raise ValueError(
                f"classes must have at least {sizes[1]} images for sets of that size, got {len(images[poor[0]])} in "
                f"'{self.root / part / poor[0]}'; lower set_size, or leave the class out."
            )
        # another stream for each part, so that the number of training sets does not change the test sets
        rng = np.random.default_rng([self.seed or 0, int(part == "test")])
        counts = (self.num_test, self.num_test) if part == "test" else (self.num_train, 0)
        if self.kind == "one_of_each":
            drawn: DrawnSets = draw_one_of_each(images, *counts, rng)
        else:
            drawn = draw_one_class(images, sizes, *counts, rng)
        place = (self.root / part).absolute()
        sets, labels = {}, {}
        for label, (kind, group) in enumerate((("normal", drawn.normal), ("anomalous", drawn.anomalous))):
            for number, own in enumerate(group):
                sets[name := f"{place}/{kind}-{number:05}"] = own
                labels[name] = label
        return sets, labels

    def _class_folders(self, part: str, wanted: Sequence[str] | None) -> list[str]:
        existing = find_classes(self.root / part)
        if wanted is None:
            return existing
        check_classes("classes", wanted, existing, f"class folders of '{self.root / part}'")
        return list(wanted)

    @override
    def _create_test_split(self) -> None:
        """The sets are split already."""

    @override
    def _create_val_split(self) -> None:
        """There is no validation set."""

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of whole sets, in random order."""
        return self._loader(self.train_data, self.train_batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> list[DataLoader[Any]]:
        """None: for an empty list Lightning skips validation."""
        return []

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of whole sets, in their order."""
        return self._loader(self.test_data, self.eval_batch_size)

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        """The test sets."""
        return self.test_dataloader()

    def _loader(self, dataset: ImageSetDataset, batch_size: int, *, shuffle: bool = False) -> DataLoader[Any]:
        largest = max(len(images) for images in dataset.images)
        count = sum(len(images) for images in dataset.images)
        workers = automatic_workers(count) if self._auto_workers else self.num_workers
        return DataLoader(
            dataset,
            batch_size=max(1, batch_size // largest),
            shuffle=shuffle,
            num_workers=workers,
            collate_fn=dataset.collate,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def _sizes(kind: SetKind, set_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if kind == "folders":
        if set_size is not None:
            raise ValueError(
                f"set_size must be left out for folders, whose sets are as large as they are, got {set_size}."
            )
        return None
    if set_size is None:
        return None if kind == "one_of_each" else (10, 50)
    given = [set_size] if isinstance(set_size, int) else [int(size) for size in set_size]
    most = 1 if kind == "one_of_each" else 2
    if not 1 <= len(given) <= most or given != sorted(given) or given[0] < 2:
        accepted = "a number" if most == 1 else "a number, or the fewest and the most,"
        raise ValueError(f"set_size of {kind} must be {accepted} from 2 on, got {set_size}.")
    return given[0], given[-1]
