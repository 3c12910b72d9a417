"""Normal images to fit on, without a split and without labels: what a folder of one's own is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from torch.utils.data import DataLoader
from typing_extensions import override

from panda_anomalib.data.dataset import ImageDataset, automatic_workers, make_loader

__all__ = ["NormalImages"]

_BATCH_SIZE = 32


class NormalImages(AnomalibDataModule):
    """Datamodule of normal images only: it can be fitted on, not tested or validated.

    Args:
        paths: Image files that can be read.
        name: First name of the run folder ``<model>/<name>/<category>``.
        category: Second name of it.
    """

    def __init__(self, paths: Sequence[Path], *, name: str, category: str) -> None:
        super().__init__(
            train_batch_size=_BATCH_SIZE,
            eval_batch_size=_BATCH_SIZE,
            num_workers=automatic_workers(len(paths)),
        )
        self._name = name
        self._category = category
        self.train_data = ImageDataset(paths, [], split="train")

    @property
    @override
    def name(self) -> str:
        """First name of the run folder."""
        return self._name

    @override
    def _setup(self, _stage: str | None = None) -> None:
        """Nothing to find and nothing to split."""

    @override
    def _create_test_split(self) -> None:
        """There is no test set."""

    @override
    def _create_val_split(self) -> None:
        """There is no validation set."""

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the images, in their order."""
        return make_loader(self.train_data, self.train_batch_size, num_workers=self.num_workers)

    @override
    def val_dataloader(self) -> list[DataLoader[Any]]:
        """None: for an empty list Lightning skips validation."""
        return []
