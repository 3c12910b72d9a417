"""Datasets that read truthfully (see `panda_anomalib.data.reading`)."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataset, ImageBatch, ImageItem
from pandas import DataFrame
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import Transform

from panda_anomalib.data.files import collect_images
from panda_anomalib.data.reading import read_image

__all__ = ["ImageDataset", "PredictImages", "automatic_workers", "make_loader"]

_WORKERS_PAY_FROM = 64  # images; below, starting worker processes costs more than they read


class ImageDataset(AnomalibDataset):
    """Images with labels 0 (normal) or 1 (anomalous), without masks.

    Args:
        normal: Normal images.
        anomalous: Anomalous images.
        split: "train" or "test", kept in the column of that name.
        augmentations: Applied to each image after reading.
        classes: Class of each image by path, where it is known; kept in the column ``class_name``.
        read: Reads an image file.

    Raises:
        FileNotFoundError: If a file does not exist.
    """

    def __init__(
        self,
        normal: Sequence[Path],
        anomalous: Sequence[Path],
        *,
        split: str,
        augmentations: Transform | None = None,
        classes: Mapping[Path, str] | None = None,
        read: Callable[[str], tv_tensors.Image] = read_image,
    ) -> None:
        super().__init__(augmentations=augmentations)
        self.read = read
        images = [*normal, *anomalous]
        samples = DataFrame(
            {
                "image_path": [str(path) for path in images],
                "split": split,
                "label": ["normal"] * len(normal) + ["abnormal"] * len(anomalous),  # anomalib's words
                "label_index": [0] * len(normal) + [1] * len(anomalous),
                "mask_path": "",
                "class_name": [(classes or {}).get(path, "") for path in images],
            },
        )
        samples.attrs["task"] = "classification"
        self.samples = samples

    def __getitem__(self, index: int) -> ImageItem:
        """Image ``(3, H, W)`` in [0, 1] after ``augmentations``, with label and path."""
        path = str(self.samples["image_path"].iat[index])
        image = self.read(path)
        if self.augmentations:
            image = self.augmentations(image)
        return ImageItem(image=image, gt_label=torch.tensor(self.samples["label_index"].iat[index]), image_path=path)


class PredictImages(Dataset[ImageItem]):
    """Images without labels, sorted by path, for `Engine.predict(dataset=...)`.

    Args:
        path: An image, a folder (searched recursively), or several of these.
        augmentations: Applied to each image after reading.
        name: Name of the run folder; by default that of the folder or file.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a file has no accepted extension, or no image is found.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        augmentations: Transform | None = None,
        name: str | None = None,
    ) -> None:
        sources = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(source) for source in path]
        self.paths = collect_images(sources)
        self.augmentations = augmentations
        self.name = name or (sources[0].resolve().stem if len(sources) == 1 else "images")
        self.category = ""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> ImageItem:
        """Image ``(3, H, W)`` in [0, 1] after ``augmentations``, with its path."""
        path = self.paths[index]
        image = read_image(path)
        if self.augmentations:
            image = self.augmentations(image)
        return ImageItem(image=image, image_path=str(path))

    @property
    def collate_fn(self) -> Callable[..., Any]:
        """Collates items into an `ImageBatch`."""
        return ImageBatch.collate


def automatic_workers(num_images: int) -> int:
    """Worker processes that read images fastest: up to 4, and none for a few images."""
    return 0 if num_images < _WORKERS_PAY_FROM else min(4, os.cpu_count() or 1)


def make_loader(
    dataset: AnomalibDataset,
    batch_size: int,
    *,
    shuffle: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[..., Any] | None = None,
) -> DataLoader[Any]:
    """A loader of all images (the last batch may be smaller) that keeps its workers from one epoch to the next."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        collate_fn=collate_fn or dataset.collate_fn,
        persistent_workers=num_workers > 0,  # anomalib starts them again for every epoch
        pin_memory=torch.cuda.is_available(),
    )
