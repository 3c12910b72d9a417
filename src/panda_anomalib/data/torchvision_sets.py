"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST: images inside the files that torchvision downloads."""

import pickle
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets
from typing_extensions import override

from panda_anomalib.data.published import PublishedSet
from panda_anomalib.data.splits import OneClassSplit, split_by_folders
from panda_anomalib.data.unpacking import write_images

__all__ = ["Cifar10", "Cifar100", "FashionMnist", "Mnist"]

_UNREADABLE = (RuntimeError, ValueError, TypeError, AssertionError, EOFError, LookupError, pickle.UnpicklingError)


class _ArraySet(PublishedSet):
    """Images that torchvision has as arrays, written once as PNG files: ``root/<folder>-images/<part>/<class>/``.

    A file is called after the position of its image in the published training or test set.
    """

    kind: ClassVar[Any]
    """torchvision's class."""

    @property
    def _images(self) -> Path:
        return self.root / f"{self.folder}-images"

    @property
    @abstractmethod
    def _raw(self) -> Path:
        """Folder of the published files."""

    @override
    def has_files(self) -> bool:
        return self._images.is_dir() or super().has_files()

    @override
    def fetch(self) -> None:
        self.kind(str(self.root), download=True)

    @override
    def unpack(self) -> None:
        if self._images.is_dir():
            return
        self.check_files()
        try:
            parts = {part: self.kind(str(self.root), train=part == "train") for part in ("train", "test")}
            labelled = {part: (np.asarray(one.data), self.labels(one)) for part, one in parts.items()}
        except _UNREADABLE as error:
            raise self.damaged(f"'{self._raw}' ({error})") from error
        write_images(
            self._images,
            _numbered(labelled, self.known),
            description=f"Images of {self.title}",
            total=sum(len(images) for images, _ in labelled.values()),
        )

    @override
    def split_files(self) -> OneClassSplit:
        return split_by_folders(self._images / "train", self._images / "test", self.normal_classes)

    def labels(self, dataset: Any) -> Sequence[int]:
        """Position of each image's class in ``known``."""
        return np.asarray(dataset.targets).tolist()


def _numbered(
    parts: dict[str, tuple[NDArray[Any], Sequence[int]]], classes: Sequence[str]
) -> Iterator[tuple[str, NDArray[Any]]]:
    for part, (images, labels) in parts.items():
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            yield f"{part}/{classes[label]}/{number:05}.png", pixels


class Cifar10(_ArraySet):
    """CIFAR-10: 5,000 normal training images of 32 x 32 pixels, 1,000 normal and 9,000 anomalous test images.

    Files: ``root/cifar-10-batches-py/``, as torchvision has it.
    """

    title = "CIFAR-10"
    folder = "cifar10"
    kind = datasets.CIFAR10
    contents = "cifar-10-batches-py/"
    origin = datasets.CIFAR10.url
    known: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )

    @property
    @override
    def _raw(self) -> Path:
        return self.root / str(self.kind.base_folder)

    @override
    def files(self) -> list[Path]:
        return list(self.checksums())

    @override
    def checksums(self) -> dict[Path, str]:
        listed = [*self.kind.train_list, *self.kind.test_list, (self.kind.meta["filename"], self.kind.meta["md5"])]
        return {self._raw / name: checksum for name, checksum in listed}


class Cifar100(Cifar10):
    """CIFAR-100 by its 20 coarse classes: 2,500 normal training images, 500 normal and 9,500 anomalous test images.

    Files: ``root/cifar-100-python/``, as torchvision has it.
    """

    title = "CIFAR-100"
    folder = "cifar100"
    kind = datasets.CIFAR100
    contents = "cifar-100-python/"
    origin = datasets.CIFAR100.url
    known = (
        "aquatic_mammals",
        "fish",
        "flowers",
        "food_containers",
        "fruit_and_vegetables",
        "household_electrical_devices",
        "household_furniture",
        "insects",
        "large_carnivores",
        "large_man-made_outdoor_things",
        "large_natural_outdoor_scenes",
        "large_omnivores_and_herbivores",
        "medium_mammals",
        "non-insect_invertebrates",
        "people",
        "reptiles",
        "small_mammals",
        "trees",
        "vehicles_1",
        "vehicles_2",
    )

    @override
    def labels(self, dataset: Any) -> Sequence[int]:
        part = dataset.train_list if dataset.train else dataset.test_list
        with (self._raw / part[0][0]).open("rb") as file:
            return list(pickle.load(file, encoding="latin1")["coarse_labels"])  # noqa: S301 - its checksum was right


class Mnist(_ArraySet):
    """MNIST: about 6,000 normal training images of 28 x 28 grey pixels a digit, all 10,000 test images.

    Files: ``root/MNIST/raw/``, as torchvision has it.
    """

    title = "MNIST"
    folder = "mnist"
    kind = datasets.MNIST
    contents = "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"
    origin = datasets.MNIST.mirrors[0]
    known = tuple("0123456789")

    @property
    @override
    def _raw(self) -> Path:
        return self.root / str(self.kind.__name__) / "raw"

    @override
    def files(self) -> list[Path]:
        return [self._raw / Path(name).stem for name, _ in self.kind.resources]


class FashionMnist(Mnist):
    """Fashion-MNIST: 6,000 normal training images of 28 x 28 grey pixels, 1,000 normal and 9,000 anomalous test images.

    Files: ``root/FashionMNIST/raw/``, as torchvision has it.
    """

    title = "Fashion-MNIST"
    folder = "fashion_mnist"
    kind = datasets.FashionMNIST
    contents = "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"
    origin = datasets.FashionMNIST.mirrors[0]
    known = tuple(
        f"{number}_{re.sub('[ /]', '_', name.lower())}" for number, name in enumerate(datasets.FashionMNIST.classes)
    )
