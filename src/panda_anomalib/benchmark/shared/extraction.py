"""One pass of a frozen network over images."""

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from anomalib.data import AnomalibDataset
from torch.utils.data import DataLoader, Dataset

from panda_anomalib.backbones.runtimes import RuntimeName
from panda_anomalib.benchmark.shared.embedding_file import EmbeddingFile
from panda_anomalib.data.dataset import automatic_workers
from panda_anomalib.models.dn2 import Dn2
from panda_anomalib.progress import track

__all__ = ["Source", "extract"]

Source = tuple[AnomalibDataset, int]
"""A data set, and the position of an image in it."""

_SECONDS_BETWEEN_WRITES = 5.0


class _Images(Dataset[Any]):
    """Images of several data sets as one."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: int) -> Any:
        dataset, position = self._sources[index]
        return dataset[position]


def extract(
    model: Dn2, sources: dict[str, Source], file: EmbeddingFile, *, runtime: RuntimeName, batch_size: int, device: str
) -> None:
    """Append the embeddings of images to a file: pooled, not normalised, as a fit of the model would have them.

    Args:
        model: Its backbone and pre-processor are used; weights are loaded.
        sources: Where each image is read, by its key.
        file: Takes the embeddings, every few seconds.
        runtime: What executes the backbone.
        batch_size: Images in a batch.
        device: ``cpu`` or ``cuda``.

    Raises:
        Exception: Whatever loading the weights or reading the images raised.
    """
    installed: dict[int, AnomalibDataset] = {}
    for dataset, _ in sources.values():
        if id(dataset) not in installed:
            installed[id(dataset)] = copy.copy(dataset)
            model.pre_processor.install(installed[id(dataset)])
    images = [(installed[id(dataset)], position) for dataset, position in sources.values()]
    model.model.backbone.load_weights()
    model.to(device)
    run = model.model.make_runtime(runtime, batch_size)
    workers = automatic_workers(len(images))
    loader: Any = DataLoader(
        _Images(images), batch_size=batch_size, num_workers=workers, collate_fn=images[0][0].collate_fn
    )
    keys = iter(sources)
    waiting: list[torch.Tensor] = []
    last = time.perf_counter()

    def write() -> None:
        nonlocal waiting, last
        rows = torch.cat(waiting)
        now = time.perf_counter()
        named = [next(keys) for _ in range(len(rows))]
        file.add(named, rows, now - last, model.model.backbone.provenance or {})
        waiting, last = [], now

    with torch.no_grad():
        for batch in track(loader, f"Embeddings of {len(images)} images by {runtime}", total=len(loader)):
            batch.image = batch.image.to(device)
            model.pre_processor.prepare(batch, images[0][0])
            waiting.append(run(batch.image.float()).float().cpu())
            if time.perf_counter() - last > _SECONDS_BETWEEN_WRITES:
                write()
    if waiting:
        write()
