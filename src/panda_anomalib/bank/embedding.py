"""Embeddings of images that come later, computed as those of the memory bank were, and compared with some of them."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from anomalib.data import Batch
from torch import Tensor
from torch.utils.data import DataLoader

from panda_anomalib.backbones import ImagePreProcessor, RuntimeName
from panda_anomalib.backbones.runtimes import choose_runtime
from panda_anomalib.data import PredictImages
from panda_anomalib.models.base import DetectorMixin
from panda_anomalib.models.conditions import Conditions, device_of
from panda_anomalib.progress import track

__all__ = ["NewEmbeddings", "embed_images"]

logger = logging.getLogger(__name__)

_BATCH_SIZE = 32  # where the fit did not say
_WORKERS_PAY_FROM = 64  # images; below, starting worker processes costs more than they read
_ANOTHER_IMAGE = 1e-3
"""Relative difference beyond that of runtimes in float32 (1e-5): other pixels, weights or augmentations."""


@dataclass
class NewEmbeddings:
    """Embeddings of new images, and how far they are what the fit would have made of them.

    Attributes:
        embeddings: ``(M, D)``, or ``(M, S, D)`` of snapshots, in the order of the paths.
        runtime: What executed the backbone.
        batch_size: Size of the batches that it saw.
        num_compared: How many images of the bank were embedded again beside them.
        difference: Largest relative difference of those to the embeddings in the bank; 0 is bit for bit.
    """

    embeddings: Tensor
    runtime: str
    batch_size: int
    num_compared: int
    difference: float


def embed_images(
    model: DetectorMixin, paths: Sequence[str], known: Mapping[str, Tensor], conditions: Conditions
) -> NewEmbeddings:
    """Embed images by the runtime and in the batches of the fit.

    Args:
        model: The fitted model.
        paths: Absolute paths of new images.
        known: Some images of the bank, as they were when it was made, with their embeddings.
        conditions: Of the fit.

    Raises:
        ValueError: If an image cannot be read, or the images of the bank get other embeddings than they had.
    """
    model.to(device_of(conditions))
    runtime = _runtime(model, conditions)
    batch_size = int(conditions.get("batch_size", 0)) or _BATCH_SIZE
    found = _embed(model, [*paths, *known], runtime, batch_size)
    difference = 0.0
    for path, embedding in known.items():
        length = embedding.norm().clamp_min(torch.finfo(torch.float32).tiny)
        difference = max(difference, float((found[path] - embedding).norm() / length))
    if difference > _ANOTHER_IMAGE:
        raise ValueError(
            f"images of the bank must get the embeddings that they had, got differences of up to {difference:.1e} of "
            "their length: they were augmented, or read by anomalib's reader, or embedded in lower precision. New "
            "images would not fit them; train again on all."
        )
    return NewEmbeddings(torch.stack([found[path] for path in paths]), runtime, batch_size, len(known), difference)


def _runtime(model: DetectorMixin, conditions: Conditions) -> RuntimeName:
    name: Any = conditions.get("runtime", model.hparams["runtime"])
    try:
        return choose_runtime(name, model.device, len(model.training_paths))
    except ValueError as error:
        chosen = choose_runtime("auto", model.device, None)
        logger.warning("The runtime of the fit cannot be used here, %s is: %s", chosen, error)
        return chosen


def _embed(model: DetectorMixin, paths: list[str], runtime: RuntimeName, batch_size: int) -> dict[str, Tensor]:
    dataset = PredictImages(paths)
    pre_processor: ImagePreProcessor | None = model.pre_processor
    if pre_processor is not None:
        pre_processor.install(dataset)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=min(4, os.cpu_count() or 1) if len(dataset) >= _WORKERS_PAY_FROM else 0,
        collate_fn=dataset.collate_fn,
    )
    model.model.runtime = model.model.make_runtime(runtime, batch_size)
    found: dict[str, Tensor] = {}
    batch: Batch
    for batch in track(loader, f"Embeddings of images, in batches of {batch_size}"):
        batch.image = batch.image.to(model.device)
        if pre_processor is not None:
            pre_processor.prepare(batch, dataset)
        with torch.no_grad():
            found |= zip(batch.image_path, model.embed_batch(batch).cpu(), strict=True)
    model.forget_runtime()
    return found
