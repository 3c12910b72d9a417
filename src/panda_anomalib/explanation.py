"""Pictures that show a verdict beside the normal training images it was made from."""

import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
from anomalib.visualization import Visualizer
from PIL import Image, ImageDraw
from typing_extensions import override

from panda_anomalib.overview import ANOMALOUS_COLOR, NORMAL_COLOR, Thumbnails, draw_overview
from panda_anomalib.predictions import PredictionTable, forget_stage_folder, stage_folder, write_atomically
from panda_anomalib.tiles import FAINT, INK, draw_tile, encode_png, font, short_name, shorten

__all__ = ["NeighborVisualizer", "describe_p_value", "draw_explanation"]

_WIDTH, _MARGIN, _IMAGE, _GAP, _PER_ROW = 880, 24, 264, 13, 5
_TILE = (_WIDTH - 2 * _MARGIN - (_PER_ROW - 1) * _GAP) // _PER_ROW
_HEADER = 2 * _MARGIN + _IMAGE  # the upper part: the image, its verdict and its score
_TEXT_X = 2 * _MARGIN + _IMAGE
_BAR = _MARGIN + 122
_LINE = "#D9D9D9"
_PENDING = 64  # pictures waiting to be drawn: enough to keep the threads busy, few enough to report a full disk soon


class NeighborVisualizer(Visualizer):
    """Draw every tested or predicted image with its verdict and its nearest normal training images.

    Writes ``images/<folders and name as in the dataset>.png`` and ``overview.png`` into ``stage_folder(trainer)``.
    Images are read again from their files: the network's input is cropped and normalised. Runs after the
    post-processor.

    Args:
        num_neighbors: Nearest training images shown (fewer when the model attaches fewer); 0 leaves the row out.
        images: Which images get a picture: all, those flagged as anomalous, or none.
        overview: Also draw one page with the most and least anomalous images, the scores and the ROC curve.

    Raises:
        ValueError: For arguments outside these values; at the start of a run, when the model has no post-processor.
    """

    def __init__(
        self,
        num_neighbors: int = 5,
        images: Literal["all", "flagged", "none"] = "all",
        *,
        overview: bool = True,
    ) -> None:
        super().__init__()
        if num_neighbors < 0:
            raise ValueError(f"num_neighbors must be at least 0, got {num_neighbors}; 0 shows no training images.")
        if images not in ("all", "flagged", "none"):
            raise ValueError(f"images must be 'all', 'flagged' or 'none', got {images!r}; choose one of them.")
        self.num_neighbors = num_neighbors
        self.images = images
        self.overview = overview
        self._run: _Run | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        forget_stage_folder(trainer)

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if getattr(pl_module, "post_processor", None) is None:
            raise ValueError(
                "post_processor must be set for pictures of verdicts, got None; set visualizer to False too."
            )
        readers = getattr(pl_module, "make_thumbnails", Thumbnails)
        self._run = _Run(stage_folder(trainer) / "images", _common_folder(trainer), readers)

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_test_start(trainer, pl_module)

    @override
    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._run is None:
            return
        columns = self._run.table.add(
            batch,
            getattr(pl_module, "training_paths", ()),
            normal_classes=getattr(pl_module, "normal_classes", None),
            dataloader_idx=dataloader_idx,
        )
        threshold = float(pl_module.post_processor.threshold)
        quantity = "logit" if getattr(pl_module.post_processor, "logits", False) else "distance"
        for index, flagged in enumerate(columns["predicted_label"]):
            if self.images == "all" or (self.images == "flagged" and flagged):
                row = {name: values[index] for name, values in columns.items()}
                self._run.draw(row, threshold=threshold, num_neighbors=self.num_neighbors, quantity=quantity)

    @override
    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._run is None:
            return
        self._run.finish()
        table, self._run = self._run.table, None
        if not self.overview:
            return
        rows = table.frame(gather=True)
        if trainer.is_global_zero and len(rows):
            name = getattr(pl_module, "name", type(pl_module).__name__)
            stage = "test" if trainer.state.fn == "test" else "predicted"
            things = getattr(pl_module, "scored_things", "images")
            readers = getattr(pl_module, "make_thumbnails", Thumbnails)
            figure = draw_overview(rows, f"{name}: {len(rows)} {stage} {things}", readers)
            write_atomically(stage_folder(trainer) / "overview.png", figure.savefig)

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.on_test_end(trainer, pl_module)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._run is not None:
            self._run.cancel()
            self._run = None


