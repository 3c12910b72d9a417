"""What all our Lightning modules share: a bank in a fixed order, truthful scores, checkpoints that decide."""

import logging
import os
from typing import TYPE_CHECKING, Any

import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from typing_extensions import override

from panda_anomalib.backbones import ImagePreProcessor, make_runtime
from panda_anomalib.backbones.runtimes import RuntimeName, choose_runtime
from panda_anomalib.calibration import Calibration
from panda_anomalib.data.dataset import ImageDataset, PredictImages
from panda_anomalib.data.reading import describe_hazard
from panda_anomalib.evaluation import image_evaluator
from panda_anomalib.explanation import NeighborVisualizer
from panda_anomalib.models.detector import Detector
from panda_anomalib.models.embeddings import EmbeddingStore
from panda_anomalib.models.export import CheckedExport
from panda_anomalib.predictions import PredictionWriter

__all__ = ["DetectorMixin"]

logger = logging.getLogger(__name__)

_CHECKPOINT_KEY = "panda_anomalib"
# What may differ between a checkpoint and the arguments of the run that loads it without changing a score.
_FREE_ARGUMENTS = {"weights", "runtime"}

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Host
else:
    # anomalib lists only direct subclasses of AnomalibModule as models: they name it themselves, after this mixin
    _Host = object


