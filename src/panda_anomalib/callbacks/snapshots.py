"""Copies of the trunk at fixed intervals of training, for sample-wise early stopping (PANDA-SES)."""

import logging
import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from panda_anomalib.adaptation.resume import minibatches_done
from panda_anomalib.backbones import Backbone

__all__ = ["SnapshotEnsemble"]

logger = logging.getLogger(__name__)


class SnapshotEnsemble(Callback):
    """Keeps copies of a backbone's trunk, taken every few passes over the images (PANDA, appendix D).

    The paper takes one every 5 epochs, up to 150,000 images seen. Copies are kept in CPU memory and in checkpoints; a
    resumed run goes on where it was interrupted. When training begins, one line says how many there will be and what
    they take.

    Args:
        every_n_passes: Interval in passes over the training images.
        every_n_minibatches: Interval in minibatches, in place of passes.
        max_samples: Images seen (an image counts in every pass) beyond which none is taken.
        max_snapshots: Where the intervals make more than this, as many of them are taken, evenly spaced.
        include_pretrained: Whether to take one before the first minibatch too, which ``max_snapshots`` does not count.
            The paper does not.
        module: Dotted path of the ``Backbone`` in the LightningModule.

    Raises:
        ValueError: If a number is below 1.
    """

    snapshots: dict[int, dict[str, Tensor]]
    """Number of minibatches -> the trunk's parameters after them, by ``Backbone.trunk_parameters()``'s names."""

    def __init__(
        self,
        every_n_passes: int = 5,
        every_n_minibatches: int | None = None,
        *,
        max_samples: int = 150_000,
        max_snapshots: int = 12,
        include_pretrained: bool = False,
        module: str = "model.backbone",
    ) -> None:
        for name, value in (
            ("every_n_passes", every_n_passes),
            ("every_n_minibatches", every_n_minibatches),
            ("max_samples", max_samples),
            ("max_snapshots", max_snapshots),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.every_n_passes = every_n_passes
        self.every_n_minibatches = every_n_minibatches
        self.max_samples = max_samples
        self.max_snapshots = max_snapshots
        self.include_pretrained = include_pretrained
        self.module = module
        self.snapshots = {}
        self.minibatches = 0
        self._plan: list[int] = []

    def plan(self, *, num_images: int, per_pass: int, budget: float) -> list[int]:
        """After which numbers of minibatches a snapshot is taken, ascending.

        Args:
            num_images: Number of training images.
            per_pass: Number of minibatches in a pass over them.
            budget: Number of minibatches that will be trained, or infinity.

        Raises:
            ValueError: If not even one interval fits into the budget and ``max_samples``.
        """
        interval = self.every_n_minibatches or self.every_n_passes * per_pass
        by_samples = self.max_samples * per_pass // num_images
        if interval > by_samples:
            raise ValueError(
                f"max_samples must be at least one snapshot interval, {math.ceil(interval * num_images / per_pass)} "
                f"images, got {self.max_samples}; raise it, or take snapshots more often."
            )
        if interval > budget:
            raise ValueError(
                f"the budget must be at least one snapshot interval, {interval} minibatches, got {budget:.0f}; "
                "train for longer (max_steps, max_epochs), or take snapshots more often."
            )
        possible = int(min(by_samples, budget)) // interval
        count = min(possible, self.max_snapshots)
        taken = [interval * round(possible * number / count) for number in range(1, count + 1)]
        return [0, *taken] if self.include_pretrained else taken

    def take(self) -> dict[int, dict[str, Tensor]]:
        """Hand the snapshots over and forget them: what holds them from now on saves them, too."""
        taken, self.snapshots = self.snapshots, {}
        return taken

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        backbone = self._backbone(pl_module)
        loader: Any = trainer.train_dataloader
        # an epoch of ours may be any number of minibatches: their order knows how many make a pass
        per_pass = getattr(getattr(loader, "order", None), "per_pass", None) or len(loader)
        num_images = len(loader.dataset)
        self._plan = self.plan(num_images=num_images, per_pass=per_pass, budget=_budget(trainer))
        # the trainer's count: a checkpoint may have been saved by a callback whose turn was before ours
        self.minibatches = minibatches_done(trainer)
        passed = [number for number in self._plan if number <= self.minibatches]
        self.snapshots = {number: self.snapshots[number] for number in passed if number in self.snapshots}
        self._say(backbone, num_images, self.every_n_minibatches or self.every_n_passes * per_pass)
        if self.minibatches in self._plan and self.minibatches not in self.snapshots:
            self._add(backbone)
        if missing := [number for number in passed if number not in self.snapshots]:
            logger.warning(
                "%d of %d snapshots will be missing (after %s minibatches): training goes on from minibatch %d without "
                "them.",
                len(missing),
                len(self._plan),
                ", ".join(map(str, missing)),
                self.minibatches,
            )

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.minibatches = minibatches_done(trainer)
        if self.minibatches in self._plan:
            self._add(self._backbone(pl_module))

    def _add(self, backbone: Backbone) -> None:
        parameters = backbone.trunk_parameters()
        if broken := [name for name, value in parameters.items() if not torch.isfinite(value).all()]:
            raise RuntimeError(
                f"parameters must be finite, got NaN or infinity in {broken[0]} after minibatch {self.minibatches}; "
                f"the {len(self.snapshots)} snapshots before it are kept: lower the learning rate."
            )
        # clone: on the CPU .cpu() is the parameter itself, which goes on changing
        self.snapshots[self.minibatches] = {name: value.detach().cpu().clone() for name, value in parameters.items()}

    def _backbone(self, pl_module: LightningModule) -> Backbone:
        try:
            found = pl_module.get_submodule(self.module)
        except AttributeError:
            found = None
        if not isinstance(found, Backbone):
            raise ValueError(
                f"module must be the path of a Backbone in {type(pl_module).__name__}, got {self.module!r}; "
                "in models of panda_anomalib it is 'model.backbone'."
            )
        return found

    def _say(self, backbone: Backbone, num_images: int, interval: int) -> None:
        count = len(self._plan)
        trunk = sum(value.numel() * value.element_size() for value in backbone.trunk_parameters().values())
        embeddings = num_images * backbone.network.head_hidden_size * len(backbone.poolings) * 4  # float32
        logger.info(
            "%d snapshots of the trunk, after %s minibatches: %.1f MB of weights and about %.1f MB of embeddings.",
            count,
            ", ".join(map(str, self._plan)),
            count * trunk / 1e6,
            count * embeddings / 1e6,
        )
        after_training = [number for number in self._plan if number]
        if len(after_training) == self.max_snapshots and after_training[-1] > self.max_snapshots * interval:
            logger.info(
                "The interval of %d minibatches makes %d snapshots; max_snapshots=%d of them are taken, evenly spaced.",
                interval,
                after_training[-1] // interval,
                self.max_snapshots,
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        """Number of minibatches done, and the snapshots."""
        return {"minibatches": self.minibatches, "snapshots": self.snapshots}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        self.minibatches = state_dict["minibatches"]
        self.snapshots = state_dict["snapshots"]


def _budget(trainer: Trainer) -> float:
    """Number of minibatches that the trainer's limits allow; infinity without a limit."""
    per_epoch = trainer.num_training_batches
    budget = math.inf
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        budget = trainer.max_epochs * per_epoch
    if trainer.max_steps >= 0:
        # the last minibatch of an epoch makes a step, however few were accumulated
        epochs, steps = divmod(trainer.max_steps, math.ceil(per_epoch / trainer.accumulate_grad_batches))
        budget = min(budget, epochs * per_epoch + min(steps * trainer.accumulate_grad_batches, per_epoch))
    return budget