class _Run:
    """State of one test or predict run: rows so far, and the pictures that threads are drawing."""

    def __init__(self, folder: Path, common: Path | None, readers: Callable[..., Thumbnails]) -> None:
        self.table = PredictionTable()
        self._folder, self._common = folder, common
        self._tested, self._training = readers(_IMAGE, capacity=1), readers(_TILE, capacity=1024)
        # Two: decoding and PNG writing leave the interpreter lock, drawing does not.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="explanation")
        self._pending: deque[Future[None]] = deque()

    def draw(self, row: Mapping[str, Any], **verdict: Any) -> None:
        job = partial(self._write, row, **verdict)
        self._pending.append(self._pool.submit(job))
        while len(self._pending) > _PENDING or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()

    def finish(self) -> None:
        with self._pool:
            while self._pending:
                self._pending.popleft().result()

    def cancel(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _write(self, row: Mapping[str, Any], **verdict: Any) -> None:
        target = self._folder / _relative_name(row["path"], self._common)
        picture = draw_explanation(row, **verdict, tested=self._tested, training=self._training)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, lambda path: path.write_bytes(encode_png(picture)))


def _common_folder(trainer: pl.Trainer) -> Path | None:
    """Deepest folder that holds all images of the run; None when a dataset does not tell its files."""
    loaders = trainer.test_dataloaders if trainer.state.fn == "test" else trainer.predict_dataloaders
    paths: list[str | Path] = []
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        dataset: Any = getattr(loader, "dataset", None)
        if hasattr(dataset, "samples"):  # anomalib's AnomalibDataset
            paths += list(dataset.samples["image_path"])
        elif hasattr(dataset, "paths"):  # our PredictImages
            paths += dataset.paths
        elif hasattr(dataset, "image_filenames"):  # anomalib's PredictDataset
            paths += dataset.image_filenames
        else:
            return None
    folders = {_absolute(path).parent for path in paths}
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:  # no paths, or several Windows drives
        return None


def _absolute(path: str | Path) -> Path:
    """Path without ".." parts; not resolved, because links into a store of files all have meaningless targets."""
    return Path(os.path.normpath(Path(path).absolute()))


def _relative_name(path: str, common: Path | None) -> Path:
    """Name of a picture: another one for every image file, also for a.png beside a.jpg."""
    absolute = _absolute(path)
    base = common if common is not None and absolute.is_relative_to(common) else Path(absolute.anchor)
    relative = absolute.relative_to(base)
    plain = relative.suffix == ".png" and "." not in relative.stem
    return relative if plain else relative.with_name(f"{relative.name}.png")


def draw_explanation(
    row: Mapping[str, Any],
    *,
    threshold: float,
    num_neighbors: int,
    tested: Thumbnails,
    training: Thumbnails,
    quantity: str = "distance",
) -> Image.Image:
    """Draw one verdict: image, score, p-value and the nearest normal training images.

    Args:
        row: One row of ``PredictionTable``.
        threshold: Distance above which an image is anomalous.
        num_neighbors: Nearest training images to show, where the row has them.
        tested: Reader of the image itself.
        training: Reader of the training images.
        quantity: What the threshold is a number of: a distance, or a logit.

    Returns:
        RGB picture, 880 pixels wide; a file that is gone or broken is a grey tile that says so.
    """
    shown = [i for i in range(1, num_neighbors + 1) if f"neighbor_{i}" in row]
    canvas = _draw_frame(len(shown)).copy()
    draw = ImageDraw.Draw(canvas)
    draw_tile(canvas, (_MARGIN, _MARGIN), _IMAGE, row["path"], tested)
    _draw_verdict(draw, row, threshold, quantity)
    for i, number in enumerate(shown):
        path, distance = row[f"neighbor_{number}"], row[f"neighbor_{number}_distance"]
        x, y = _MARGIN + i % _PER_ROW * (_TILE + _GAP), _HEADER + 44 + i // _PER_ROW * (_TILE + 54)
        draw_tile(canvas, (x, y), _TILE, path, training)
        draw.text((x, y + _TILE + 6), f"distance {distance:.4g}", INK, font(14))
        draw.text((x, y + _TILE + 25), shorten(short_name(path), _TILE, 12), FAINT, font(12))
    return canvas