class DetectorMixin(CheckedExport, _Host):
    """Base of our models; a model is ``class Name(DetectorMixin, AnomalibModule)``.

    A model builds its parts in ``build_detector`` from its arguments as plain data. This mixin collects the
    embeddings of the training images, fits scorer and calibration on them, attaches distances and neighbours to
    every batch, and keeps in the checkpoint all that makes a score.
    """

    model: Detector
    pre_processor: Any
    post_processor: Any
    visualizer: Any
    name: str
    training_paths: list[str]
    """Paths of the images in the memory bank, in its order."""
    provenance: dict[str, str]
    """Where the backbone's weights came from."""

    @staticmethod
    def build_detector(arguments: dict[str, Any]) -> Detector:
        """Detector of a model's arguments, not yet fitted."""
        raise NotImplementedError

    @staticmethod
    def build_pre_processor(arguments: dict[str, Any]) -> ImagePreProcessor:
        """Pre-processor of a model's arguments."""
        raise NotImplementedError

    def initialize(self, runtime: RuntimeName) -> None:
        """Set up what is not an argument; call it at the end of ``__init__``."""
        self.model = self.build_detector(dict(self.hparams))
        self.training_paths = []
        self.provenance = {}
        self._runtime_name = runtime
        self._runtime_stale = True
        self._store = EmbeddingStore()
        self._hazard_named = False
        self._validation_batches: float | int | None = None

    # ---- what anomalib asks of a model

    @property
    @override
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS

    @property
    @override
    def trainer_arguments(self) -> dict[str, Any]:
        """One epoch is one look at each training image; there is nothing to validate before it."""
        return {"max_epochs": 1, "num_sanity_val_steps": 0}

    @staticmethod
    @override
    def configure_evaluator() -> Evaluator:
        return image_evaluator()

    @classmethod
    @override
    def configure_visualizer(cls) -> NeighborVisualizer:
        return NeighborVisualizer()

    @override
    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), PredictionWriter()]

    @override
    def configure_optimizers(self) -> None:
        """Nothing is optimised."""

    # ---- training: collect, then fit

    @override
    def prepare_data(self) -> None:
        # before the images are read: missing weights must not surface after that
        if self.trainer.state.fn == TrainerFn.FITTING and self.trainer.ckpt_path is None:
            self.model.backbone.load_weights()

    @override
    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        if self.trainer.world_size > 1:
            # DistributedDataParallel refuses a module in which nothing is trained
            self._ddp_anchor = nn.Parameter(torch.zeros(1, device=self.device))
        has_validation = hasattr(getattr(self.trainer, "datamodule", None), "val_data")
        monitors = any(getattr(callback, "monitor", None) for callback in self.trainer.callbacks)
        if not (has_validation and monitors):
            self._validation_batches = self.trainer.limit_val_batches
            self.trainer.limit_val_batches = 0  # the threshold comes from the training images, nothing is monitored

    @override
    def on_fit_start(self) -> None:
        self.model.backbone.load_weights()
        self._store = EmbeddingStore()
        self._prepare_runtime()

    @override
    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Tensor:
        self._name_hazards(batch)
        with torch.no_grad():
            self._store.add(self._embed(batch), batch.image_path)
        anchor = getattr(self, "_ddp_anchor", None)
        # Lightning wants a loss
        return anchor.sum() * 0 if anchor is not None else torch.zeros((), device=self.device, requires_grad=True)

    @override
    def on_validation_start(self) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.fit()
        else:
            self._require_fitted()
            self._prepare_runtime()

    @override
    def on_train_epoch_end(self) -> None:
        self.fit()

    def fit(self) -> None:
        """Fit scorer and calibration on the embeddings collected since the last call, if any.

        Raises:
            ValueError: If the images are too few for the scorer, or their embeddings are not finite.
        """
        if len(self._store) == 0 and self._is_fitted:
            return  # fitted before the validation of this epoch
        embeddings, paths = self._store.gather()
        self._store = EmbeddingStore()
        expected = len(self.trainer.train_dataloader.dataset)
        if len(paths) < expected:
            logger.warning(
                "The memory bank holds %d of %d training images: the trainer's limits (max_steps, "
                "limit_train_batches, overfit_batches) stopped the pass over them.",
                len(paths),
                expected,
            )
        self.fit_embeddings(embeddings, paths)

    def fit_embeddings(self, embeddings: Tensor, paths: list[str]) -> None:
        """Fit on embeddings ``(N, D)`` of normal images and their paths; see ``fit``."""
        self.model.scorer.fit(embeddings)
        self.training_paths = [os.path.abspath(path) if path else "" for path in paths]  # noqa: PTH100 - keeps links
        self.provenance = self.model.backbone.provenance or self.provenance
        if isinstance(self.post_processor, Calibration):
            self.post_processor.fit(self.model.scorer.calibration_distances())
            logger.info(
                "%d normal images; threshold %.6g for a false-positive rate of %g.",
                len(paths),
                self.post_processor.threshold,
                self.post_processor.false_positive_rate,
            )

    @override
    def on_fit_end(self) -> None:
        if self._validation_batches is not None:
            self.trainer.limit_val_batches = self._validation_batches
            self._validation_batches = None
        if hasattr(self, "_ddp_anchor"):
            del self._ddp_anchor

    # ---- scoring

    @override
    def on_test_start(self) -> None:
        self._require_fitted()
        self._prepare_runtime()

    @override
    def on_predict_start(self) -> None:
        self._require_fitted()
        self._prepare_runtime()

    @override
    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        return self._score(batch)

    @override
    def test_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        return self._score(batch)

    @override
    def predict_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        return self._score(batch)

    def _score(self, batch: Batch) -> STEP_OUTPUT:
        self._name_hazards(batch)
        shown = getattr(self.visualizer, "num_neighbors", 0)
        distances, neighbors = self.model.scorer.explain(self._embed(batch), shown)
        if not torch.isfinite(distances).all():
            names = [path for path, bad in zip(batch.image_path or [], ~torch.isfinite(distances), strict=False) if bad]
            raise ValueError(
                f"distances must be finite, got NaN or infinity for {names[:5]}; "
                "check the images, the weights and the precision."
            )
        batch.distance = distances
        batch.neighbor_distances, batch.neighbor_indices = neighbors or (None, None)
        updated: STEP_OUTPUT = batch.update(pred_score=distances)
        return updated

    def _embed(self, batch: Batch) -> Tensor:
        # reduced precision is the runtime's business: a bank in three digits is no bank
        with torch.autocast(self.device.type, enabled=False):
            return self.model.embed(batch.image.float())

    def _prepare_runtime(self) -> None:
        if not self._runtime_stale:
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        sets = [getattr(datamodule, name, None) for name in ("train_data", "test_data")]
        num_images = sum(len(images) for images in sets if images is not None) or None
        name = choose_runtime(self._runtime_name, self.device, num_images)
        self.model.runtime = make_runtime(name, self.model.backbone)
        self._runtime_stale = False
        logger.info("Backbone %s runs by %s.", self.model.backbone.name, name)

    def _name_hazards(self, batch: Batch) -> None:
        """Warn once when anomalib's own reader, which our datamodules do not use, misreads an image."""
        loader = self.trainer.train_dataloader if self.trainer.training else None
        loader = loader or self.trainer.test_dataloaders or self.trainer.predict_dataloaders
        if self._hazard_named or isinstance(getattr(loader, "dataset", None), (ImageDataset, PredictImages)):
            return
        for path in batch.image_path or []:
            if (hazard := describe_hazard(path)) is not None:
                self._hazard_named = True
                logger.warning(
                    "%s: anomalib's reader does not read this right (%s). Use a datamodule of panda_anomalib, or "
                    "convert the images to 8-bit RGB. Other images may be concerned.",
                    path,
                    hazard,
                )
                return

    @property
    def _is_fitted(self) -> bool:
        return len(self.model.scorer.calibration) > 0

    def _require_fitted(self) -> None:
        if not self._is_fitted:
            raise RuntimeError(f"{self.name} is not trained; fit it first, or give ckpt_path of a trained one.")

    # ---- checkpoints

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"].pop("_ddp_anchor", None)
        checkpoint[_CHECKPOINT_KEY] = {
            "model": self.name,
            "training_paths": self.training_paths,
            "provenance": self.provenance,
        }

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over whatever makes a score, also where this model was built with other arguments.

        Raises:
            ValueError: If another class of model wrote the checkpoint.
        """
        ours = checkpoint.get(_CHECKPOINT_KEY)
        if ours is None or ours["model"] != self.name:
            written_by = ours["model"] if ours else "a model that is not of panda_anomalib"
            raise ValueError(f"checkpoint must be of a {self.name}, got one of {written_by}; use that model's class.")
        self._adopt(checkpoint.get("hyper_parameters", {}))
        super().on_load_checkpoint(checkpoint)
        self.training_paths = list(ours["training_paths"])
        self.provenance = dict(ours["provenance"])
        self._runtime_stale = True
        self.model.runtime = None
        if self._trainer is not None and isinstance(self.pre_processor, ImagePreProcessor):
            self.pre_processor.install_all(self.trainer)

    def _adopt(self, saved: dict[str, Any]) -> None:
        given = dict(self.hparams)
        differing = [
            name for name, value in saved.items() if name not in _FREE_ARGUMENTS and given.get(name, value) != value
        ]
        if differing:
            text = "; ".join(f"{name}={saved[name]!r} (not {given[name]!r})" for name in differing)
            logger.warning("The checkpoint decides what makes a score: %s.", text)
            self.hparams.update({name: saved[name] for name in differing})
            self.model = self.build_detector(dict(self.hparams))

    @override
    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        self._runtime_stale = True
        return super().load_state_dict(state_dict, *args, **kwargs)
