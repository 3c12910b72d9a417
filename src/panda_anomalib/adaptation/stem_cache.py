"""What the frozen stem makes of every training image, computed once and kept where there is room."""

import itertools
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from panda_anomalib.progress import track
from panda_anomalib.room import CacheName, StorageName, check_cache, take_room

__all__ = ["CacheName", "StemOutputs"]

logger = logging.getLogger(__name__)


class Order(Protocol):
    """Which images form a minibatch; see `panda_anomalib.adaptation.minibatches.MinibatchOrder`."""

    def indices(self, position: int) -> list[int]:
        """Images of minibatch number ``position``."""


class StemOutputs:
    """Outputs of a frozen function of each image of a dataset, kept in memory, on disk, or computed again.

    Shapes: ``encode`` gives ``(V, B, ...)`` for V views of B images, and so does ``fetch``, bit for bit and in the
    memory format that ``encode`` gave (``channels_last`` feature maps stay so), on the device that ``encode`` used.

    A cache repeats what ``encode`` gave once: with random augmentations use ``cache="off"``. Their draws then depend
    on image and minibatch number alone, so that a resumed training repeats them.

    Args:
        dataset: Images; its ``collate_fn`` attribute is used where it has one.
        encode: Batch of collated items -> outputs; called without gradients.
        batch_size: Images of a batch in ``fill``.
        num_workers: Processes that read images.
        collate_fn: Batch of a list of items.
        num_views: V.
        cache: ``memory``, ``disk``, ``off``, or ``auto``: the first of these that has room.
        memory_budget: Bytes of memory to use at most; by default a quarter of what is available, shared by all
            processes. On another device than the CPU, its own memory is used when a quarter of what is free there
            is enough, within the budget if one is given.
        folder: Where the memory map goes; by default the system's folder for temporary files.
        description: What the outputs are called in logs.

    Raises:
        ValueError: If cache, batch_size, num_views or memory_budget is not accepted, or folder is no folder.
    """

    def __init__(
        self,
        dataset: Any,
        encode: Callable[[Any], Tensor],
        *,
        batch_size: int,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_views: int = 1,
        cache: CacheName = "auto",
        memory_budget: int | None = None,
        folder: Path | None = None,
        description: str = "Stem outputs",
    ) -> None:
        check_cache(cache, memory_budget)
        for name, value in (("batch_size", batch_size), ("num_views", num_views)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.dataset = dataset
        self.encode = encode
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.collate_fn = collate_fn or getattr(dataset, "collate_fn", None)
        self.num_views = num_views
        self.cache = cache
        self.memory_budget = memory_budget
        self.folder = Path(folder or tempfile.gettempdir())
        if not self.folder.is_dir():
            raise ValueError(f"folder must be an existing folder, got '{self.folder}'; create it.")
        self.description = description
        self._rows: Tensor | None = None  # (N * V, everything else): row n * V + v
        self._shape: tuple[int, ...] = ()  # of one view of one image, as it lies in memory
        self._channels_last = False
        self._device = torch.device("cpu")
        self.storage: StorageName = "off"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.dataset)

    def close(self) -> None:
        """Give up what is kept, memory map included; ``fetch`` computes from now on."""
        self._rows = None
        self.storage = "off"

    # ---- filling

    def fill(self, on_batch: Callable[[Tensor, list[int]], None] | None = None) -> None:
        """Encode every image once, in the order of the dataset, and keep the outputs where there is room.

        Where that is follows from the first batch, and is logged in one line.

        Args:
            on_batch: Called with each batch's outputs ``(V, B, ...)`` and the positions of its images.

        Raises:
            ValueError: If ``cache`` asks for memory or disk that is not there (only one batch is encoded by then), or
                ``encode`` gives another shape than it should.
        """
        self.close()
        everything = range(len(self))
        batches = [[*everything[i : i + self.batch_size]] for i in range(0, len(self), self.batch_size)]
        computed = self._computed([[(index, 0) for index in indices] for indices in batches], self.num_workers)
        description = f"{self.description}, batches of {self.batch_size}"
        storage: StorageName = "off"
        shape: tuple[int, ...] | None = None
        try:
            for indices, outputs in zip(batches, track(computed, description, len(batches)), strict=True):
                if shape is None:
                    shape = outputs.shape[2:]
                    storage = self._plan(outputs)
                elif outputs.shape[2:] != shape:
                    raise ValueError(
                        f"encode must give one shape for all images, got {(*outputs.shape[2:],)} after {(*shape,)}; "
                        "bring the images to one size."
                    )
                if self._rows is not None:
                    first = indices[0] * self.num_views
                    self._rows[first : first + outputs.shape[1] * self.num_views] = self._as_rows(outputs)
                if on_batch is not None:
                    on_batch(outputs, indices)
        except BaseException:
            self.close()  # a traceback that lives on must not keep the memory
            raise
        self.storage = storage

    def _plan(self, outputs: Tensor) -> StorageName:
        """Decide from the first batch where all outputs go, and make room there."""
        self._device = outputs.device
        self._channels_last = (
            outputs.ndim == 5
            and outputs[0].is_contiguous(memory_format=torch.channels_last)
            and not outputs[0].is_contiguous()
        )
        self._shape = tuple(outputs[0, 0].permute(1, 2, 0).shape if self._channels_last else outputs.shape[2:])
        shape = (len(self) * self.num_views, math.prod(self._shape))
        needed = math.prod(shape) * outputs.element_size()
        what = f"{self.description} of {len(self)} images"
        if self.cache in {"auto", "memory"} and needed <= self._device_room():
            self._rows = torch.empty(shape, dtype=outputs.dtype, device=self._device)
            logger.info("%s: %.4g MB, kept in memory (%s).", what, needed / 10**6, self._device.type)
            return "memory"
        storage, room = take_room(
            needed,
            what,
            self.cache,
            otherwise="Every minibatch is read and encoded again.",
            memory_budget=self.memory_budget,
            folder=self.folder,
        )
        self._rows = None if room is None else room.view(outputs.dtype).view(shape)
        return storage

    def _device_room(self) -> int:
        """Bytes to use on a device that has memory of its own."""
        if self._device.type != "cuda":
            return -1
        room = torch.cuda.mem_get_info(self._device)[0] // 4
        return room if self.memory_budget is None else min(room, self.memory_budget)

    def _as_rows(self, outputs: Tensor) -> Tensor:
        """(V, B, ...) -> (B * V, everything else, in the order in which it lies in memory)."""
        outputs = outputs.permute(0, 1, 3, 4, 2) if self._channels_last else outputs
        return outputs.transpose(0, 1).reshape(outputs.shape[1] * self.num_views, -1)

    # ---- reading

    def fetch(self, indices: Sequence[int]) -> Tensor:
        """Outputs ``(V, B, ...)`` of the images at these positions of the dataset."""
        if self._rows is None or self.storage == "off":
            return next(self._computed([[(index, 0) for index in indices]], 0))
        rows = torch.tensor(indices) * self.num_views + torch.arange(self.num_views)[:, None]  # (V, B)
        found = self._rows.index_select(0, rows.flatten().to(self._rows.device))
        if found.device != self._device:
            on_cuda = self._device.type == "cuda"
            found = (found.pin_memory() if on_cuda else found).to(self._device, non_blocking=on_cuda)
        found = found.view(self.num_views, len(indices), *self._shape)
        return found.permute(0, 1, 4, 2, 3) if self._channels_last else found

    def stream(self, order: Order, start: int, stop: int | None = None) -> Iterator[Tensor]:
        """Outputs of minibatches ``start`` to ``stop`` (exclusive; by default without end).

        Where nothing is kept, workers read ahead; they end with the iterator.
        """
        positions: Iterator[int] = itertools.count(start) if stop is None else iter(range(start, stop))
        if self._rows is None or self.storage == "off":
            batches = ([(index, position + 1) for index in order.indices(position)] for position in positions)
            yield from self._computed(batches, self.num_workers)
        else:
            for position in positions:
                yield self.fetch(order.indices(position))

    # ---- computing

    def _computed(self, batches: Iterable[list[tuple[int, int]]], num_workers: int) -> Iterator[Tensor]:
        """Outputs of batches of (image, draw)."""
        loader = DataLoader(
            _RepeatableImages(self.dataset),
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=self.collate_fn,
            pin_memory=torch.cuda.is_available(),
            # of its own: with the global one, training would draw other numbers with a cache than without
            generator=torch.Generator(),
        )
        for batch in loader:
            with torch.no_grad():
                outputs = self.encode(batch)
            if outputs.ndim < 2 or outputs.shape[0] != self.num_views:
                raise ValueError(
                    f"encode must give (V, B, ...) with V = num_views = {self.num_views}, got {(*outputs.shape,)}."
                )
            yield outputs


class _RepeatableImages(Dataset[Any]):
    """Images by (index, draw): random augmentations depend on these two alone, whoever reads the image."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    @override
    def __getitem__(self, key: tuple[int, int]) -> Any:
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds the other devices as well
            return self.dataset[key[0]]
