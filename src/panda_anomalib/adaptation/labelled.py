"""Labelled images of the pretraining data: one folder for each class of the classifier."""

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from panda_anomalib.data.files import IMAGE_EXTENSIONS, find_classes, find_images
from panda_anomalib.data.reading import read_image

__all__ = ["LabelledImages"]


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Images with class numbers: the sorted folders inside ``root`` are classes 0, 1, ... of the classifier.

    Args:
        root: Folder with one folder per class.
        transform: Makes the network's input of an image ``(3, H, W)`` in [0, 1].
        num_classes: Number of classes of the classifier, which the folders must match.

    Raises:
        FileNotFoundError: If ``root`` is not a folder.
        ValueError: If it has no class folders or another number of them, or a class has no images.
    """

    def __init__(self, root: str | os.PathLike[str], transform: Callable[[Tensor], Tensor], num_classes: int) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"root must be an existing folder, got '{root}'; check it.")
        self.classes = find_classes(self.root)
        if not self.classes:
            raise ValueError(
                f"root must hold labelled images, a folder for each class, got no folder in '{root}'; sort the images "
                "into folders (for a Fisher file, labels='sampled' needs none)."
            )
        if len(self.classes) != num_classes:
            raise ValueError(
                f"root must have a folder for each of the classifier's {num_classes} classes, in its order, got "
                f"{len(self.classes)} in '{root}'; take the data that the weights were trained on."
            )
        found = [find_images(self.root / name) for name in self.classes]
        if empty := [name for name, images in zip(self.classes, found, strict=True) if not images]:
            raise ValueError(
                f"root must have images ({' '.join(IMAGE_EXTENSIONS)}) in every class folder, got none in "
                f"{len(empty)}, such as '{self.root / empty[0]}'; add some."
            )
        self.paths = [path for images in found for path in images]
        self.labels = [label for label, images in enumerate(found) for _ in images]
        self.transform = transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(read_image(self.paths[index])), self.labels[index]
