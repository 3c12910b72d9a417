"""What all adapted models share: the trunk is trained on the normal images, then the memory bank is built (PANDA)."""

import logging
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import SGD, Optimizer
from typing_extensions import override

from panda_anomalib.adaptation.minibatches import AdaptationLoader, Minibatch, MinibatchOrder
from panda_anomalib.adaptation.objectives import Objective, ObjectiveName, make_objective
from panda_anomalib.adaptation.resume import mend_progress, minibatches_done
from panda_anomalib.adaptation.stem_cache import CacheName, StemOutputs
from panda_anomalib.backbones import EmbeddingNormalization
from panda_anomalib.backbones.normalization import NormalizationName
from panda_anomalib.backbones.pooling import pooling_parts
from panda_anomalib.models.cleaning import Removal, find_removal
from panda_anomalib.models.stopping import StopName, StoppingMixin

__all__ = ["AdaptationMixin"]

logger = logging.getLogger(__name__)

_LIGHTNINGS_EPOCHS = 1000
"""What Lightning makes of an unset ``max_epochs``."""
_MINIBATCHES_OF_AN_EPOCH = 100
"""At least so many between two checkpoints, where the user has not set the number of epochs."""


class AdaptationMixin(StoppingMixin):
    """Base of the adapted models; a model is ``class Name(AdaptationMixin, AnomalibModule)``.

    Fitting is: one pass over the normal images through the frozen stem, whose outputs are kept; ``cleaning`` chooses
    images to leave out by their unadapted embeddings, and the objective learns the centre from those of the others; the
    trunk is trained for a number of minibatches; the memory bank and the threshold are made as in DN2, with the adapted
    trunk.

    Args:
        trainable_stages: How many of the backbone's last stages are trained (PANDA: 2 of 4).
        minibatches: Length of the training, whatever the number of images. ``--trainer.max_steps`` or
            ``--trainer.max_epochs`` (passes over the images) win over it. The size of a minibatch is the datamodule's
            ``train_batch_size``.
        stop: ``constant`` (PANDA): the weights after the last minibatch. ``auto``: those, among the unadapted ones and
            one in every 100 minibatches, that best tell normal images that are kept out of the training from altered
            copies of them; ends early when five measurements in a row were no better. No label is looked at.
        objective: ``compactness`` (PANDA), ``angular`` or ``mean_shifted_contrastive``.
        objective_normalization: How the objective sees embeddings: ``none`` (PANDA), ``l2``, or ``power_l2``.
        learning_rate: Of stochastic gradient descent.
        momentum: Of stochastic gradient descent.
        weight_decay: Of stochastic gradient descent; enters behind the clipping.
        gradient_clip: Largest norm of the whole gradient, penalties included; None for any.
            ``--trainer.gradient_clip_val`` wins over it.
        calibration_share: Share of the normal images (at least 20, at most half) that are kept out of the training,
            though not out of the memory bank, because the threshold comes from them: images that a network was trained
            on are nearer to each other than new ones. 0 trains on all, and says that the threshold is too low.
        cache: Where the stem's outputs are kept: ``auto`` (memory while there is room, else disk, else nowhere),
            ``memory``, ``disk`` or ``off``.
        seed: Of the order of the images and of the choice of those that are kept out.
        detector: Arguments of ``DetectorMixin``.
    """

    training_description = "Adaptation to the normal images"
    """What a pass over them is for, as a progress bar says it."""
    objective: Objective
    free_arguments = StoppingMixin.free_arguments | {"cache"}

    def __init__(
        self,
        *,
        trainable_stages: int = 2,
        minibatches: int = 2355,
        stop: StopName = "constant",
        objective: ObjectiveName = "compactness",
        objective_normalization: NormalizationName = "none",
        learning_rate: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 5e-5,
        gradient_clip: float | None = 1e-3,
        calibration_share: float = 0.1,
        cache: CacheName = "auto",
        seed: int = 0,
        **detector: Any,
    ) -> None:
        if minibatches < 1:
            raise ValueError(f"minibatches must be at least 1, got {minibatches}; Dn2 is the model without training.")
        if not 0 <= calibration_share <= 0.5:
            raise ValueError(f"calibration_share must be from 0 to 0.5, got {calibration_share}.")
        if trainable_stages < 1:
            raise ValueError(f"trainable_stages must be at least 1, got {trainable_stages}; Dn2 trains none.")
        if stop not in get_args(StopName):
            raise ValueError(f"stop must be one of {', '.join(get_args(StopName))}, got {stop!r}.")
        if stop == "auto" and calibration_share == 0:
            raise ValueError("stop='auto' needs normal images that are kept out; calibration_share must be above 0.")
        super().__init__(**detector)
        self.minibatches_done = 0
        self._steps = self._clipped_steps = 0
        self._training_is_over = False
        self._loader: AdaptationLoader | None = None

    @property
    def trunk_stages(self) -> int:  # type: ignore[override] # what is trained is the trunk
        """Number of stages that are trained."""
        stages: int = self.hparams["trainable_stages"]
        return stages

    @override
    def build_parts(self) -> None:
        super().build_parts()
        self.model.backbone.trunk_parameters()  # an impossible trainable_stages must not surface after the images
        self.objective = self.build_objective()

    @property
    def is_fitting(self) -> bool:
        """Whether a trainer is fitting this model."""
        return self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def build_objective(self) -> Objective:
        """Objective of the model's arguments, not yet prepared."""
        return make_objective(self.hparams["objective"], self.objective_normalization())

    def refuse_objective(self) -> None:
        """For models whose objective is no choice.

        Raises:
            ValueError: If another has been chosen.
        """
        if (chosen := self.hparams["objective"]) != "compactness":
            raise ValueError(f"objective of {self.name} is its own, got {chosen!r}; leave it out, or use Panda.")

    def objective_normalization(self) -> EmbeddingNormalization:
        """How the objective sees embeddings."""
        parts = len(pooling_parts(self.hparams["pooling"]))
        kind = self.hparams["objective_normalization"]
        return EmbeddingNormalization(kind, power=self.hparams["power"], num_parts=parts)

    # ---- what Lightning asks before training

    @property
    @override
    def trainer_arguments(self) -> dict[str, Any]:
        """The memory bank does not exist before training, so there is nothing to validate."""
        return {"num_sanity_val_steps": 0}

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self._set_budget()
            self._mark_trainable()

    def _set_budget(self) -> None:
        trainer = self.trainer
        self._epochs_are_ours = trainer.max_steps == -1 and trainer.max_epochs in (-1, _LIGHTNINGS_EPOCHS)
        if self._epochs_are_ours:
            trainer.fit_loop.max_epochs = -1
            self._set_max_steps()
        elif not getattr(trainer, "fast_dev_run", False):
            logger.info(
                "The trainer's max_steps=%s and max_epochs=%s win over minibatches=%d.",
                trainer.max_steps,
                trainer.max_epochs,
                self.hparams["minibatches"],
            )

    def _set_max_steps(self) -> None:
        steps = math.ceil(self.hparams["minibatches"] / self.trainer.accumulate_grad_batches)
        self.trainer.fit_loop.epoch_loop.max_steps = steps

    def _mark_trainable(self) -> None:
        for parameter in self.model.backbone.trunk_parameters().values():
            parameter.requires_grad_()
        # before anything holds on to the parameters: twice as fast on CPU
        self.model.backbone.network.to(memory_format=torch.channels_last)

    @override
    def configure_optimizers(self) -> Optimizer:
        return SGD(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=self.hparams["learning_rate"],
            momentum=self.hparams["momentum"],
            weight_decay=self.hparams["weight_decay"],
        )

    @property
    @override
    def num_views(self) -> int:
        return self.objective.num_views

    # ---- one pass through the stem, then minibatches from its outputs

    @override
    def on_fit_start(self) -> None:
        backbone, resumed = self.model.backbone, self.trainer.ckpt_path is not None
        if self.minibatches_done and not resumed:
            backbone.reload_weights()  # fitting again begins with the unadapted network
            self.minibatches_done = 0
        backbone.load_weights()
        self._steps = self._clipped_steps = 0
        self._training_is_over = False
        if not resumed:
            self.forget_fit()
        embeddings = self.read_images(embed=not resumed)
        if not resumed:
            self.prepare_adaptation(self._clean_set(embeddings))
        self._replace_loader()

    def _clean_set(self, embeddings: Tensor) -> Tensor:
        """Unadapted embeddings ``(N, D)`` without those that cleaning removes, from the training too.

        An anomalous image in the minibatches teaches the network to pull its kind to the centre.
        """
        cleaning = self.hparams["cleaning"]
        self.removal = find_removal(self.model.normalization(embeddings), cleaning) if cleaning else None
        return embeddings if self.removal is None else embeddings[self.removal.kept(len(embeddings))]

    def prepare_adaptation(self, embeddings: Tensor) -> None:
        """Learn from the unadapted embeddings ``(N, D)``, pooled and not normalised, what training needs."""
        self.objective.prepare(embeddings)

    @override
    def adaptation_probe(self, *, num_images: int, include_test: bool) -> dict[str, Tensor]:
        """Embeddings as the objective sees them; see ``callbacks.collapse_monitor.AdaptationProbe``."""
        pooled = super().adaptation_probe(num_images=num_images, include_test=include_test)
        return {group: self.objective.normalization(embeddings) for group, embeddings in pooled.items()}

    def adaptation_center(self) -> Tensor:
        """Centre ``(D,)`` of the unadapted embeddings, as the objective sees them."""
        return self.objective.center

    def _replace_loader(self) -> None:
        source = self.minibatch_images()
        removed = [] if self.removal is None else self.removal.positions.tolist()
        order = self.minibatch_order(len(source), left_out=[*self.held_out.tolist(), *removed])
        # a small set would make an epoch, with its checkpoint, of a few minibatches
        passes = math.ceil(_MINIBATCHES_OF_AN_EPOCH / order.per_pass) if self._epochs_are_ours else 1
        length = min(passes * order.per_pass, self.hparams["minibatches"]) if self._epochs_are_ours else order.per_pass
        self._loader = self.build_loader(source, order, length)
        self._host_source = self.trainer.fit_loop._data_source.instance
        self.trainer.fit_loop._data_source.instance = self._loader

    def minibatch_order(self, num_images: int, *, left_out: Collection[int] = ()) -> MinibatchOrder:
        """Order of minibatches for this process."""
        return MinibatchOrder(
            num_images,
            self._host_loader.batch_size or 1,
            seed=self.hparams["seed"],
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            left_out=left_out,
        )

    def build_loader(self, normals: StemOutputs, order: MinibatchOrder, length: int) -> AdaptationLoader:
        """Loader of the minibatches that the objective takes."""
        return AdaptationLoader(normals, order, length=length)

    # ---- training

    @override
    def on_train_start(self) -> None:
        self.minibatches_done = minibatches_done(self.trainer)
        if self._loader is not None:  # Lightning forgets where a loader was when an epoch had ended
            self._loader.position = self.minibatches_done

    @override
    def training_step(self, batch: Minibatch, *args: Any, **kwargs: Any) -> Tensor:
        normals, companions = self._embed_minibatch(batch)
        loss: Tensor = self.objective(normals, companions, batch.labels)
        if not torch.isfinite(loss):
            raise RuntimeError(
                f"loss must be finite, got {loss.item()} at minibatch {self.minibatches_done + 1}; the last checkpoint "
                "is from before it. Lower learning_rate, or set gradient_clip."
            )
        self.log("loss", loss.detach(), prog_bar=True, batch_size=batch.normals.shape[1])
        return loss

    def _embed_minibatch(self, batch: Minibatch) -> tuple[Tensor, Tensor | None]:
        """Embeddings ``(V, B, D)`` of the normal images and ``(B', D)`` of the companions, in one forward pass."""
        views, count = batch.normals.shape[:2]
        companions = [] if batch.companions is None else [batch.companions[0]]
        parts = [*batch.normals, *companions]
        embeddings = self._embed_hidden(torch.cat(parts) if len(parts) > 1 else parts[0])
        normals = embeddings[: views * count].unflatten(0, (views, count))
        return normals, embeddings[views * count :] if companions else None

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the whole gradient, unless the trainer has been told how."""
        limit = self.hparams["gradient_clip"]
        if gradient_clip_val:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif limit is not None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
            self._steps += 1
            self._clipped_steps += int(norm > limit)

    @override
    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.minibatches_done = minibatches_done(self.trainer)
        if self._is_fitted:
            self.forget_fit()  # fitted for a validation: the weights have moved since
        left = self.trainer.max_steps * self.trainer.accumulate_grad_batches - self.minibatches_done
        if left >= 0:
            self.log("left", float(left), prog_bar=True, batch_size=1)

    def forget_fit(self) -> None:
        """Drop memory bank and threshold, which belong to other weights."""
        self.model.scorer.calibration = torch.empty(0, device=self.device)
        if hasattr(self.post_processor, "threshold"):
            self.post_processor.threshold = torch.full_like(self.post_processor.threshold, torch.nan)
        self.forget_runtime()

    # ---- the memory bank

    @override
    def on_train_epoch_end(self) -> None:
        trainer = self.trainer
        reached_steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        reached_epochs = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs
        if reached_steps or reached_epochs or trainer.should_stop:
            self._end_training()  # before the checkpoint of this epoch

    @override
    def on_train_end(self) -> None:
        if not self._is_fitted:  # stopped by what acts behind the end of the epoch
            self._finish_training()
        if self._steps:
            share = 100 * self._clipped_steps / self._steps
            logger.info("Adapted for %d minibatches; %.0f %% of the steps were clipped.", self.minibatches_done, share)

    def _end_training(self) -> None:
        self._training_is_over = True
        self.restore_best()
        self.fit()

    def _finish_training(self) -> None:
        """Build the memory bank, and put it into the checkpoint of this run."""
        self._end_training()
        for callback in self.trainer.checkpoint_callbacks:
            if path := getattr(callback, "best_model_path", ""):
                self.trainer.save_checkpoint(Path(path))

    @override
    def fit(self) -> None:
        """Build the memory bank with the weights as they are.

        Raises:
            ValueError: If the images are too few for the scorer, or their embeddings are not finite.
        """
        if self._is_fitted:
            return
        embeddings = self.bank_embeddings()
        self.prepare_scorer(self.model.scorer)
        held_out = self.held_out if len(self.held_out) else None
        self.fit_embeddings(embeddings, self._paths, held_out, digests=self._digests, removal=self.removal)

    def bank_embeddings(self) -> Tensor:
        """Embeddings of the normal training images as the scorer takes them."""
        return self.model.normalization(self.embed_normals())

    @override
    def on_fit_end(self) -> None:
        super().on_fit_end()
        if not self._is_fitted:  # killed between the last minibatch and the memory bank, and resumed
            self._finish_training()
        self.trainer.fit_loop._data_source.instance = self._host_source
        self.close_images()
        self._loader = None
        self.model.requires_grad_(requires_grad=False)
        self.model.to(memory_format=torch.contiguous_format)  # as it is after loading: the same sums, bit for bit

    # ---- checkpoints

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        # checkpoints are also saved by callbacks, whose turn is before ours
        done = minibatches_done(self.trainer) if self.is_fitting else self.minibatches_done
        removal = None if self.removal is None else self.removal.to_plain()
        checkpoint["panda_anomalib"] |= {"minibatches_done": done, "removal": removal}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.minibatches_done = checkpoint["panda_anomalib"]["minibatches_done"]
        if self.is_fitting:
            self.removal = Removal.from_plain(checkpoint["panda_anomalib"].get("removal"))
            mend_progress(checkpoint)
            self._mark_trainable()  # the backbone may have been built anew
            if self._epochs_are_ours:
                self._set_max_steps()  # of the checkpoint's arguments

    @override
    def _require_fitted(self) -> None:
        if not self._is_fitted and self.minibatches_done:
            raise RuntimeError(
                f"{self.name} was stopped after {self.minibatches_done} minibatches, before it had a memory bank; "
                "go on with fit and this ckpt_path."
            )
        super()._require_fitted()


AdaptationMixin.__init__.__doc__ = (
    AdaptationMixin.__doc__
)  # where jsonargparse finds the arguments of the classes below it
