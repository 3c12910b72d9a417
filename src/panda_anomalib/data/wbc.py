"""White blood cells, "Dataset 1" of Zheng et al., Micron 107, 2018."""

import csv
from pathlib import Path

from typing_extensions import override

from panda_anomalib.data.files import find_images
from panda_anomalib.data.published import PublishedSet, find_folder
from panda_anomalib.data.splits import OneClassSplit, check_classes, split_at_random

__all__ = ["Wbc"]

_IMAGES, _LABELS = "Dataset 1", "Class Labels of Dataset 1.csv"
_TEST_RATIO = 0.2


class Wbc(PublishedSet):
    """White blood cells: 140, 42, 38 or 17 normal training images, 62 test images.

    The four large classes; the fifth has one image and is left out. floor(0.8 n) of each class are for training, drawn
    with ``seed``, because the papers do not give their split: report the spread over several seeds.

    Files: ``Dataset 1/NNN.bmp`` and ``Class Labels of Dataset 1.csv`` in root or a folder in it, as in the authors'
    repository; or the images as ``root/<class>/...``, split in the same way.
    """

    title = "WBC"
    folder = "wbc"
    contents = f"'{_IMAGES}/' and '{_LABELS}'"
    origin = "https://github.com/zxaoyou/segmentation_WBC"
    known = ("neutrophil", "lymphocyte", "monocyte", "eosinophil")  # labels 1 to 4

    @property
    def _place(self) -> Path | None:
        return find_folder(self.root, _LABELS)

    @override
    def has_files(self) -> bool:
        return self._place is not None

    @override
    def has_tree(self) -> bool:
        return super().has_tree() or any((self.root / name).is_dir() for name in self.known)

    @override
    def class_names(self) -> list[str]:
        return list(self.known)

    @override
    def split_tree(self) -> OneClassSplit:
        if super().has_tree():
            return super().split_tree()
        self._check_names()
        images = {name: find_images(self.root / name) for name in self.known if (self.root / name).is_dir()}
        check_classes("normal_class", self.normal_classes, list(images), f"class folders of '{self.root}'")
        return split_at_random(images, self.normal_classes, _TEST_RATIO, self._split_seed)

    @override
    def split_files(self) -> OneClassSplit:
        place = self._place or self.root
        images: dict[str, list[Path]] = {name: [] for name in self.known}
        for number, label in self._labels(place / _LABELS):
            path = place / _IMAGES / f"{number:03}.bmp"  # the PNG beside it is a segmentation
            if not path.is_file():
                raise self.damaged(f"no file '{path}'")
            if label <= len(self.known):
                images[self.known[label - 1]].append(path)
        return split_at_random(images, self.normal_classes, _TEST_RATIO, self._split_seed)

    def _labels(self, path: Path) -> list[tuple[int, int]]:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            next(rows, None)  # image ID, class label
            try:
                return [(int(number), int(label)) for number, label in rows]
            except ValueError as error:
                raise self.damaged(f"'{path}' with a line that is not 'number,label' ({error})") from error
