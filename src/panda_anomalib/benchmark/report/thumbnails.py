"""Small JPEG copies of pictures, for a page that stands alone."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["thumbnail"]


def thumbnail(path: str | Path, size: int = 160) -> tuple[bytes | None, str]:
    """A picture in few bytes, and its description.

    Args:
        path: File in any format that Pillow reads; deep grey levels are spread over the whole range.
        size: Largest width and height in pixels; smaller pictures keep theirs.

    Returns:
        JPEG and the file's last two names; None and what is wrong where there is no picture to show.
    """
    name = "/".join(Path(path).parts[-2:])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; what cannot be read raises
            with Image.open(path) as picture:
                small = _eight_bits(picture)
                small.thumbnail((size, size), Image.Resampling.LANCZOS)
    except FileNotFoundError:
        return None, f"{name}: moved or deleted"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's, of damaged files
        return None, f"{name}: cannot be read"
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return file.getvalue(), name


def _eight_bits(picture: Image.Image) -> Image.Image:
    if not picture.mode.startswith(("I", "F")):
        return picture.convert("RGB")
    levels = np.asarray(picture, dtype=np.float64)
    low, high = float(levels.min()), float(levels.max())
    return Image.fromarray(((levels - low) / max(high - low, 1e-12) * 255).astype(np.uint8)).convert("RGB")
