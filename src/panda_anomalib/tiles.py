"""What pictures are made of: tiles with an image or why there is none, texts that fit, and PNG files."""

from functools import cache
from pathlib import Path

import imagecodecs
import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from panda_anomalib.overview import Thumbnails

__all__ = ["FAINT", "INK", "draw_tile", "encode_png", "font", "short_name", "shorten"]

INK, FAINT = "#1A1A1A", "#6B6B6B"


def draw_tile(canvas: Image.Image, corner: tuple[int, int], size: int, path: str, source: Thumbnails) -> None:
    """Draw an image file into a square at ``corner``; one that is gone or broken is a grey tile that says so."""
    (x, y), draw = corner, ImageDraw.Draw(canvas)
    picture = source.get(path)
    if isinstance(picture, str):
        draw.rectangle([x, y, x + size - 1, y + size - 1], "#E3E3E3")
        name = shorten(Path(path).name, size - 16, 13)
        draw.multiline_text((x + size / 2, y + size / 2), f"{picture}:\n{name}", FAINT, font(13), "mm", align="center")
        return
    scale = size / max(picture.size)
    fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if fitted != picture.size:
        picture = picture.resize(fitted, Image.Resampling.BICUBIC)
    draw.rectangle([x, y, x + size - 1, y + size - 1], "#F4F4F4")
    canvas.paste(picture, (x + (size - fitted[0]) // 2, y + (size - fitted[1]) // 2))


def encode_png(picture: Image.Image) -> bytes:
    """A picture as a PNG file, quickly."""
    # One filter for all rows: half the time of Pillow, which tries five on each row, and the same size.
    return bytes(imagecodecs.png_encode(np.asarray(picture), level=1, filter=imagecodecs.PNG.FILTER.UP))


def short_name(path: str) -> str:
    """File name with its folder, which often is the kind of defect."""
    return "/".join(Path(path).parts[-2:])


def shorten(text: str, width: float, size: int) -> str:
    """Leave out the middle of a text that is too wide; both ends of a file name tell files apart."""
    drawn = font(size)
    if drawn.getlength(text) <= width:
        return text
    keep = len(text)
    while (
        keep > 2 and drawn.getlength(shorter := f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}") > width
    ):
        keep -= 1
    return shorter


@cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of all pictures."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / name, size)
