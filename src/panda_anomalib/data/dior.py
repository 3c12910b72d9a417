"""Crops of the objects in the aerial images of DIOR (Li et al., ISPRS 159, 2020)."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from panda_anomalib.data.files import find_classes, find_images
from panda_anomalib.data.published import PublishedSet, find_folder
from panda_anomalib.data.splits import OneClassSplit, check_classes, split_by_folders
from panda_anomalib.data.unpacking import write_images
from panda_anomalib.progress import track

__all__ = ["Dior"]

_LARGER_THAN = 120  # pixels, on both sides of the bounding box
_MORE_THAN = 50  # crops of a class
_PARTS = {"train": "JPEGImages-trainval", "test": "JPEGImages-test"}

_SIDES = ("xmin", "ymin", "xmax", "ymax")

Box = tuple[int, int, int, int]


class Dior(PublishedSet):
    """DIOR: crops of objects larger than 120 x 120 pixels, of classes that have more than 50 of them.

    The papers do not give their split (649 training crops a class on average, 9,243 test crops). Here the crops of an
    image are where the image is officially, in the training and validation part or in the test part, so that no image
    shows on both sides: the counts differ from theirs. Crops are cut by the horizontal bounding box and written once as
    PNG files, ``root/dior-images/<part>/<class>/<image>_<object>.png``.

    Files: ``Annotations/Horizontal Bounding Boxes/NNNNN.xml`` (or directly in ``Annotations``),
    ``JPEGImages-trainval/`` and ``JPEGImages-test/``, in root or a folder in it.
    """

    title = "DIOR"
    folder = "dior"
    contents = "'Annotations/', 'JPEGImages-trainval/' and 'JPEGImages-test/'"
    origin = "http://www.escience.cn/people/gongcheng/DIOR.html"

    @property
    def _crops(self) -> Path:
        return self.root / f"{self.folder}-images"

    @property
    def _place(self) -> Path | None:
        return find_folder(self.root, "Annotations", *_PARTS.values())

    @override
    def has_files(self) -> bool:
        return self._crops.is_dir() or self._place is not None

    @override
    def papers_classes(self) -> list[str]:
        if not self._crops.is_dir():
            return []
        count: Counter[str] = Counter()
        for part in _PARTS:
            count.update(
                {name: len(find_images(self._crops / part / name)) for name in find_classes(self._crops / part)}
            )
        return sorted(name for name, crops in count.items() if crops > _MORE_THAN)

    @override
    def unpack(self) -> None:
        place = self._place
        if self._crops.is_dir() or place is None:
            return
        annotations = place / "Annotations/Horizontal Bounding Boxes"
        annotations = annotations if annotations.is_dir() else place / "Annotations"
        images = [(part, image) for part, folder in _PARTS.items() for image in find_images(place / folder)]
        objects = [
            (part, image, self._read_objects(annotations / f"{image.stem}.xml"))
            for part, image in track(images, f"Annotations of {self.title}")
        ]
        total = sum(len(found) for _, _, found in objects)
        if not total:
            raise self.damaged(f"no object larger than {_LARGER_THAN} pixels in '{annotations}'")
        write_images(self._crops, _cut(objects), description=f"Crops of {self.title}", total=total)

    def _read_objects(self, path: Path) -> list[tuple[int, str, Box]]:
        """Position, class and box of the objects that are large enough."""
        if not path.is_file():
            raise self.damaged(f"no file '{path}'")
        try:
            elements = ElementTree.parse(path).iter("object")  # noqa: S314 - the data set's own files
            objects = [(element.findtext("name", "").strip(), _read_box(element)) for element in elements]
        except (ElementTree.ParseError, ValueError) as error:
            raise self.damaged(f"'{path}', which cannot be read ({error})") from error
        return [(number, name, box) for number, (name, box) in enumerate(objects) if _is_large(box)]

    @override
    def split_files(self) -> OneClassSplit:
        classes = self.papers_classes()
        check_classes(
            "normal_class", self.normal_classes, classes, f"classes of {self.title} with more than {_MORE_THAN} crops"
        )
        return split_by_folders(self._crops / "train", self._crops / "test", self.normal_classes, classes)


def _read_box(element: ElementTree.Element) -> Box:
    left, top, right, bottom = (int(float(element.findtext(f"bndbox/{side}", ""))) for side in _SIDES)
    return left, top, right, bottom


def _is_large(box: Box) -> bool:
    left, top, right, bottom = box
    return min(right - left, bottom - top) > _LARGER_THAN


def _cut(objects: list[tuple[str, Path, list[tuple[int, str, Box]]]]) -> Iterator[tuple[str, NDArray[Any]]]:
    for part, path, found in objects:
        if found:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            for number, name, (left, top, right, bottom) in found:
                yield f"{part}/{name}/{path.stem}_{number:03}.png", pixels[top:bottom, left:right]
