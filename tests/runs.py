"""Small real runs of adapted models, for tests."""

from pathlib import Path
from typing import Any

import torch
from anomalib.engine import Engine

from panda_anomalib import OneClassFolder

SMALL: dict[str, Any] = {
    "backbone": "test_resnet",
    "weights": "random",
    "runtime": "eager",
    "resize": 80,
    "crop": 64,
    "scorer": "knn",
    "normalization": "none",
    "visualizer": False,
}
"""Arguments of a model that trains in seconds."""


def one_class(root: Path, **arguments: Any) -> OneClassFolder:
    """Three quarters of the astronauts, 30 images, to train on in minibatches of 8."""
    arguments = {"test_split_ratio": 0.25, "num_workers": 0, "train_batch_size": 8, "eval_batch_size": 8, **arguments}
    return OneClassFolder(root=root, normal_class="astronaut", **arguments)


def seeded(model: type, **arguments: Any) -> Any:
    """Small model with the same random backbone every time."""
    torch.manual_seed(0)
    return model(**{**SMALL, **arguments})


def engine(root: Path, **arguments: Any) -> Engine:
    """Anomalib's own engine, quiet."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Engine(default_root_dir=root, **{**quiet, **arguments})
