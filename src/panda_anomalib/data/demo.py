"""The demo datamodule: photographs that ship with scikit-image, on which every model of anomalib runs offline."""

import logging
from pathlib import Path
from typing import Any, Literal

from anomalib.data import AnomalibDataModule, MVTecADDataset
from anomalib.data.utils import TestSplitMode, ValSplitMode
from torchvision.transforms.v2 import Transform
from typing_extensions import override

from panda_anomalib.data.demo_folder import make_demo

__all__ = ["Demo"]

logger = logging.getLogger(__name__)


class Demo(AnomalibDataModule):
    """Crops of a real photograph, and defects with masks: about 100 images to train on, and 120 to test.

    Drawn in seconds without network where they are not there yet (see ``make_demo``), in MVTec's folder layout:
    anomalib's ``MVTecAD(root, category)`` reads the same folder. Test images come from parts of the photograph that no
    training image shows. Half of them have a defect: anomalib's Perlin noise, scratches, a patch of another material,
    or a place where the material is missing.

    Args:
        root: Folder of the demo data; the images are in ``<root>/<category>``.
        category: The photograph: ``brick``, ``grass`` or ``gravel``.
        image_seed: The same seed gives the same images.
        overwrite: Draw the images again where the folder holds demo images that were altered or have another seed.
        train_batch_size: Images in a training batch.
        eval_batch_size: Images in a validation or test batch.
        num_workers: Worker processes that read images; none is fastest for so few.
        train_augmentations: Applied to training images; they also change what enters a memory bank.
        val_augmentations: Applied to validation images.
        test_augmentations: Applied to test images.
        augmentations: Applied where no augmentations of the stage are given.
        val_split_mode: Validation set: the test set ("same_as_test", as in ``MVTecAD``; our models do not look at it),
            a part of it ("from_test"), a part of the training set ("from_train"), or drawn defects ("synthetic").
        val_split_ratio: Part of the training or test set that validation takes.
        seed: Seed of ``val_split_mode``.

    Raises:
        ValueError: For an unknown category or a negative seed.
        FileExistsError: When the data are prepared, if the folder holds other files, or demo images that were altered
            or have another seed.
        OSError: When the data are prepared, if the folder cannot be written to.
    """

    def __init__(
        self,
        root: Path | str = "./datasets/Demo",
        category: Literal["brick", "grass", "gravel"] = "gravel",
        *,
        image_seed: int = 0,
        overwrite: bool = False,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_mode: Literal["same_as_test", "from_test", "from_train", "synthetic"] = "same_as_test",
        val_split_ratio: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            val_split_mode=ValSplitMode(val_split_mode),
            val_split_ratio=val_split_ratio,
            test_split_mode=TestSplitMode.FROM_DIR,
            seed=seed,
        )
        self.root = Path(root)
        self.category = category
        self.image_seed = image_seed
        self.overwrite = overwrite

    @override
    def prepare_data(self) -> None:
        """Draw the images that are not there."""
        make_demo(self.root, self.category, image_seed=self.image_seed, overwrite=self.overwrite)
        self.overwrite = False  # once

    @override
    def _setup(self, _stage: str | None = None) -> None:
        if self.trainer is None:  # called by hand
            self.prepare_data()
        folder = make_demo(self.root, self.category, image_seed=self.image_seed)
        arguments: dict[str, Any] = {"root": self.root, "category": self.category}
        self.train_data = MVTecADDataset(split="train", **arguments)
        self.test_data = MVTecADDataset(split="test", **arguments)
        anomalous = int(self.test_data.samples["label_index"].sum())
        counts = len(self.train_data), len(self.test_data) - anomalous, anomalous
        logger.info("Demo images in %s: %d to train, to test %d normal and %d with defects.", folder, *counts)
