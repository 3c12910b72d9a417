"""Watches adaptation for collapse: PANDA's Fig. 1 (arXiv:2010.05903) as numbers, as a table and as a picture."""

import csv
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from sklearn.metrics import roc_auc_score
from torch import Tensor
from typing_extensions import override

from panda_anomalib.adaptation.collapse import (
    center_distance,
    effective_rank,
    held_out_ratio,
    knn_distances,
    neighbor_preservation,
    total_variance,
    typical_distance,
)
from panda_anomalib.adaptation.resume import minibatches_done
from panda_anomalib.atomic import write_atomically
from panda_anomalib.callbacks.collapse_figure import draw_collapse

__all__ = ["AdaptationProbe", "CollapseMonitor"]

logger = logging.getLogger(__name__)

_GROUPS = ("train", "val_normal", "test_normal", "test_anomalous")
_COLUMNS = (
    "minibatch",
    *(f"{group}_distance" for group in _GROUPS),
    "typical_distance",
    *(f"{group}_ratio" for group in _GROUPS),
    "variance",
    "variance_kept",
    "effective_rank",
    "effective_rank_kept",
    "neighbors_kept",
    "held_out_ratio",
    "test_auroc",
)


@runtime_checkable
class AdaptationProbe(Protocol):
    """What a LightningModule offers to be watched."""

    def adaptation_probe(self, *, num_images: int, include_test: bool) -> dict[str, Tensor]:
        """Embeddings ``(n, D)`` with the current weights, of the same images in the same order at every call.

        Returns:
            ``train``: up to ``num_images`` normal training images; where there are any, ``val_normal``, and, only with
            ``include_test``, ``test_normal`` and ``test_anomalous``.
        """

    def adaptation_center(self) -> Tensor:
        """Centre ``(D,)`` that adaptation pulls to: mean embedding of the unadapted training images."""


