"""A trained model that stays loaded and scores one image after the other, as ``predict`` does."""

import logging
import threading
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch, ImageItem
from torch import Tensor

from panda_anomalib.backbones import ImagePreProcessor, RuntimeName
from panda_anomalib.backbones.runtimes import choose_runtime
from panda_anomalib.calibration import Calibration
from panda_anomalib.data.files import IMAGE_EXTENSIONS, is_image
from panda_anomalib.data.reading import read_image
from panda_anomalib.engine import existing_checkpoint
from panda_anomalib.models.loading import load_model
from panda_anomalib.predictions import PredictionTable

__all__ = ["ImageInspector", "find_checkpoint"]

logger = logging.getLogger(__name__)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint itself, or the newest one below a run folder or a folder of runs.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is not a checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("**/weights/lightning/*.ckpt"), key=lambda file: file.stat().st_mtime)
        if not found:
            raise FileNotFoundError(f"model must be a checkpoint or a folder of runs, got none in '{path}'; train one.")
        path = found[-1]
    checkpoint = existing_checkpoint(path)
    if checkpoint is None:
        raise FileNotFoundError(f"model must be a checkpoint or a folder of runs, got '{path}'.")
    return checkpoint


class ImageInspector:
    """Scores image files with a model that is loaded once. Several threads may share it.

    Args:
        checkpoint: Checkpoint, or a folder with one below it.
        num_neighbors: Nearest normal images named with each verdict.
        runtime: What executes the backbone; see ``DetectorMixin``.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If the checkpoint is not one of our models, or was trained with other components than ours.
        RuntimeError: If the model is not trained.
    """

    def __init__(self, checkpoint: str | Path, *, num_neighbors: int = 5, runtime: RuntimeName = "auto") -> None:
        self.checkpoint = find_checkpoint(checkpoint)
        self.model = load_model(self.checkpoint).eval()
        for part, kind in ((self.model.pre_processor, ImagePreProcessor), (self.model.post_processor, Calibration)):
            if not isinstance(part, kind):
                raise ValueError(
                    f"model must have panda_anomalib's own {kind.__name__}, got {type(part).__name__} "
                    f"in '{self.checkpoint}'; use predict."
                )
        self.num_neighbors = num_neighbors
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(device)
        chosen = choose_runtime(runtime, device, None)
        logger.info("Preparing %s of %s to run by %s.", self.model.name, self.checkpoint, chosen)
        self.model.model.runtime = self.model.model.make_runtime(chosen)
        self._lock = threading.Lock()
        self._score(torch.zeros(3, 64, 64), "none")  # runtimes are built at first use, for which no image should wait

    @property
    def threshold(self) -> float:
        """Distance above which an image is anomalous."""
        return float(self.model.post_processor.threshold)

    @property
    def quantity(self) -> str:
        """What the threshold is a number of: a distance, or a logit."""
        return "logit" if self.model.post_processor.logits else "distance"

    def inspect(self, path: str | Path) -> dict[str, Any]:
        """Verdict on one image: its row of ``PredictionTable``.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it is no image, cannot be read, or its distance is not finite.
        """
        path = Path(path)
        if not is_image(path):
            raise ValueError(f"file must be an image ({' '.join(IMAGE_EXTENSIONS)}), got '{path}'; convert it.")
        return self._score(read_image(path), str(path))

    def _score(self, image: Tensor, path: str) -> dict[str, Any]:
        with self._lock, torch.no_grad():
            batch = ImageBatch.collate([ImageItem(image=image, image_path=path)])
            batch.image = batch.image.to(self.model.device)
            self.model.pre_processor.prepare(batch, None)
            self.model.score_batch(batch, self.num_neighbors)
            self.model.post_processor.post_process_batch(batch)
            columns = PredictionTable().add(batch, self.model.training_paths)
        return {name: values[0] for name, values in columns.items() if not name.startswith("_")}
