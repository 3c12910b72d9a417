"""The demo images: crops of real photographs that ship with scikit-image, with and without drawn defects."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from PIL import Image

from panda_anomalib.data.demo_defects import DEFECTS, Mask, Pixels, draw_defect

__all__ = ["ABOUT", "CATEGORIES", "EDITION", "DemoFile", "draw_demo"]

EDITION = 1
"""Counts up whenever the same seed gives other images: folders of another edition are not taken for this one."""
CATEGORIES = {"brick": 0.7, "grass": 1.6, "gravel": 1.1}
"""Photographs, and how large their defects are: what is plain on bricks is nothing among blades of grass."""
ABOUT = (
    "Demo images of panda_anomalib in MVTec's folder layout. Every image is an enlarged crop of one photograph: left "
    "and top in its pixels, quarter turns, then mirrored or not, brightness. Training and test images come from "
    "different bands of it. Defects are drawn. The photographs (skimage.data: brick, grass, gravel) are CC0."
)

_PHOTO, _CROP, _SIDE = 512, 80, 256  # pixels: side of the photograph, of a crop, and of the image made of it
_TRAIN_TOPS, _TEST_BANDS = (0, 32, 192, 240, 400, 432), ((112, 192), (320, 400))  # rows of the photograph, disjoint
_STEP = 36  # columns between neighbouring training crops
_NUM_GOOD, _NUM_EACH_DEFECT = 60, 15
_LIGHT = 0.85, 1.15  # a camera outdoors; without it the mean brightness alone would find many defects


class DemoFile(NamedTuple):
    """One file of the demo: path inside the category's folder, content, and how the image was made."""

    path: str
    content: bytes
    origin: dict[str, Any]


class _Crop(NamedTuple):
    left: int
    top: int
    turns: int
    mirrored: bool
    light: float

    def of(self, photo: Pixels) -> Pixels:
        pixels = np.rot90(photo[self.top : self.top + _CROP, self.left : self.left + _CROP], self.turns)
        pixels = pixels[:, ::-1] if self.mirrored else pixels
        return np.ascontiguousarray(pixels * np.float32(self.light))


def draw_demo(category: str, seed: int) -> Iterator[DemoFile]:
    """Draw the images and masks of a category; the same seed gives the same ones.

    The folders are ``train/good``, ``test/good``, ``test/<defect>`` and ``ground_truth/<defect>``.
    """
    from skimage import data  # not at the top: it takes a second, and most runs find the images drawn

    photographs: Any = data  # untyped
    photos = {name: getattr(photographs, name)().astype(np.float32) for name in CATEGORIES}
    photo, others = photos[category], [photos[name] for name in CATEGORIES if name != category]
    rng = np.random.default_rng([seed, list(CATEGORIES).index(category)])

    for number, crop in enumerate(_training_crops(rng)):
        yield DemoFile(f"train/good/{number:03}.png", _png(crop.of(photo)), crop._asdict())
    for number in range(_NUM_GOOD):
        crop = _test_crop(rng)
        yield DemoFile(f"test/good/{number:03}.png", _png(crop.of(photo)), crop._asdict())
    for kind in DEFECTS:
        for number in range(_NUM_EACH_DEFECT):
            crop, foreign = _test_crop(rng), _test_crop(rng)
            other = foreign.of(others[rng.integers(len(others))])
            pixels, mask = draw_defect(kind, crop.of(photo), size=CATEGORIES[category], other=other, rng=rng)
            yield DemoFile(f"test/{kind}/{number:03}.png", _png(pixels), crop._asdict())
            yield DemoFile(f"ground_truth/{kind}/{number:03}_mask.png", _mask_png(mask), {})


def _training_crops(rng: np.random.Generator) -> Iterator[_Crop]:
    """Crops that overlap, but never turned and mirrored alike: images that are nearly the same would make the
    threshold, which comes from the distances between training images, too strict.
    """  # noqa: D205 - one sentence
    number = int(rng.integers(8))
    for top in _TRAIN_TOPS:
        for left in range(0, _PHOTO - _CROP + 1, _STEP):
            yield _Crop(left, top, number % 4, number % 8 >= 4, _light(rng))
            number += 1


def _test_crop(rng: np.random.Generator) -> _Crop:
    first, last = _TEST_BANDS[rng.integers(len(_TEST_BANDS))]
    left, top = int(rng.integers(_PHOTO - _CROP + 1)), int(rng.integers(first, last - _CROP + 1))
    return _Crop(left, top, int(rng.integers(4)), bool(rng.integers(2)), _light(rng))


def _light(rng: np.random.Generator) -> float:
    return round(float(rng.uniform(*_LIGHT)), 3)


def _png(pixels: Pixels) -> bytes:
    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return _encode(image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def _mask_png(mask: Mask) -> bytes:
    soft = Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return _encode(Image.fromarray((np.asarray(soft) >= 128).astype(np.uint8) * np.uint8(255)))


def _encode(image: Image.Image) -> bytes:
    # A tenth of the time that Pillow takes, which tries all filters on each row.
    return bytes(imagecodecs.png_encode(np.asarray(image), level=1, filter=imagecodecs.PNG.FILTER.UP))
