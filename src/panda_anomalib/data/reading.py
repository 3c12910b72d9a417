"""Truthful image reading: what the file shows is what the network sees.

anomalib 2.7 reads with ``Image.open(path).convert("RGB")``, which turns 16-bit grey images white, float images
black, ignores the orientation a camera stored in EXIF, and shows the hidden colours of transparent pixels.
"""

import os
import struct
import time
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_dtype, to_image

from panda_anomalib.data.deep_pixels import decode_deep_tiff, is_deep_tiff, to_unit_range, turn_upright

__all__ = ["describe_hazard", "read_image", "verify_images"]

# What Pillow's plugins, tifffile and imagecodecs raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    RuntimeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    tifffile.TiffFileError,  # a ValueError only in newer releases than Python 3.10 has
)
_SHOW_PROGRESS_AFTER_S = 1.0
_TIFF_SUFFIXES = {".tif", ".tiff"}


def read_image(path: str | os.PathLike[str]) -> tv_tensors.Image:
    """Read an image file as RGB.

    8-bit images (grey, RGB, palette, CMYK) give exactly anomalib's values. Grey and RGB with 9 to 16 bits are divided
    by their largest value (65535 for 16 bits); 32-bit integers are taken as 16-bit data. Float TIFFs are taken as they
    are. Transparent pixels are composited over white. The EXIF orientation is applied. Of several pages or frames the
    first is read. 16-bit CMYK and PPM colour images come with 8 bits.

    Args:
        path: File in any format with one of anomalib's extensions.

    Returns:
        Float32 image of shape ``(3, H, W)`` with values in [0, 1].

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file cannot be decoded (the message names file and cause), or if its float or 32-bit values
            leave the range that has a meaning. They are never stretched to fit: each image would get its own scale.
    """
    try:
        return _decode(path)
    except FileNotFoundError:
        raise
    except _DECODE_ERRORS as error:
        raise ValueError(f"image {os.fspath(path)!r} cannot be read: {error}") from error


def describe_hazard(path: str | os.PathLike[str]) -> str | None:
    """Say why anomalib's own reader would misread this file, from the header only.

    Returns:
        Some of "16-bit", "float", "EXIF rotation", "alpha", joined by commas; None if anomalib reads the file
        truthfully, or fails on it and so cannot misread it.
    """
    try:
        with Image.open(path) as image:
            # A PNG's getexif() decodes the pixels in search of late chunks. Pillow itself turns TIFFs upright.
            search_exif = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
            hazards = {
                "16-bit": image.mode.startswith("I") or is_deep_tiff(image, planar=True),
                "float": image.mode == "F",
                "EXIF rotation": search_exif and image.getexif().get(ExifTags.Base.Orientation, 1) != 1,
                "alpha": image.has_transparency_data,
            }
    except _DECODE_ERRORS:
        return None
    return ", ".join(name for name, found in hazards.items() if found) or None


def verify_images(
    paths: Iterable[str | os.PathLike[str]],
    *,
    workers: int | None = None,
) -> dict[Path, str]:
    """Find the images that cannot be read, by decoding all of them as cheaply as detection of truncation allows.

    Args:
        paths: Image files.
        workers: Threads; None takes one per processor, at most 8.

    Returns:
        Cause by path, of the unreadable images only. A progress bar appears if it takes more than a second.
    """
    files = [Path(path) for path in paths]
    reasons: dict[Path, str] = {}
    started = time.monotonic()
    progress = Progress(transient=True, console=Console(stderr=True))
    task = progress.add_task("Checking images", total=len(files))
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        try:
            for file, reason in zip(files, pool.map(_find_damage, files), strict=True):
                if reason is not None:
                    reasons[file] = reason
                progress.advance(task)
                if not progress.live.is_started and time.monotonic() - started > _SHOW_PROGRESS_AFTER_S:
                    progress.start()
        finally:
            if progress.live.is_started:  # else it would print an empty line
                progress.stop()
    return reasons


def _find_damage(path: Path) -> str | None:
    try:
        if path.suffix.lower() in _TIFF_SUFFIXES:
            _decode(path)
            return None
        with Image.open(path) as image:
            image.draft("L", (1, 1))  # JPEG at 1/8 scale: skips most of the transform, yet reads every byte
            image.load()
    except _DECODE_ERRORS as error:
        return str(error)
    return None


def _decode(path: str | os.PathLike[str]) -> tv_tensors.Image:
    try:
        opened = Image.open(path)
    except UnidentifiedImageError:
        if Path(path).suffix.lower() in _TIFF_SUFFIXES:  # such as float RGB, which Pillow does not know
            return decode_deep_tiff(path)
        raise
    with opened as image:
        if is_deep_tiff(image):
            return decode_deep_tiff(path)
        if image.format == "PNG" and image.tile and str(image.tile[0][3]).endswith(";16B"):
            deep = imagecodecs.png_decode(Path(path).read_bytes())  # Pillow would cut colour to 8 bits
            return to_unit_range(turn_upright(deep, image.getexif().get(ExifTags.Base.Orientation, 1)), 65535)
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I") or image.mode == "F":
            return to_unit_range(np.asarray(image), 1 if image.mode == "F" else 65535)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image.convert("RGBA"))
            return _to_tensor(white)
        return _to_tensor(image)


def _to_tensor(image: Image.Image) -> tv_tensors.Image:
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy
    tensor: tv_tensors.Image = to_dtype(to_image(rgb), torch.float32, scale=True)
    return tensor
