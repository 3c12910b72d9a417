"""Copies of normal images among other images: the same bytes, or the same picture stored at another size or quality."""

import hashlib
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import ExifTags, Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile, get_sampling
from torch import Tensor
from torchvision.transforms.v2.functional import resize, to_dtype, to_image

from panda_anomalib.data.reading import read_image
from panda_anomalib.progress import track
from panda_anomalib.scorers.search import mean_and_norms, nearest

__all__ = ["ImageRecord", "JpegCompression", "near_duplicates", "record_images"]

_THUMBNAIL = 8  # pixels a side
_SHARE_OF_SPACING = 0.25
_SPACING_SAMPLE = 2000  # normal images whose nearest neighbour is searched for the typical spacing
_SEARCH_BLOCK = 1024
_NAMED_IN_ERRORS = 5


class JpegCompression(NamedTuple):
    """What decides how a JPEG encoder changes a picture: quantisation tables, chroma subsampling as Pillow counts."""

    tables: tuple[tuple[int, ...], ...]
    subsampling: int


class ImageRecord(NamedTuple):
    """What is kept of an image file after one look.

    Attributes:
        digest: Hash of the file's bytes.
        thumbnail: ``(192,)``, 8 x 8 pixels RGB in [0, 1].
        size: Width and height in pixels, upright.
        jpeg: None for files of other formats.
    """

    digest: bytes
    thumbnail: Tensor
    size: tuple[int, int]
    jpeg: JpegCompression | None


def record_images(paths: Sequence[str | os.PathLike[str]], description: str) -> list[ImageRecord]:
    """Look at every file once, in threads and with progress; JPEGs are decoded only as far as a thumbnail needs.

    Args:
        paths: Image files.
        description: What the progress bar says.

    Raises:
        ValueError: If images cannot be read; it names the first of them.
    """
    records: list[ImageRecord] = []
    damage: list[ValueError] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for record in track(pool.map(_record, paths), description, total=len(paths)):
            if isinstance(record, ImageRecord):
                records.append(record)
            else:
                damage.append(record)
    if damage:
        named = "; ".join(str(error) for error in damage[:_NAMED_IN_ERRORS])
        more = f"; and {len(damage) - _NAMED_IN_ERRORS} more" if len(damage) > _NAMED_IN_ERRORS else ""
        raise ValueError(
            f"images must be readable, got {len(damage)} of {len(paths)} that are not ({named}{more}); "
            "repair or remove them."
        )
    return records


def near_duplicates(images: Sequence[ImageRecord], normals: Sequence[ImageRecord]) -> Tensor:
    """Which images are copies of a normal image.

    A copy has the same bytes, or lies, as a thumbnail, within a quarter of the typical spacing of the normal images:
    the median of their distances to the nearest other one. So pictures of one part in one place are told apart where
    photographs of horses need not be. Recompressed and rescaled copies are found; cropped, mirrored or recoloured
    ones are not. Hashes of 64 bits (difference or cosine) would not do: between a defective screw and a normal one
    they differ in no bit.

    Shapes: result ``(len(images),)``, bool.

    Args:
        images: Images to judge.
        normals: Normal images; of a single one only exact copies are found.
    """
    known = {record.digest for record in normals}
    copies = torch.tensor([record.digest in known for record in images], dtype=torch.bool)
    if len(normals) > 1 and len(images):
        bank = torch.stack([record.thumbnail for record in normals])
        sample = torch.arange(0, len(bank), max(1, len(bank) // _SPACING_SAMPLE))
        spacing = _distances(bank[sample], bank, exclude=sample).median()
        thumbnails = torch.stack([record.thumbnail for record in images])
        copies |= _distances(thumbnails, bank) < _SHARE_OF_SPACING * spacing
    return copies


def _distances(queries: Tensor, bank: Tensor, exclude: Tensor | None = None) -> Tensor:
    mean, norms = mean_and_norms(bank)
    nearest_squared = []
    for start in range(0, len(queries), _SEARCH_BLOCK):
        rows = slice(start, start + _SEARCH_BLOCK)
        itself = None if exclude is None else exclude[rows]
        nearest_squared.append(nearest(queries[rows], bank, mean, norms, 1, exclude=itself)[0][:, 0])
    return torch.cat(nearest_squared).sqrt()


def _record(path: str | os.PathLike[str]) -> ImageRecord | ValueError:
    data = Path(path).read_bytes()
    try:
        pixels, size, jpeg = _read_small_jpeg(data) or _read_whole(path)
    except ValueError as error:
        return error
    thumbnail = resize(pixels, [_THUMBNAIL, _THUMBNAIL], antialias=True).flatten()
    return ImageRecord(hashlib.blake2b(data, digest_size=16).digest(), thumbnail, size, jpeg)


def _read_small_jpeg(data: bytes) -> tuple[Tensor, tuple[int, int], JpegCompression | None] | None:
    """Pixels of a JPEG, reduced where it is large, with its true size and compression; None for anything else."""
    try:
        with Image.open(BytesIO(data)) as image:
            if not isinstance(image, JpegImageFile):
                return None
            jpeg = JpegCompression(tuple(map(tuple, image.quantization.values())), get_sampling(image))
            lies = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # width and height are exchanged
            size = image.size[::-1] if lies else image.size
            image.draft(None, (4 * _THUMBNAIL, 4 * _THUMBNAIL))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return to_dtype(to_image(upright), torch.float32, scale=True), size, jpeg
    except (OSError, SyntaxError, ValueError, struct.error):
        return None  # `read_image` names the cause


def _read_whole(path: str | os.PathLike[str]) -> tuple[Tensor, tuple[int, int], JpegCompression | None]:
    pixels = read_image(path)
    return pixels, (pixels.shape[2], pixels.shape[1]), None
