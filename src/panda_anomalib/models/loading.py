"""A fitted model from its checkpoint, whichever of our models it is."""

from pathlib import Path
from typing import Any

import torch
from anomalib.utils.serialization import anomalib_safe_globals

from panda_anomalib import models
from panda_anomalib.models.base import DetectorMixin
from panda_anomalib.models.checkpoints import CHECKPOINT_KEY

__all__ = ["load_model"]


def load_model(path: Path, **arguments: Any) -> DetectorMixin:
    """Load the model that a checkpoint holds, on the CPU.

    Args:
        path: Checkpoint of one of our models.
        arguments: Of the model, in the place of those in the checkpoint; of use for ``runtime`` and ``visualizer``.

    Raises:
        ValueError: If another kind of model wrote the checkpoint.
    """
    with anomalib_safe_globals():
        # mapped, not read: only the name is wanted, and a memory bank may be large
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    name = content.get(CHECKPOINT_KEY, {}).get("model")
    if name not in models.__all__:
        raise ValueError(
            f"model must be a checkpoint of {', '.join(models.__all__)}, got one of another model: '{path}'."
        )
    model: DetectorMixin = getattr(models, name).load_from_checkpoint(path, map_location="cpu", **arguments)
    return model
