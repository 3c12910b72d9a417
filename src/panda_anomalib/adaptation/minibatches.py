"""The order of minibatches and the loader that Lightning iterates, both resumable at any minibatch."""

from collections.abc import Collection, Iterator
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from panda_anomalib.adaptation.stem_cache import StemOutputs

__all__ = ["AdaptationLoader", "Minibatch", "MinibatchOrder"]


class MinibatchOrder:
    """Which images form minibatch number 0, 1, 2, ..., counted from the start of training.

    Pass p over the images is a permutation drawn from ``(seed, p)``, cut into global minibatches of
    ``batch_size * world_size`` images, the last of which may be smaller. Of each, rank r takes every
    ``world_size``-th image from the r-th on. Nothing is remembered: to resume is to ask for a later position.

    Args:
        num_images: Number of images.
        batch_size: Images of a minibatch in each process.
        seed: Of the permutations; the same in all processes.
        rank: Number of this process.
        world_size: Number of processes.
        left_out: Images that are in no minibatch.

    Raises:
        ValueError: If a number is out of its range, or all images are left out.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        left_out: Collection[int] = (),
    ) -> None:
        for name, value, least in (
            ("num_images", num_images, 1),
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("world_size", world_size, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0 ... world_size - 1 = {world_size - 1}, got {rank}.")
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._images = np.setdiff1d(np.arange(num_images), np.fromiter(left_out, dtype=np.int64))
        if len(self._images) == 0:
            raise ValueError(f"left_out must leave an image, got all {num_images}.")
        self._pass = -1  # of the permutation below: one pass is asked for many times in a row
        self._permutation = np.empty(0, dtype=np.int64)

    @property
    def per_pass(self) -> int:
        """Number of minibatches in one pass over the images."""
        return -(-len(self._images) // (self.batch_size * self.world_size))

    def indices(self, position: int) -> list[int]:
        """Images of minibatch number ``position`` for this rank, at least one.

        Raises:
            ValueError: If the position is negative.
        """
        if position < 0:
            raise ValueError(f"position must be at least 0, got {position}.")
        number, within = divmod(position, self.per_pass)
        if number != self._pass:
            self._permutation = np.random.default_rng([self.seed, number]).permutation(self._images)
            self._pass = number
        size = self.batch_size * self.world_size
        images = self._permutation[within * size : (within + 1) * size]
        # fewer images than processes: a rank without one takes another's, since all must compute a gradient
        own = images[self.rank :: self.world_size] if self.rank < len(images) else images[[self.rank % len(images)]]
        return [int(index) for index in own]


class Minibatch(NamedTuple):
    """Stem outputs of one training step; V views of B images."""

    normals: Tensor
    """``(V, B, ...)`` of normal images."""
    companions: Tensor | None
    """``(V, B', ...)`` of outliers or labelled images."""
    labels: Tensor | None
    """``(B',)`` of the companions."""


class AdaptationLoader:
    """What Lightning's trainer iterates for adaptation, in place of the datamodule's loader.

    An epoch is any ``length`` minibatches in a row. ``position`` is the number of minibatches handed out since the
    start of training; it is saved and restored with the checkpoint (``state_dict``), and may be set: iteration goes on
    from there. It is no ``DataLoader``, so Lightning puts no sampler into it.

    Args:
        normals: Stem outputs of the normal training images.
        order: Order of their minibatches.
        companions: Stem outputs of a second set of images, which is gone through alongside, in endless passes.
        companion_order: Order of the companions' minibatches.
        companion_labels: ``(number of companions,)``: labels to hand out with them.
        length: Number of minibatches in an epoch; by default one pass over the normal images.

    Raises:
        ValueError: If companions come without an order, an order or labels come without companions, the number of
            labels or of images of an order does not fit, or length is below 1.
    """

    def __init__(
        self,
        normals: StemOutputs,
        order: MinibatchOrder,
        *,
        companions: StemOutputs | None = None,
        companion_order: MinibatchOrder | None = None,
        companion_labels: Tensor | None = None,
        length: int | None = None,
    ) -> None:
        if (companions is None) != (companion_order is None):
            raise ValueError("companions and companion_order must be given together, got one of them.")
        if companion_labels is not None and (companions is None or len(companion_labels) != len(companions)):
            count = 0 if companions is None else len(companions)
            raise ValueError(f"companion_labels must be one per companion ({count}), got {len(companion_labels)}.")
        for name, outputs, its_order in (
            ("order", normals, order),
            ("companion_order", companions, companion_order),
        ):
            if outputs is not None and its_order is not None and its_order.num_images != len(outputs):
                raise ValueError(f"{name} must be of {len(outputs)} images, got one of {its_order.num_images}.")
        if length is not None and length < 1:
            raise ValueError(f"length must be at least 1, got {length}.")
        self.normals = normals
        self.order = order
        self.companions = companions
        self.companion_order = companion_order
        self.companion_labels = companion_labels
        self.length = order.per_pass if length is None else length
        self.position = 0
        self._next_position = 0  # of the iterator below, which outlives an epoch: workers start once
        # Lightning's teardown clears an attribute of this name, which ends the workers
        self._iterator: Iterator[Minibatch] | None = None

    @property
    def dataset(self) -> Any:
        """Normal training images."""
        return self.normals.dataset

    def __len__(self) -> int:
        """Number of minibatches in an epoch."""
        return self.length

    def __iter__(self) -> Iterator[Minibatch]:
        """The next ``length`` minibatches; where they begin is decided when the first is asked for.

        Resumed in the middle of an epoch, Lightning itself counts how many of them the epoch still needs.
        """
        for _ in range(self.length):
            if self._iterator is None or self._next_position != self.position:
                self._iterator = self._minibatches(self.position)
            minibatch = next(self._iterator)
            self.position += 1
            self._next_position = self.position
            yield minibatch

    def _minibatches(self, start: int) -> Iterator[Minibatch]:
        normals = self.normals.stream(self.order, start)
        if self.companions is None or self.companion_order is None:
            yield from map(Minibatch, normals, repeat(None), repeat(None))
            return
        companions = self.companions.stream(self.companion_order, start)
        for position, (own, others) in enumerate(zip(normals, companions, strict=True), start=start):
            labels = self.companion_labels
            yield Minibatch(own, others, None if labels is None else labels[self.companion_order.indices(position)])

    def state_dict(self) -> dict[str, int]:
        """Position, for the checkpoint."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on behind the minibatches that were handed out when the checkpoint was saved."""
        self.position = state_dict["position"]
