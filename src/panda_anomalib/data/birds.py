"""Caltech-UCSD Birds 200 (2011)."""

from collections.abc import Iterator
from pathlib import Path

from torchvision.datasets.utils import download_and_extract_archive
from typing_extensions import override

from panda_anomalib.data.published import PublishedSet, find_folder
from panda_anomalib.data.splits import OneClassSplit, split_table

__all__ = ["Birds200"]

_PAPERS = 20  # of 200 classes are normal in turn
_URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
_MD5 = "97eceeb196236b17998738112f37df78"


class Birds200(PublishedSet):
    """Caltech-UCSD Birds 200-2011: about 30 normal training images, all 5,794 test images.

    The official split. The papers take the first 20 classes as normal in turn.

    Files: ``root/CUB_200_2011/`` with ``images/``, ``images.txt``, ``image_class_labels.txt``, ``classes.txt`` and
    ``train_test_split.txt``.
    """

    title = "Caltech-UCSD Birds 200"
    folder = "birds200"
    contents = "CUB_200_2011/"
    origin = _URL

    @property
    def _place(self) -> Path | None:
        return find_folder(self.root, "images.txt", "train_test_split.txt")

    @override
    def has_files(self) -> bool:
        return self._place is not None

    @override
    def fetch(self) -> None:
        download_and_extract_archive(_URL, str(self.root), md5=_MD5)

    @override
    def papers_classes(self) -> list[str]:
        place = self._place
        return [] if place is None else list(self._read(place / "classes.txt").values())[:_PAPERS]

    @override
    def split_files(self) -> OneClassSplit:
        place = self._place or self.root
        names, labels, classes, training = (
            self._read(place / f"{name}.txt")
            for name in ("images", "image_class_labels", "classes", "train_test_split")
        )
        try:
            rows = [(place / "images" / name, classes[labels[i]], training[i] == "1") for i, name in names.items()]
        except KeyError as error:
            raise self.damaged(f"no line for number {error} in a list of '{place}'") from error
        return split_table(rows, self.normal_classes, self.title, "official split")

    def _read(self, path: Path) -> dict[str, str]:
        """Lines ``<number> <value>``."""
        if not path.is_file():
            raise self.damaged(f"no file '{path}'")
        return dict(_pairs(path))


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            key, _, value = line.strip().partition(" ")
            yield key, value.strip()
