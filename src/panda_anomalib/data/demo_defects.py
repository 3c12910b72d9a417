"""Defects for the demo images: each is drawn into a grey image and comes with the mask of where it is."""

from collections.abc import Callable

import numpy as np
import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["DEFECTS", "Mask", "Pixels", "draw_defect"]

Pixels = NDArray[np.float32]  # (side, side), grey, 0 to 255
Mask = NDArray[np.bool_]  # (side, side), True in the defect

DEFECTS = ("perlin", "scratch", "foreign", "missing")

_EDGE = 1 / 14  # of the side: what models cut away that take the middle 224 of 256 pixels, and a little more
_PERLIN_AREA = 0.06, 0.2  # of the image, for size 1
_PERLIN_CONTRAST = 30  # mean difference in grey levels, below which an eye overlooks it
_PERLIN_TRIES = 1000  # some ten are needed


def draw_defect(
    kind: str,
    pixels: Pixels,
    *,
    size: float,
    other: Pixels,
    rng: np.random.Generator,
) -> tuple[Pixels, Mask]:
    """Draw one defect into a copy of an image, away from its edge.

    Args:
        kind: ``perlin`` (anomalib's generator), ``scratch`` (a few dark lines), ``foreign`` (a patch of another
            material) or ``missing`` (the material is gone from a place).
        pixels: The image.
        size: Factor of the lengths of all defects.
        other: Another material, of the same shape, for ``foreign``.
        rng: Decides shape, place and strength.

    Returns:
        The image with the defect, and the mask; edges are soft, the mask ends half way.

    Raises:
        ValueError: For another kind.
    """
    side = len(pixels)
    if kind == "perlin":
        return _add_perlin(pixels, size, rng)
    if kind == "scratch":
        weights = np.maximum.reduce([_line(side, size, rng) for _ in range(rng.integers(3, 5))])
        inside = np.full_like(pixels, pixels.mean() * rng.uniform(0.1, 0.3))
    elif kind == "foreign":  # as bright on average as what it covers: its texture tells it
        weights = _blob(side, 0.18 * size, 0.24 * size, rng)
        inside = other - other.mean() + pixels.mean()
    elif kind == "missing":  # smooth, darker ground with fine grain
        weights = _blob(side, 0.15 * size, 0.20 * size, rng)
        inside = (pixels.mean() * rng.uniform(0.55, 0.75) + rng.normal(0, 5, size=pixels.shape)).astype(np.float32)
    else:
        raise ValueError(f"kind must be one of {', '.join(DEFECTS)}, got {kind!r}; choose one of them.")
    return pixels + weights * (inside - pixels), weights > 0.5


def _add_perlin(pixels: Pixels, size: float, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """Synthetic anomaly of anomalib; those that are tiny, huge, hardly visible or at the edge are drawn again."""
    smallest, largest = (area * size**2 for area in _PERLIN_AREA)
    edge = round(_EDGE * len(pixels))
    image = torch.from_numpy(pixels / np.float32(255)).expand(3, -1, -1)
    with torch.random.fork_rng(devices=[]):  # the generator draws from torch's global one
        torch.manual_seed(int(rng.integers(2**63)))
        generator = PerlinAnomalyGenerator(probability=1.0, blend_factor=(0.6, 1.0))
        for _ in range(_PERLIN_TRIES):
            changed, masks = generator(image)
            drawn = changed.mean(dim=0).clamp(0, 1).numpy() * np.float32(255)
            mask = masks[0].numpy() > 0.5
            inside = mask[edge:-edge, edge:-edge].sum()
            if (
                smallest <= inside / mask.size
                and mask.mean() <= largest
                and inside >= 0.8 * mask.sum()
                and np.abs(drawn - pixels)[mask].mean() >= _PERLIN_CONTRAST
            ):
                return drawn, mask
    raise RuntimeError(f"PerlinAnomalyGenerator must give a fitting defect in {_PERLIN_TRIES} tries, got none.")


def _line(side: int, size: float, rng: np.random.Generator) -> Pixels:
    """A slightly crooked line."""
    directions = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.12, size=16))
    length = side * min(rng.uniform(0.45, 0.75) * size, 0.85)
    line = np.cumsum(np.stack([np.cos(directions), np.sin(directions)], axis=1) * length / 16, axis=0)
    lowest, highest = line.min(axis=0), line.max(axis=0)
    room = np.maximum(side * (0.5 - _EDGE) - (highest - lowest) / 2, 0)
    line += side / 2 - (lowest + highest) / 2 + rng.uniform(-room, room)
    points, width = [tuple(point) for point in line.tolist()], round(rng.integers(3, 5) * size)
    return _weights(side, lambda canvas: canvas.line(points, fill=255, width=width, joint="curve"))


def _blob(side: int, smallest: float, largest: float, rng: np.random.Generator) -> Pixels:
    """An uneven round shape; its radius is between these shares of the side."""
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    waves = 1 + 0.25 * np.sin(angles * rng.integers(2, 5) + rng.uniform(0, 6)) * rng.uniform(0.3, 1)
    radius = side * rng.uniform(smallest, largest)
    nearest = min(side * _EDGE + 1.25 * radius, side / 2)
    left, top = rng.uniform(nearest, side - nearest, size=2)
    outline = [(left + r * np.cos(a), top + r * np.sin(a)) for r, a in zip(radius * waves, angles, strict=True)]
    return _weights(side, lambda canvas: canvas.polygon(outline, fill=255))


def _weights(side: int, draw: Callable[[ImageDraw.ImageDraw], None]) -> Pixels:
    """What ``draw`` paints white, with soft edges, as weights between 0 and 1."""
    canvas = Image.new("L", (side, side))
    draw(ImageDraw.Draw(canvas))
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32) / np.float32(255)
