"""Images of another source for outlier exposure, brought to the technical state of the normal images."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import ImageItem
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2.functional import to_dtype, to_image, to_pil_image
from typing_extensions import override

from panda_anomalib.adaptation.near_duplicates import ImageRecord, JpegCompression, near_duplicates, record_images
from panda_anomalib.data.dataset import ImageDataset
from panda_anomalib.data.files import IMAGE_EXTENSIONS, find_images
from panda_anomalib.data.reading import read_image

__all__ = ["OutlierImages"]

logger = logging.getLogger(__name__)

_GREY_TOLERANCE = 0.5 / 255
_STANDARD_LUMINANCE_SUM = 3688  # of the table in annex K of the JPEG standard


class _Form(NamedTuple):
    """Size (width, height), colour and compression of an image: what it shows is not among them."""

    size: tuple[int, int]
    grey: bool
    jpeg: JpegCompression | None


class OutlierImages(ImageDataset):
    """Images presumed anomalous, in the form of the normal images.

    A network told to separate two sources learns whatever does it: sharpness, the grid of JPEG blocks, colour. So each
    image takes the form of one normal image, drawn by ``seed`` and its index. It is made grey if that one is grey;
    cropped in the centre to its aspect ratio and reduced to its size (never enlarged: smaller images keep their
    resolution, and stay less sharp); and encoded in memory with its JPEG quantisation tables and chroma subsampling if
    it is a JPEG. An image that has that size and compression already is left as it is. What cannot be undone stays:
    the compression of outliers at full size when the normal images have none, and missing colour.

    Copies of normal images are left out, see `near_duplicates`. Every file is looked at once when the dataset is made.
    Items are as in `ImageDataset`, with label 1.

    Args:
        root: Folder of outliers, searched recursively.
        like: Normal training images.
        match_resolution: Bring the outliers into the form of the normal images. Without it they stay as they are.
        seed: Seed of the draws.
        augmentations: Applied to each image last.

    Raises:
        FileNotFoundError: If root or an image of like does not exist.
        ValueError: If like is empty; if root holds no images, or only copies of normal ones; if images cannot be read.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        like: Sequence[str | os.PathLike[str]],
        match_resolution: bool = True,
        seed: int = 0,
        augmentations: Transform | None = None,
    ) -> None:
        root = Path(root)
        if not like:
            raise ValueError("like must name normal images, got none; outliers take their form from them.")
        if not root.is_dir():
            raise FileNotFoundError(f"root must be an existing folder of outliers, got '{root}'; check it.")
        found = find_images(root)
        if not found:
            raise ValueError(f"root must hold images ({' '.join(IMAGE_EXTENSIONS)}), got none in '{root}'; add some.")
        normals = record_images(like, "Normal images")
        outliers = record_images(found, "Outlier images")
        copies = near_duplicates(outliers, normals).tolist()
        if all(copies):
            raise ValueError(
                f"root must hold images that are not normal, got {len(found)} copies of normal training images in "
                f"'{root}'; give another folder."
            )
        kept = [path for path, copy in zip(found, copies, strict=True) if not copy]
        super().__init__([], kept, split="train", augmentations=augmentations)
        self.match_resolution = match_resolution
        self.seed = seed
        self.near_duplicates = [path for path, copy in zip(found, copies, strict=True) if copy]
        shared: dict[_Form, _Form] = {}  # few forms for many images: workers receive each once
        self._normal_forms = [shared.setdefault(form, form) for form in map(_form, normals)]
        self._own_forms = {
            str(path): shared.setdefault(form, form)
            for path, form, copy in zip(found, map(_form, outliers), copies, strict=True)
            if not copy
        }
        self._report(root, like)

    @override
    def __getitem__(self, index: int) -> ImageItem:
        """Image ``(3, H, W)`` in [0, 1], in the drawn form, after ``augmentations``; label 1 and path."""
        path = str(self.samples["image_path"].iat[index])
        image = read_image(path)
        if self.match_resolution:
            image = _bring(image, self._own_forms[path], self._drawn_form(index))
        if self.augmentations:
            image = self.augmentations(image)
        return ImageItem(image=image, gt_label=torch.tensor(1), image_path=path)

    def _drawn_form(self, index: int) -> _Form:
        return self._normal_forms[int(np.random.default_rng([self.seed, index]).integers(len(self._normal_forms)))]

    def _report(self, root: Path, like: Sequence[str | os.PathLike[str]]) -> None:
        training = {Path(path).resolve() for path in like}
        if inside := sum(path.resolve() in training for path in self.near_duplicates):
            logger.warning("The outlier folder '%s' holds %d normal training images: left out.", root, inside)
        logger.info(
            "Outliers: %d images of '%s', %d near-duplicates of normal images left out; %s.",
            *(len(self), root, len(self.near_duplicates), self._describe()),
        )
        typical = np.median([min(form.size) for form in self._normal_forms])
        smaller = sum(min(form.size) < typical for form in self._own_forms.values())
        if self.match_resolution and smaller > len(self) / 2:
            logger.warning(
                "%d of %d outliers are smaller than the typical normal image (shorter side %d): where the "
                "network's input is larger, they stay less sharp than normal images, a mark it may learn.",
                *(smaller, len(self), typical),
            )

    def _describe(self) -> str:
        if not self.match_resolution:
            return "used as they are, which shows a network their source"
        sides = [min(form.size) for form in self._normal_forms]
        compressions = Counter(form.jpeg for form in self._normal_forms if form.jpeg is not None)
        parts = [f"shorter side {min(sides)}" + (f" to {max(sides)}" if max(sides) > min(sides) else "")]
        if compressions:
            quality = _quality(compressions.most_common(1)[0][0])
            parts.append(f"JPEG of quality about {quality} ({compressions.total() / len(sides):.0%})")
        parts.append(f"grey {np.mean([form.grey for form in self._normal_forms]):.0%}")
        return f"brought to the form of the normal images ({', '.join(parts)})"


