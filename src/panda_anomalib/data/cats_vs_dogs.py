"""Cats against dogs: the photographs of Asirra, and those of Oxford-IIIT Pet."""

import re
from collections.abc import Iterator
from pathlib import Path

from torchvision.datasets import OxfordIIITPet
from typing_extensions import override

from panda_anomalib.data.files import find_images
from panda_anomalib.data.published import PublishedSet, find_folder
from panda_anomalib.data.splits import OneClassSplit, split_table

__all__ = ["CatsVsDogs", "OxfordPets"]

_TRAINING = 10_000  # images of each class; the papers test on the 2,500 behind them


class CatsVsDogs(PublishedSet):
    """Cats and dogs of Asirra: 10,000 normal training images, 2,500 normal and 2,500 anomalous test images.

    Files numbered below 10,000 are for training, the others for testing. Two images of Microsoft's archive cannot be
    read: with it, set ``on_corrupt`` to "skip". Nothing downloads it: for cats and dogs that can be, see `OxfordPets`.

    Files: ``PetImages/Cat/N.jpg`` and ``PetImages/Dog/N.jpg`` (Microsoft), or ``train/cat.N.jpg`` and
    ``train/dog.N.jpg`` (Kaggle).
    """

    title = "CatsVsDogs"
    folder = "cats_vs_dogs"
    contents = "PetImages/{Cat,Dog}/N.jpg or train/{cat,dog}.N.jpg"
    origin = "https://www.microsoft.com/en-us/download/details.aspx?id=54765"
    known = ("cat", "dog")

    @override
    def has_files(self) -> bool:
        kaggle = (self.root / "train").glob("cat.*.jpg")
        return find_folder(self.root, "PetImages") is not None or next(kaggle, None) is not None

    @override
    def split_files(self) -> OneClassSplit:
        rows = [(path, name, number < _TRAINING) for path, name, number in self._numbered()]
        for name in self.known:
            if {trains for _, other, trains in rows if other == name} != {True, False}:
                raise self.damaged(
                    f"images of class '{name}' on one side of number {_TRAINING} only (of cats and dogs of your own, "
                    "OneClassFolder makes a split)"
                )
        return split_table(rows, self.normal_classes, self.title, f"files below number {_TRAINING} are for training")

    def _numbered(self) -> Iterator[tuple[Path, str, int]]:
        """Path, class and number of each image."""
        pets = find_folder(self.root, "PetImages")
        if pets is not None:
            pattern, folder = re.compile(r"(Cat|Dog)/(\d+)\.jpg"), pets / "PetImages"
        else:
            pattern, folder = re.compile(r"(cat|dog)\.(\d+)\.jpg"), self.root / "train"
        for path in find_images(folder) if folder.is_dir() else []:
            if match := pattern.fullmatch(path.relative_to(folder).as_posix()):
                yield path, match[1].lower(), int(match[2])


class OxfordPets(PublishedSet):
    """Cats against dogs of Oxford-IIIT Pet: its own split, about 1,200 cats and 2,500 dogs on either side.

    It is no data set of the papers; its photographs can be downloaded, those of `CatsVsDogs` cannot.

    Files: ``root/oxford-iiit-pet/`` with ``images/`` and ``annotations/``, as torchvision has it.
    """

    title = "Oxford-IIIT Pet"
    folder = "oxford_pets"
    contents = "oxford-iiit-pet/ with images/ and annotations/"
    origin = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
    known = ("cat", "dog")

    @override
    def files(self) -> list[Path]:
        inside = ("images", "annotations/trainval.txt", "annotations/test.txt")
        return [self.root / "oxford-iiit-pet" / name for name in inside]

    @override
    def fetch(self) -> None:
        OxfordIIITPet(str(self.root), download=True)

    @override
    def split_files(self) -> OneClassSplit:
        rows = [row for part in ("trainval", "test") for row in self._listed(part)]
        return split_table(rows, self.normal_classes, self.title, "official split")

    def _listed(self, part: str) -> Iterator[tuple[Path, str, bool]]:
        folder = self.root / "oxford-iiit-pet"
        for line in (folder / f"annotations/{part}.txt").read_text(encoding="utf-8").splitlines():
            name, _, species, _ = line.split()  # image, breed, 1 for a cat or 2 for a dog, breed among these
            yield folder / f"images/{name}.jpg", self.known[int(species) - 1], part == "trainval"
