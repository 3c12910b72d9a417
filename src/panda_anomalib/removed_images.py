"""What cleaning has removed from a training set: a table, and a picture beside the nearest images that were kept."""

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageDraw
from typing_extensions import override

from panda_anomalib.overview import Thumbnails
from panda_anomalib.predictions import write_atomically
from panda_anomalib.tiles import FAINT, INK, draw_tile, encode_png, font, short_name, shorten

__all__ = ["RemovedImagesWriter", "draw_removed", "table_of_removed"]

logger = logging.getLogger(__name__)

_MARGIN, _TILE, _GAP, _TEXT, _PER_ROW = 24, 128, 6, 62, 4
_PAIR = 2 * _TILE + _GAP
_HEADER = 78
_DRAWN = 48


class RemovedImagesWriter(Callback):
    """Write ``removed.csv`` and ``removed.png`` into the run folder after a fit in which cleaning removed images.

    The picture is left out where the model has no visualizer.
    """

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        record = getattr(pl_module, "bank_record", None)
        if record is None or record.removed is None or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        rows = table_of_removed(record.removed)
        write_atomically(folder / "removed.csv", lambda path: rows.to_csv(path, index=False))
        if getattr(pl_module, "visualizer", None):
            picture = draw_removed(rows, len(rows) + len(pl_module.training_paths))
            write_atomically(folder / "removed.png", lambda path: path.write_bytes(encode_png(picture)))
        logger.info("The %d images that cleaning removed are listed in %s.", len(rows), folder / "removed.csv")


def table_of_removed(removed: Any) -> pd.DataFrame:
    """Table of the images removed, the most unusual first.

    Columns: ``path``; ``distance`` to the other training images, for which it was removed; ``nearest``, the nearest
    image that was kept; ``bank_distance`` to the fitted scorer, which scores the image like a new one; ``sha256`` of
    the file, empty where it could not be read.

    Args:
        removed: ``models.bank_record.RemovedImages``.
    """
    return pd.DataFrame(
        {
            "path": removed.paths,
            "distance": removed.removal.distances.numpy(),
            "nearest": removed.nearest,
            "bank_distance": removed.distances.numpy(),
            "sha256": removed.digests,
        }
    )


def draw_removed(rows: pd.DataFrame, count: int) -> Image.Image:
    """Draw each removed image beside the nearest one that was kept, the 48 most unusual ones.

    Args:
        rows: As ``table_of_removed`` gives them, at least one.
        count: Number of training images before the cleaning.

    Returns:
        RGB picture; a file that is gone or broken is a grey tile that says so.
    """
    shown = rows.head(_DRAWN)
    lines = -(-len(shown) // _PER_ROW)
    width = 2 * _MARGIN + _PER_ROW * _PAIR + (_PER_ROW - 1) * _MARGIN
    canvas = Image.new("RGB", (width, _HEADER + lines * (_TILE + _TEXT)), "white")
    draw = ImageDraw.Draw(canvas)
    title = f"Removed by cleaning: {len(rows)} of {count} training images"
    draw.text((_MARGIN, 16), title, INK, font(20, bold=True))
    which = f"The {len(shown)} most unusual of them" if len(shown) < len(rows) else "Each"
    draw.text((_MARGIN, 46), f"{which} beside the nearest image that was kept.", FAINT, font(14))
    thumbnails = Thumbnails(_TILE, capacity=256)
    for number, row in enumerate(shown.to_dict("records")):
        x = _MARGIN + number % _PER_ROW * (_PAIR + _MARGIN)
        y = _HEADER + number // _PER_ROW * (_TILE + _TEXT)
        draw_tile(canvas, (x, y), _TILE, str(row["path"]), thumbnails)
        draw_tile(canvas, (x + _TILE + _GAP, y), _TILE, str(row["nearest"]), thumbnails)
        draw.text((x, y + _TILE + 4), f"distance {row['distance']:.4g}", INK, font(14))
        for left, name in ((x, "path"), (x + _TILE + _GAP, "nearest")):
            draw.text((left, y + _TILE + 23), shorten(short_name(str(row[name])), _TILE, 12), FAINT, font(12))
        draw.text((x + _TILE + _GAP, y + _TILE + 4), "nearest kept", FAINT, font(14))
    return canvas