def _form(record: ImageRecord) -> _Form:
    channels = record.thumbnail.view(3, -1)
    grey = bool((channels.amax(dim=0) - channels.amin(dim=0)).max() < _GREY_TOLERANCE)
    return _Form(record.size, grey, record.jpeg)


def _bring(image: Tensor, own: _Form, target: _Form) -> Tensor:
    """An image ``(3, H, W)`` in the size, colour and compression of a normal image."""
    same_size, same_jpeg = own.size == target.size, target.jpeg in (None, own.jpeg)
    if same_size and same_jpeg and own.grey >= target.grey:
        return image
    picture = to_pil_image(to_dtype(image, torch.uint8, scale=True))
    if target.grey:
        picture = picture.convert("L")
    if not same_size:
        # never enlarged: the network's own resize does that, for small normal images and outliers alike
        shrink = min(1.0, picture.width / target.size[0], picture.height / target.size[1])
        size = (max(1, round(shrink * target.size[0])), max(1, round(shrink * target.size[1])))
        picture = ImageOps.fit(picture, size, Image.Resampling.BILINEAR)  # sharper filters outdo CIFAR-10's sharpness
    if target.jpeg is not None and not (same_size and same_jpeg):
        picture = _compress(picture, target.jpeg)
    matched: Tensor = to_dtype(to_image(picture.convert("RGB")), torch.float32, scale=True)
    return matched


def _compress(picture: Image.Image, jpeg: JpegCompression) -> Image.Image:
    file = BytesIO()
    tables = jpeg.tables[:1] if picture.mode == "L" else jpeg.tables
    picture.save(file, "JPEG", qtables=tables, subsampling=jpeg.subsampling)
    return Image.open(file)


def _quality(jpeg: JpegCompression) -> int:
    """Quality setting at which the reference encoder would use tables as coarse; of other encoders an estimate."""
    percent = 100 * sum(jpeg.tables[0]) / _STANDARD_LUMINANCE_SUM
    return round(5000 / percent if percent > 100 else (200 - percent) / 2)
