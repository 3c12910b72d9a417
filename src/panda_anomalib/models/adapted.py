"""What all adapted models share: the trunk is trained on the normal images, then the memory bank is built (PANDA)."""

import copy
import logging
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import Batch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader
from typing_extensions import override

from panda_anomalib.adaptation.minibatches import AdaptationLoader, Minibatch, MinibatchOrder
from panda_anomalib.adaptation.objectives import Objective, ObjectiveName, make_objective
from panda_anomalib.adaptation.resume import mend_progress
from panda_anomalib.adaptation.stem_cache import CacheName, StemOutputs
from panda_anomalib.backbones import EmbeddingNormalization, ImagePreProcessor, make_runtime
from panda_anomalib.backbones.normalization import NormalizationName
from panda_anomalib.backbones.pooling import pooling_parts
from panda_anomalib.models.base import DetectorMixin
from panda_anomalib.progress import track

__all__ = ["AdaptationMixin"]

logger = logging.getLogger(__name__)

_LIGHTNINGS_EPOCHS = 1000
"""What Lightning makes of an unset ``max_epochs``."""
_MINIBATCHES_OF_AN_EPOCH = 100
"""At least so many between two checkpoints, where the user has not set the number of epochs."""
_CALIBRATION_IMAGES = 20
"""Fewest images that give a false-positive rate of 0.05 a threshold."""


