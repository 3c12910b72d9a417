"""Synthetic outliers: normal images with something wrong, made without a single label.

What separates an image from its altered copy is no measure of what separates it from a real anomaly; it is what can be
had when there are none (CutPaste, arXiv:2104.04015; Golan & El-Yaniv, arXiv:1805.10917, for moved pieces).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset
from torchvision.transforms.v2.functional import resized_crop
from typing_extensions import override

__all__ = ["KINDS", "SyntheticOutliers"]

_GRID = 4  # pieces a side of a shuffled image
_PASTED_AREA = (0.02, 0.15)  # of the image (CutPaste, Sec. 3.1)
_CROPPED_SIDE = (0.3, 0.6)  # of the image's


def shuffled(image: Tensor, rng: np.random.Generator) -> Tensor:
    """The pieces of a 4 x 4 grid in another order; sides that do not divide by 4 keep their last rows and columns."""
    height, width = (side - side % _GRID for side in image.shape[-2:])
    pieces = image[:, :height, :width].unflatten(2, (_GRID, -1)).unflatten(1, (_GRID, -1))  # (C, g, h, g, w)
    pieces = pieces.permute(1, 3, 0, 2, 4).flatten(0, 1)[torch.from_numpy(rng.permutation(_GRID**2))]
    moved = image.clone()
    moved[:, :height, :width] = pieces.unflatten(0, (_GRID, _GRID)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    return moved


def pasted(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A rectangle of the image, copied to another place of it."""
    height, width = image.shape[-2:]
    area, ratio = rng.uniform(*_PASTED_AREA) * height * width, np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
    h = int(np.clip(round(np.sqrt(area * ratio)), 1, height))
    w = int(np.clip(round(np.sqrt(area / ratio)), 1, width))
    (top, to_top), (left, to_left) = rng.integers(0, height - h + 1, 2), rng.integers(0, width - w + 1, 2)
    changed = image.clone()
    changed[:, to_top : to_top + h, to_left : to_left + w] = image[:, top : top + h, left : left + w]
    return changed


def cropped(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A part of the image, enlarged to its size."""
    height, width = image.shape[-2:]
    side = rng.uniform(*_CROPPED_SIDE)
    h, w = max(1, round(side * height)), max(1, round(side * width))
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    return resized_crop(image, int(top), int(left), h, w, [height, width])


KINDS: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "shuffled": shuffled,
    "pasted": pasted,
    "cropped": cropped,
}


class SyntheticOutliers(Subset[Any]):
    """Altered copies of some images of a dataset of anomalib's items, each seeded by its own position.

    Args:
        dataset: Items have ``image`` ``(3, H, W)``.
        indices: Which of its images.
        kind: One of ``KINDS``.
        seed: Of what is altered.
    """

    def __init__(self, dataset: Any, indices: list[int], kind: str, *, seed: int = 0) -> None:
        super().__init__(dataset, indices)
        self.kind = kind
        self.seed = seed

    @override
    def __getitem__(self, index: int) -> Any:
        item = super().__getitem__(index)
        rng = np.random.default_rng([self.seed, self.indices[index]])
        item.image = KINDS[self.kind](item.image.as_subclass(Tensor), rng)
        return item

    @override
    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]
