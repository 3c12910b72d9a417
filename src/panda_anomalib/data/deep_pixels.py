"""Pixels with more than 8 bits: as unsigned integers, or as floats."""

import os
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torchvision import tv_tensors

__all__ = ["decode_deep_tiff", "is_deep_tiff", "to_unit_range", "turn_upright"]

_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR_CONFIGURATION = 258, 262, 284  # TIFF tags
_GREY_OR_RGB = {0, 1, 2}  # values of the photometric tag: min-is-white, min-is-black, RGB


def is_deep_tiff(image: Image.Image, *, planar: bool = False) -> bool:
    """Whether it is grey or RGB with more bits than Pillow keeps (and, with ``planar``, stored so that it errs)."""
    if image.format != "TIFF":
        return False
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    deep = max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8 and tags.get(_PHOTOMETRIC) in _GREY_OR_RGB
    return deep and (not planar or tags.get(_PLANAR_CONFIGURATION) == 2)


def decode_deep_tiff(path: str | os.PathLike[str]) -> tv_tensors.Image:
    """Read the first page of a grey or RGB TIFF of any depth as float32 ``(3, H, W)`` in [0, 1], turned upright.

    Raises:
        ValueError: If it is neither grey nor RGB, or its values leave the range that has a meaning.
    """
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages[0]
        if page.photometric not in _GREY_OR_RGB:
            raise ValueError(f"a TIFF beyond 8 bits must be grey or RGB, got photometric {page.photometric!r}")
        pixels = page.asarray()
        if page.axes == "SYX":  # stored plane by plane
            pixels = np.moveaxis(pixels, 0, -1)
        largest = 1 if pixels.dtype.kind == "f" else 2 ** min(16, page.bitspersample) - 1
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            pixels = largest - pixels
        orientation = page.tags.get(ExifTags.Base.Orientation)
        return to_unit_range(turn_upright(pixels, orientation.value if orientation else 1), largest)


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply the EXIF orientation 1 to 8 to ``(H, W)`` or ``(H, W, C)``."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return pixels


def to_unit_range(pixels: NDArray[Any], largest: float) -> tv_tensors.Image:
    """``(H, W)`` or ``(H, W, 1 to 4)`` (grey or RGB, with or without alpha) to ``(3, H, W)``; ``largest`` becomes 1."""
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= largest):  # also not for NaN
        raise ValueError(
            f"pixel values must be within [0, {largest}], got {low:g} to {high:g}; rescale all images by one fixed "
            "range (not each by its own) and save them with 16 bits",
        )
    image = torch.from_numpy(pixels.astype(np.float32) / np.float32(largest))
    if image.ndim == 2:
        image = image.unsqueeze(-1)
    channels = image.shape[-1]
    if image.ndim != 3 or channels > 4:
        raise ValueError(f"an image must have 1 to 4 channels, got an array of shape {tuple(pixels.shape)}")
    if channels in {2, 4}:
        alpha = image[..., -1:]
        image = image[..., :-1] * alpha + (1 - alpha)
    return tv_tensors.Image(image.permute(2, 0, 1).expand(3, -1, -1).contiguous())