class AdaptationMixin(DetectorMixin):
    """Base of the adapted models; a model is ``class Name(AdaptationMixin, AnomalibModule)``.

    Fitting is: one pass over the normal images through the frozen stem, whose outputs are kept; the objective learns
    the centre from the unadapted embeddings; the trunk is trained for a number of minibatches; the memory bank and the
    threshold are made as in DN2, with the adapted trunk.

    Args:
        trainable_stages: How many of the backbone's last stages are trained (PANDA: 2 of 4).
        minibatches: Length of the training, whatever the number of images. ``--trainer.max_steps`` or
            ``--trainer.max_epochs`` (passes over the images) win over it. The size of a minibatch is the datamodule's
            ``train_batch_size``.
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

    objective: Objective
    free_arguments = DetectorMixin.free_arguments | {"cache"}

    def __init__(
        self,
        *,
        trainable_stages: int = 2,
        minibatches: int = 2355,
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
        super().__init__(**detector)
        self.minibatches_done = 0
        self._clipped_steps = 0
        self._training_is_over = False
        self._normals: StemOutputs | None = None
        self._loader: AdaptationLoader | None = None
        self._paths: list[str] = []
        self._held_out = torch.empty(0, dtype=torch.int64)

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
        if self.device.type != "meta":  # before anything holds on to the parameters: twice as fast on CPU
            self.model.backbone.network.to(memory_format=torch.channels_last)

    @override
    def configure_optimizers(self) -> Optimizer:
        return SGD(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=self.hparams["learning_rate"],
            momentum=self.hparams["momentum"],
            weight_decay=self.hparams["weight_decay"],
        )

    # ---- one pass through the stem, then minibatches from its outputs

    @override
    def on_fit_start(self) -> None:
        backbone, resumed = self.model.backbone, self.trainer.ckpt_path is not None
        if self.minibatches_done and not resumed:
            backbone.reload_weights()  # fitting again begins with the unadapted network
            self.minibatches_done = 0
        backbone.load_weights()
        self._clipped_steps = 0
        self._training_is_over = False
        if not resumed:
            self.forget_fit()
        self._host_loader = self._find_host_loader()
        name = self._chosen_runtime()
        logger.info("Stem of %s runs by %s.", backbone.name, name)
        self._stem = make_runtime(name, backbone.stem)
        if self._is_augmented:
            logger.info("train_augmentations are on: nothing is cached, every minibatch is read and drawn anew.")
        dataset: Any = self._host_loader.dataset
        cache: CacheName = "off" if self._is_augmented else self.hparams["cache"]
        self._normals = self.stem_outputs(self._clean(dataset), cache=cache)
        self._paths, self._num_paths = [], len(dataset)
        embeddings: list[Tensor] = []

        def embed(hidden: Tensor, _: list[int]) -> None:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                embeddings.append(self._embed_hidden(hidden[0]))

        self._normals.fill(None if resumed else embed)
        self._held_out = self._choose_held_out(len(self._normals))
        if not resumed:
            self.prepare_adaptation(torch.cat(embeddings))
        self._replace_loader(self.stem_outputs(dataset, cache="off") if self._is_augmented else self._normals)

    def _find_host_loader(self) -> "DataLoader[Any]":
        loader = self.trainer.fit_loop._data_source.dataloader()
        if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__"):
            raise ValueError(
                f"train_dataloaders must be a DataLoader over a dataset with a length, got {type(loader).__name__}; "
                "pass a datamodule."
            )
        if self.pre_processor is not None and not isinstance(self.pre_processor, ImagePreProcessor):
            raise ValueError(
                f"pre_processor must be panda_anomalib.backbones.ImagePreProcessor to adapt {self.name}, got "
                f"{type(self.pre_processor).__name__}; leave it out, or set resize and crop."
            )
        return loader

    def _clean(self, dataset: Any) -> Any:
        """The images as they are, without the user's augmentations."""
        if not self._is_augmented:
            return dataset
        dataset = copy.copy(dataset)
        dataset.augmentations = None
        if self.pre_processor is not None:
            self.pre_processor.install(dataset)
        return dataset

    @property
    def _is_augmented(self) -> bool:
        return getattr(getattr(self.trainer, "datamodule", None), "train_augmentations", None) is not None

    def stem_outputs(self, dataset: Any, description: str = "Stem outputs", *, cache: CacheName) -> StemOutputs:
        """Stem outputs of a dataset whose items are anomalib's, in batches as the trainer's."""
        loader = self._host_loader
        return StemOutputs(
            dataset,
            lambda batch: self._encode(batch, dataset),
            batch_size=loader.batch_size or 1,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            num_views=self.objective.num_views,
            cache=cache,
            description=description,
        )

    def _encode(self, batch: Batch, dataset: Any) -> Tensor:
        """The stem's output ``(V, B, ...)`` of each view of a batch of images."""
        self._hazards.look(batch, dataset)
        if batch.image_path is not None and len(self._paths) < self._num_paths:
            self._paths.extend(batch.image_path)  # the first pass over the normal images is in order
        batch = self.transfer_batch_to_device(batch, self.device, 0)
        if self.pre_processor is not None:
            self.pre_processor.prepare(batch, dataset)
        return self.run_stem(batch.image.float().as_subclass(Tensor))

    def run_stem(self, images: Tensor) -> Tensor:
        """The stem's output ``(V, B, ...)`` of each view of pre-processed images ``(B, 3, H, W)``."""
        views = [images, images.flip(-1)][: self.objective.num_views]
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return torch.stack([self._stem(view) for view in views])

    def _choose_held_out(self, count: int) -> Tensor:
        share = self.hparams["calibration_share"]
        if share == 0:
            logger.warning(
                "calibration_share is 0: the threshold comes from images that the network was trained on, and more "
                "than false_positive_rate of new normal images will be called anomalous."
            )
            return torch.empty(0, dtype=torch.int64)
        number = min(max(round(share * count), _CALIBRATION_IMAGES), count // 2)
        chosen = np.random.default_rng([self.hparams["seed"], count]).permutation(count)[:number]
        return torch.from_numpy(np.sort(chosen))

    def prepare_adaptation(self, embeddings: Tensor) -> None:
        """Learn from the unadapted embeddings ``(N, D)``, pooled and not normalised, what training needs."""
        self.objective.prepare(embeddings)

    def _replace_loader(self, source: StemOutputs) -> None:
        order = self.minibatch_order(len(source), left_out=self._held_out.tolist())
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
        self.minibatches_done = self._batches_processed
        if self._loader is not None:  # Lightning forgets where a loader was when an epoch had ended
            self._loader.position = self.minibatches_done

    @property
    def _batches_processed(self) -> int:
        processed: int = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        return processed

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

    def _embed_hidden(self, hidden: Tensor) -> Tensor:
        """Pooled embeddings ``(B, D)``, not normalised, of stem outputs."""
        return self.model.backbone.embed(self.model.backbone.trunk(hidden.to(self.device)))

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
            self._clipped_steps += int(norm > limit)

    @override
    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.minibatches_done = self._batches_processed
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
            self._training_is_over = True
            self.fit()  # before the checkpoint of this epoch

    @override
    def on_train_end(self) -> None:
        if not self._is_fitted:  # stopped by what acts behind the end of the epoch
            self._finish_training()
        if self.hparams["gradient_clip"] is not None and self.trainer.global_step:
            share = self._clipped_steps / self.trainer.global_step
            logger.info(
                "Adapted for %d minibatches; the gradient was clipped in %.0f %%.", self.minibatches_done, 100 * share
            )

    def _finish_training(self) -> None:
        """Build the memory bank, and put it into the checkpoint of this run."""
        self._training_is_over = True
        self.fit()
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
        self.fit_embeddings(embeddings, self._paths, self._held_out if len(self._held_out) else None)

    def bank_embeddings(self) -> Tensor:
        """Embeddings of the normal training images as the scorer takes them."""
        return self.model.normalization(self.embed_normals())

    def embed_normals(self, indices: Tensor | None = None) -> Tensor:
        """Pooled embeddings ``(N, D)``, not normalised, of the normal training images with the current weights."""
        if self._normals is None:
            raise RuntimeError(f"the training images of {self.name} are at hand only while it is fitted.")
        chosen = torch.arange(len(self._normals)) if indices is None else indices
        parts = chosen.split(self._normals.batch_size)
        described = track(parts, "Memory bank") if indices is None else parts
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return torch.cat([self._embed_hidden(self._normals.fetch(part.tolist())[0]) for part in described])

    @override
    def on_fit_end(self) -> None:
        super().on_fit_end()
        if not self._is_fitted:  # killed between the last minibatch and the memory bank, and resumed
            self._finish_training()
        self.trainer.fit_loop._data_source.instance = self._host_source
        if self._normals is not None:
            self._normals.close()
        self._normals = self._loader = None
        del self._host_loader, self._stem
        self.model.requires_grad_(requires_grad=False)
        self.model.to(memory_format=torch.contiguous_format)  # as it is after loading: the same sums, bit for bit

    # ---- checkpoints

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        # checkpoints are also saved by callbacks, whose turn is before ours
        done = self._batches_processed if self.is_fitting else self.minibatches_done
        checkpoint["panda_anomalib"]["minibatches_done"] = done

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.minibatches_done = checkpoint["panda_anomalib"]["minibatches_done"]
        if self.is_fitting:
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
