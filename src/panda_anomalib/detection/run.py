"""Fit DN2 on normal images, or take a fitted model, and score other images with it."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from panda_anomalib.atomic import check_writable
from panda_anomalib.calibration import Calibration
from panda_anomalib.commands import PROGRAM
from panda_anomalib.data.normal_images import NormalImages
from panda_anomalib.data.reading import CorruptName, check_on_corrupt
from panda_anomalib.detection.images import ImagePaths, as_paths, choose_images
from panda_anomalib.engine import Engine, existing_checkpoint
from panda_anomalib.explanation import NeighborVisualizer
from panda_anomalib.models import Dn2
from panda_anomalib.models.loading import load_model
from panda_anomalib.predictions import stage_folder

__all__ = ["Detection", "PicturesName", "detect"]

logger = logging.getLogger(__name__)

PicturesName = Literal["all", "flagged", "none"]

_CONVERSION_PAYS_FROM = 400
"""Images from which the seconds of a conversion of the network are repaid."""


@dataclass(frozen=True)
class Detection:
    """What ``detect`` has found, and where it is."""

    table: pd.DataFrame
    """One row per image, most anomalous first, with the columns of ``PredictionTable``."""
    folder: Path
    """Has ``predictions.csv`` and ``.parquet`` in the order of the images, ``overview.png`` and ``images/``."""
    checkpoint: Path | None
    """The fitted model; None for one normal image, which gives no threshold."""
    name: str
    """Of the model."""
    num_normal: int
    """Normal images in the memory bank."""
    calibration: Calibration
    """Threshold and what it came from; not fitted for one normal image."""


def detect(
    normal: ImagePaths | None = None,
    images: ImagePaths = (),
    *,
    model: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] = "results",
    false_positive_rate: float | None = None,
    backbone: str = "tf_efficientnet_lite0",
    weights: str = "default",
    num_neighbors: int | None = None,
    pictures: PicturesName = "all",
    on_corrupt: CorruptName = "error",
    **engine_arguments: Any,
) -> Detection:
    """Score images by how unlike the normal ones they are; no label is needed.

    With 3 normal images and more it is ``Dn2`` as it comes; with 2 the nearest of them decides, as two images have no
    covariance that could be left out of itself. A single image cannot be compared with another normal one: its
    distances rank the images to score, and there is no threshold, no p-value and no model to keep.

    Args:
        normal: Normal images to fit on: a folder (and those inside it), an image, or several of these.
        images: Images to score, in the same forms.
        model: Checkpoint of a fitted model, in the place of ``normal``.
        output: Folder of the run folders.
        false_positive_rate: Share of normal images that may be called anomalous: 0.05 unless it is given, or the
            model's own. With a model it moves the threshold, without fitting again.
        backbone: As of ``Dn2``.
        weights: As of ``Dn2``.
        num_neighbors: As of ``Dn2``.
        pictures: Which images get a picture beside their nearest normal images: all, those flagged as anomalous, none.
        on_corrupt: "error" to refuse images that cannot be read before the work starts, "skip" to leave them out.
        engine_arguments: Further arguments of the ``Engine``, such as accelerator and callbacks.

    Raises:
        FileNotFoundError: If a path does not exist, or the backbone's weights are missing.
        OSError: If results cannot be written to ``output``.
        ValueError: If not one of ``normal`` and ``model`` is given, an argument is not accepted, there are no images,
            or one cannot be read.
    """
    if (normal is None) == (model is None):
        raise ValueError("normal or model must be given, and not both: images to fit on, or a fitted model.")
    check_on_corrupt(on_corrupt)
    visualizer = NeighborVisualizer(images=pictures)
    check_writable(Path(output), "output")
    given = existing_checkpoint(model, "model")
    sources = [] if normal is None else as_paths(normal)
    bank, wanted = choose_images(None if normal is None else sources, as_paths(images), on_corrupt)
    chosen = {"runtime": "auto" if len(bank) + len(wanted) >= _CONVERSION_PAYS_FROM else "channels_last"}
    fixed = {"logger": False, "devices": 1, "enable_model_summary": False}
    engine = Engine(default_root_dir=output, **{**fixed, **engine_arguments})
    rate = 0.05 if false_positive_rate is None else false_positive_rate
    checkpoint: Path | None = given
    if given is not None:
        fitted = load_model(given, visualizer=visualizer, **chosen)
        if false_positive_rate is not None:
            fitted.post_processor.move_threshold(rate)
        engine.stay_with(given)
    else:
        settings = {"backbone": backbone, "weights": weights, "num_neighbors": num_neighbors, **chosen}
        fitted = _new_model(len(bank), rate, visualizer, settings)
        checkpoint = _fit(engine, fitted, bank, sources[0])
    try:
        engine.predict(fitted, data_path=wanted, ckpt_path=None, return_predictions=False)
    except BaseException:
        if checkpoint is not None and given is None:
            again = f"{PROGRAM} detect --model {checkpoint} --images ..."
            logger.warning("The images were not scored to the end; the fitted model is there: %s", again)
        raise
    folder = stage_folder(engine.trainer)
    table = pd.read_parquet(folder / "predictions.parquet").sort_values("distance", ascending=False, kind="stable")
    calibration = fitted.post_processor if checkpoint is not None else Calibration(rate)
    return Detection(
        table.reset_index(drop=True), folder, checkpoint, fitted.name, len(fitted.training_paths), calibration
    )


def _new_model(count: int, rate: float, visualizer: NeighborVisualizer, settings: dict[str, Any]) -> Dn2:
    if count == 1:
        return Dn2(**{**settings, "scorer": "knn", "num_neighbors": 1}, post_processor=False, visualizer=False)
    if count == 2:
        settings = {**settings, "scorer": "knn", "num_neighbors": 1}
    return Dn2(**settings, false_positive_rate=rate, visualizer=visualizer)


def _fit(engine: Engine, model: Dn2, bank: list[Path], source: Path) -> Path | None:
    """Fit in a run folder that is called as the normal images' folder; the checkpoint, where there is a threshold."""
    place = source.absolute() if source.is_dir() else source.absolute().parent
    engine.fit(model, datamodule=NormalImages(bank, name=place.parent.name, category=place.name))
    checkpoint = Path(engine.best_model_path)
    if isinstance(model.post_processor, Calibration):
        return checkpoint
    checkpoint.unlink()
    checkpoint.parent.rmdir()
    checkpoint.parent.parent.rmdir()
    return None
