"""Stops adaptation, and goes back to its best weights, by what normal images alone can tell."""

import logging
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from typing_extensions import override

from panda_anomalib.adaptation.resume import minibatches_done

__all__ = ["LabelFreeStop", "StopCriterion"]

logger = logging.getLogger(__name__)


@runtime_checkable
class StopCriterion(Protocol):
    """What a LightningModule offers to be stopped."""

    def stop_criterion(self) -> float:
        """How good the current weights are, from normal images alone; more is better, the same images every time."""


class LabelFreeStop(Callback):
    """Keeps the trained weights at which the model's ``stop_criterion`` was highest, the unadapted ones included.

    Measures before the first minibatch and every few from there on. Training ends early after ``patience``
    measurements without a better one; ``restore`` puts the best weights back. Its state, those weights too, is kept in
    checkpoints: a resumed run makes the same choice as an uninterrupted one.

    Args:
        every_n_minibatches: Distance of measurements.
        patience: Measurements without improvement after which training ends; None never ends it early.
        min_gain: How much more than the best one a measurement must be to replace it: a difference within the noise of
            a few hundred images is no reason to leave the pretrained network.

    Raises:
        ValueError: If an argument is not accepted.
        TypeError: At setup, if the model is no ``StopCriterion``.
    """

    def __init__(self, every_n_minibatches: int = 100, *, patience: int | None = 5, min_gain: float = 0.0) -> None:
        if every_n_minibatches < 1:
            raise ValueError(f"every_n_minibatches must be at least 1, got {every_n_minibatches}.")
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1, or null for none, got {patience}.")
        if min_gain < 0:
            raise ValueError(f"min_gain must be at least 0, got {min_gain}.")
        self.every_n_minibatches = every_n_minibatches
        self.patience = patience
        self.min_gain = min_gain
        self._forget()

    def _forget(self) -> None:
        self.history: dict[int, float] = {}
        self.best_minibatch = 0
        self._best: dict[str, Tensor] = {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(pl_module, StopCriterion):
            raise TypeError(
                f"model must offer stop_criterion(), got {type(pl_module).__name__}; give it this method (see "
                "StopCriterion) or remove LabelFreeStop."
            )
        self._forget()  # the state of a checkpoint is loaded after setup

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.history:
            self._measure(trainer, pl_module, minibatches_done(trainer))

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        done = minibatches_done(trainer)
        if done % self.every_n_minibatches == 0:
            self._measure(trainer, pl_module, done)

    def _measure(self, trainer: Trainer, pl_module: Any, minibatch: int) -> None:
        with torch.no_grad(), isolate_rng():
            value = float(pl_module.stop_criterion())
        better = not self.history or value > self.history[self.best_minibatch] + self.min_gain
        self.history[minibatch] = value
        if better:
            self.best_minibatch = minibatch
            self._best = {name: parameter.detach().cpu().clone() for name, parameter in _trained(pl_module)}
        for sink in trainer.loggers:
            sink.log_metrics({"stop_criterion": value}, step=trainer.global_step)
        since = sum(number > self.best_minibatch for number in self.history)
        if self.patience is not None and since >= self.patience:
            trainer.should_stop = True

    def restore(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At the end of training: put the best weights back, and say in one line which they are."""
        if not self.history:  # resumed behind the end of a training that had no such callback
            return
        if (done := minibatches_done(trainer)) not in self.history:
            self._measure(trainer, pl_module, done)
        with torch.no_grad():
            for name, parameter in _trained(pl_module):
                parameter.copy_(self._best[name])
        start, last = min(self.history), max(self.history)
        logger.info(
            "Kept the weights after minibatch %d of %d: criterion %.4f, at the start %.4f, at the end %.4f.%s",
            self.best_minibatch,
            last,
            self.history[self.best_minibatch],
            self.history[start],
            self.history[last],
            " Adaptation did not help; the network is the pretrained one." if self.best_minibatch == 0 else "",
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        """Measurements so far, and the best weights."""
        return {"history": self.history, "best_minibatch": self.best_minibatch, "best": self._best}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        self.history = dict(state_dict["history"])
        self.best_minibatch = state_dict["best_minibatch"]
        self._best = dict(state_dict["best"])


def _trained(pl_module: LightningModule) -> list[tuple[str, Any]]:
    return [(name, parameter) for name, parameter in pl_module.named_parameters() if parameter.requires_grad]