class CollapseMonitor(Callback):
    """Measures, every few minibatches, whether the embeddings of normal images still tell images apart.

    Works on every LightningModule that is an ``AdaptationProbe``. It never stops training, never changes a weight or
    a random number, and warns once, from normal images alone: test images are for the picture, and choosing a
    stopping point by them is choosing on the test set.

    Each measurement is a row of ``history``, goes to the loggers as ``collapse/<name>``, and is written to
    ``<trainer.default_root_dir>/collapse/collapse.csv`` and ``collapse.png``. Distances are squared, and divided by D:

    * ``<group>_distance``: mean distance to the centre; groups are train, val_normal, test_normal, test_anomalous.
    * ``typical_distance``: s_t, mean kNN distance (k = 2) of a seeded tenth of ``train`` to the rest (App. D).
    * ``<group>_ratio``: distance divided by typical distance.
    * ``variance``: total variance of ``train``; ``effective_rank``: directions it spreads in.
    * ``variance_kept``, ``effective_rank_kept``: the same divided by their values at the first measurement.
    * ``neighbors_kept``: share of each training image's 10 nearest neighbours that were so at the first measurement.
    * ``held_out_ratio``: kNN distance of ``val_normal`` to ``train`` by that within ``train``.
    * ``test_auroc``: AUROC of the kNN distance (k = 2) of the test groups to ``train``.

    A row lacks what cannot be measured. Rows are kept in checkpoints, so that a resumed run continues its curve.

    Args:
        every_n_minibatches: Distance of measurements; there is also one before the first and one after the last.
        num_images: Training images asked for. 512 give s_t from 51 images, and cost about 16 minibatches of 32 forward.
        watch_test: Also measure the test groups. They are as many images as the model gives, at every measurement.
        min_effective_rank_kept: Warn below this share: half of the directions in which normal images differed are
            gone.
        min_variance_kept: Warn below this share, if neighbours are lost, too. Alone it means little: compactness
            shrinks distances by intent, and kNN does not mind one factor.
        min_neighbors_kept: Warn below this share, if variance is lost, too. Alone it means little: outlier exposure
            leaves a quarter of the neighbours, keeps the variance, and gains.

    The limits were set by runs of EfficientNet-Lite0 on one class of CIFAR-10 (``benchmarks/results/adaptation_*``): of
    the measurements there with the default readout, they warn of all that lost more than 2 points of AUROC, and of none
    that lost less or gained.

    Raises:
        ValueError: If an argument is not accepted; at a measurement, if ``train`` has fewer than two rows.
        TypeError: At setup, if the model is no ``AdaptationProbe``.
    """

    def __init__(
        self,
        every_n_minibatches: int = 100,
        *,
        num_images: int = 512,
        watch_test: bool = False,
        min_effective_rank_kept: float = 0.5,
        min_variance_kept: float = 0.5,
        min_neighbors_kept: float = 0.6,
    ) -> None:
        if every_n_minibatches < 1:
            raise ValueError(f"every_n_minibatches must be at least 1, got {every_n_minibatches}.")
        if num_images < 20:
            raise ValueError(f"num_images must be at least 20, of which a tenth is held out, got {num_images}.")
        self.limits = {
            "effective_rank_kept": min_effective_rank_kept,
            "variance_kept": min_variance_kept,
            "neighbors_kept": min_neighbors_kept,
        }
        for name, limit in self.limits.items():
            if not 0 <= limit <= 1:
                raise ValueError(f"min_{name} must be in [0, 1], got {limit}; 0 never warns.")
        self.every_n_minibatches = every_n_minibatches
        self.num_images = num_images
        self.watch_test = watch_test
        self._forget()

    def _forget(self) -> None:
        self.history: list[dict[str, float]] = []
        self.warned_at: int | None = None
        self._start: Tensor | None = None

    @property
    @override
    def state_key(self) -> str:
        # rows of other images are no continuation of this curve
        return self._generate_state_key(num_images=self.num_images)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "warned_at": self.warned_at,
            "start": self._start,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [dict(row) for row in state_dict["history"]]
        self.warned_at = state_dict["warned_at"]
        self._start = state_dict["start"]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(pl_module, AdaptationProbe):
            raise TypeError(
                f"model must offer adaptation_probe() and adaptation_center(), got {type(pl_module).__name__}; "
                "give it these methods (see AdaptationProbe) or remove CollapseMonitor."
            )
        self._forget()  # the state of a checkpoint is loaded after setup

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.history:
            self._measure(trainer, pl_module, minibatches_done(trainer))  # 0, unless the checkpoint knew no monitor

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        done = minibatches_done(trainer)
        if done % self.every_n_minibatches == 0:
            self._measure(trainer, pl_module, done)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.history[-1]["minibatch"] != (done := minibatches_done(trainer)):
            self._measure(trainer, pl_module, done)

    def _measure(self, trainer: Trainer, pl_module: Any, minibatch: int) -> None:
        # every process asks, because the model may have to gather; all get the same rows, one writes
        with torch.no_grad(), isolate_rng():  # a DataLoader draws a seed from torch's generator
            probe = pl_module.adaptation_probe(num_images=self.num_images, include_test=self.watch_test)
        row: dict[str, float] = {"minibatch": minibatch}
        if all(torch.isfinite(embeddings).all() for embeddings in probe.values()):
            if self._start is None:
                self._start = probe["train"].detach().float().cpu()
            row |= self._numbers(probe, pl_module.adaptation_center(), self._start)
        self.history.append(row)
        self._warn(row, log=trainer.is_global_zero)
        if trainer.is_global_zero:
            for sink in trainer.loggers:
                sink.log_metrics({f"collapse/{name}": value for name, value in row.items()}, step=trainer.global_step)
            self._write(Path(trainer.default_root_dir) / "collapse")

    def _numbers(self, probe: Mapping[str, Tensor], center: Tensor, start: Tensor) -> dict[str, float]:
        train = probe["train"]
        typical = typical_distance(train) / train.shape[1]
        numbers = {
            "typical_distance": typical,
            "variance": total_variance(train),
            "effective_rank": effective_rank(train),
        }
        for group in _GROUPS:
            if len(probe.get(group, ())):
                numbers[f"{group}_distance"] = center_distance(probe[group], center)
                numbers[f"{group}_ratio"] = _share(numbers[f"{group}_distance"], typical)
        first = next((row for row in self.history if "variance" in row), numbers)
        for name in ("variance", "effective_rank"):
            numbers[f"{name}_kept"] = _share(numbers[name], first[name])
        numbers["neighbors_kept"] = neighbor_preservation(start, train)
        if len(probe.get("val_normal", ())):
            numbers["held_out_ratio"] = held_out_ratio(train, probe["val_normal"])
        tests = [probe[group] for group in ("test_normal", "test_anomalous") if len(probe.get(group, ()))]
        if len(tests) == 2:
            labels = [0] * len(tests[0]) + [1] * len(tests[1])
            numbers["test_auroc"] = float(roc_auc_score(labels, knn_distances(torch.cat(tests), train).numpy()))
        return numbers

    def _warn(self, row: Mapping[str, float], *, log: bool) -> None:
        if self.warned_at is not None:
            return
        if "variance" not in row:
            reason = "the embeddings of normal images are not finite"
        else:
            low = [name for name, limit in self.limits.items() if row[name] < limit]
            if len(low) == 1 and low != ["effective_rank_kept"]:
                low = []
            reason = ", ".join(f"{name} is {row[name]:.3f} (start 1, limit {self.limits[name]:g})" for name in low)
        if not reason:
            return
        self.warned_at = int(row["minibatch"])
        if log:
            logger.warning(
                "Features are collapsing at minibatch %d: %s. Train fewer minibatches, lower the learning rate, or "
                "anchor the weights with ElasticWeightConsolidation.",
                self.warned_at,
                reason,
            )

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "collapse.csv", self._write_table)
        figure = draw_collapse(self.history, warned_at=self.warned_at)
        write_atomically(folder / "collapse.png", figure.savefig)

    def _write_table(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(self.history)


def _share(value: float, whole: float) -> float:
    return value / whole if whole else math.nan
