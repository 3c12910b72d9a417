"""Which normal class each training image is of."""

import os
from typing import Any

from lightning.pytorch import Trainer

__all__ = ["find_normal_classes"]


def find_normal_classes(trainer: Trainer) -> dict[str, str]:
    """Class of each training image by absolute path, as the datamodule has it; empty unless there are several.

    Images without a class, such as the anomalous ones of an impure training set, make no further class.
    """
    dataset: Any = getattr(getattr(trainer, "datamodule", None), "train_data", None)
    samples = getattr(dataset, "samples", None)
    if samples is None or "class_name" not in samples or len(set(samples["class_name"]) - {""}) < 2:
        return {}
    paths = (os.path.abspath(path) for path in samples["image_path"])  # noqa: PTH100 - keeps links
    return dict(zip(paths, samples["class_name"], strict=True))