@cache
def _draw_frame(tiles: int) -> Image.Image:
    """What all pictures have in common; drawn once, because text is the slow part of a picture."""
    right, middle = _WIDTH - _MARGIN, (_TEXT_X + _WIDTH - _MARGIN) // 2
    height = _HEADER + (44 + -(-tiles // _PER_ROW) * (_TILE + 54) if tiles else 0)
    canvas = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(canvas)
    draw.rectangle([_TEXT_X, _BAR, right, _BAR + 20], "#EFEFEF")
    draw.text((_TEXT_X, _BAR + 30), "0", FAINT, font(13))
    draw.text((middle, _BAR + 30), "0.5 threshold", FAINT, font(13), anchor="ma")
    draw.text((right, _BAR + 30), "1", FAINT, font(13), anchor="ra")
    if tiles:
        draw.line([(_MARGIN, _HEADER), (right, _HEADER)], _LINE)
        draw.text((_MARGIN, _HEADER + 12), "Nearest normal training images", INK, font(16, bold=True))
    return canvas


def _draw_verdict(draw: ImageDraw.ImageDraw, row: Mapping[str, Any], threshold: float, quantity: str) -> None:
    x, right, y = _TEXT_X, _WIDTH - _MARGIN, _MARGIN
    flagged, label, score, p = bool(row["predicted_label"]), row["label"], float(row["score"]), float(row["p_value"])
    color = ANOMALOUS_COLOR if flagged else NORMAL_COLOR
    draw.rectangle([_MARGIN, y, _MARGIN + _IMAGE - 1, y + _IMAGE - 1], outline=color, width=5)
    draw.text((x, y - 3), shorten(short_name(row["path"]), right - x, 16), FAINT, font(16))
    word, bold = "ANOMALOUS" if flagged else "NORMAL", font(26, bold=True)
    end = x + 36 + bold.getlength(word)
    draw.rounded_rectangle([x, y + 26, end, y + 72], 8, color)
    draw.text((x + 18, y + 49), word, "white", bold, anchor="lm")
    if label is not None:
        truth = "correct" if flagged == label else "false alarm" if flagged else "missed"
        draw.text((end + 20, y + 39), f"true label: {'anomalous' if label else 'normal'}", INK, font(15), anchor="lm")
        draw.text((end + 20, y + 61), truth, INK, font(15, bold=True), anchor="lm")
    draw.text((x, _BAR - 10), f"score {score:.3f}", INK, font(20, bold=True), anchor="ls")
    draw.rectangle([x, _BAR, x + score * (right - x), _BAR + 20], color)
    middle = (x + right) // 2
    draw.rectangle([middle - 1, _BAR - 6, middle + 1, _BAR + 26], INK)
    draw.text((x, _BAR + 66), f"{quantity} {row['distance']:.4g}, threshold {threshold:.4g}", INK, font(16))
    if np.isfinite(p):
        draw.text((x, _BAR + 96), describe_p_value(p), INK, font(16))
    if "nearest_class" in row:
        draw.text((x, _BAR + 122), f"nearest normal class: {row['nearest_class']}", INK, font(16))


def describe_p_value(p_value: float) -> str:
    """What a p-value says, in words."""
    return f"p = {_digits(p_value)}: {_digits(100 * p_value)} % of normal images look at least this unusual"


def _digits(value: float) -> str:
    """Two significant digits, never as a power of ten."""
    return np.format_float_positional(float(f"{value:.2g}"), trim="-")
