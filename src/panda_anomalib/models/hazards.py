"""A warning, once, when anomalib's own reader, which our datamodules do not use, misreads an image."""

import logging

from anomalib.data import Batch
from lightning.pytorch import Trainer

from panda_anomalib.data.dataset import ImageDataset, PredictImages
from panda_anomalib.data.image_sets import ImageSetDataset
from panda_anomalib.data.reading import describe_hazard

__all__ = ["HazardWatch", "dataset_in_use"]

logger = logging.getLogger(__name__)


class HazardWatch:
    """Looks at the image files of a run until it has found one that anomalib's reader does not read right."""

    def __init__(self) -> None:
        self._named = False

    def look(self, batch: Batch, dataset: object) -> None:
        """Look at the files of a batch that ``dataset`` has read."""
        if self._named or isinstance(dataset, (ImageDataset, ImageSetDataset, PredictImages)):
            return
        for path in batch.image_path or []:
            if (hazard := describe_hazard(path)) is not None:
                self._named = True
                logger.warning(
                    "%s: anomalib's reader does not read this right (%s). Use a datamodule of panda_anomalib, or "
                    "convert the images to 8-bit RGB. Other images may be concerned.",
                    path,
                    hazard,
                )
                return


def dataset_in_use(trainer: Trainer) -> object:
    """Dataset behind the loader that the trainer reads now."""
    loader = trainer.train_dataloader if trainer.training else None
    loader = loader or trainer.test_dataloaders or trainer.predict_dataloaders
    return getattr(loader, "dataset", None)
