"""What all our Lightning modules share: their arguments, truthful scores, checkpoints that decide."""

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import timm
import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from omegaconf import OmegaConf
from torch import Tensor, nn
from typing_extensions import override

from panda_anomalib.backbones import (
    Backbone,
    EmbeddingNormalization,
    ImagePreProcessor,
    weights_transform,
)
from panda_anomalib.backbones.normalization import NormalizationName
from panda_anomalib.backbones.pooling import PoolingName, pooling_parts
from panda_anomalib.backbones.runtimes import RuntimeName, choose_runtime
from panda_anomalib.backbones.weights import check_backbone
from panda_anomalib.calibration import Calibration
from panda_anomalib.evaluation import image_evaluator
from panda_anomalib.explanation import NeighborVisualizer
from panda_anomalib.models.bank_record import BankRecord, RemovedImages, normal_digests
from panda_anomalib.models.checkpoints import CheckpointMixin
from panda_anomalib.models.cleaning import Removal, check_cleaning, find_removal
from panda_anomalib.models.conditions import Conditions
from panda_anomalib.models.detector import Detector
from panda_anomalib.models.export import CheckedExport
from panda_anomalib.models.hazards import HazardWatch, dataset_in_use
from panda_anomalib.models.normal_classes import find_normal_classes
from panda_anomalib.predictions import PredictionWriter
from panda_anomalib.removed_images import RemovedImagesWriter
from panda_anomalib.scorers import Scorer, ScorerName, make_scorer

__all__ = ["DetectorMixin"]

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Host
else:
    # anomalib lists only direct subclasses of AnomalibModule as models: they name it themselves, after this mixin.
    # Lightning collects hyperparameters through the constructors of classes that have this base.
    _Host = HyperparametersMixin


class DetectorMixin(CheckpointMixin, CheckedExport, _Host):
    """Base of our models; a model is ``class Name(DetectorMixin, AnomalibModule)``.

    It builds backbone, normalisation and scorer from the arguments, attaches distances and neighbours to every batch,
    and keeps in the checkpoint all that makes a score. How the memory bank comes about is the model's part: it ends
    in ``fit_embeddings``.

    Args:
        backbone: timm's name of the network.
        weights: ``default`` (installed package, hub cache or hub), ``packaged``, ``random``, or the path of a file.
        backbone_args: Further arguments of the network's constructor, such as ``{"img_size": 224}``.
        pooling: ``default`` (the network's own), ``avg``, ``max``, ``gem`` or ``avg+max``.
        normalization: ``none`` (the papers), ``l2``, or ``power_l2`` (signed power, then l2).
        power: Exponent of ``power_l2``.
        scorer: ``whitening`` (neighbours in whitened space), ``knn`` (the papers), ``kmeans``, ``center`` or ``ocsvm``.
        num_neighbors: Neighbours that count, for scorers that have them; by default the scorer's own, 2.
        scorer_args: Further arguments of the scorer, such as ``{"distance": "cosine"}``.
        resize: Shorter side, or (height, width), in pixels; by default as the weights were trained.
        crop: Side of the centre crop in pixels; by default as the weights were trained.
        false_positive_rate: Share of normal images that may be called anomalous; sets the threshold.
        cleaning: Share of the training images, in [0, 1), that is left out as probably anomalous before the memory bank
            is built: those with the largest mean squared distance to their 2 nearest others. The threshold still comes
            from all, see ``fit_embeddings``.
        runtime: What executes the backbone: ``auto``, ``eager``, ``channels_last``, ``compile``, ``openvino``, or
            one of the last three with ``_bf16`` (faster on some processors, three digits of precision).
        keep_embeddings: Whether checkpoints keep what images can be added to the memory bank with, or removed from it:
            4 bytes for each image and dimension. ``knn`` scores with them and keeps them in any case.
        pre_processor: anomalib's component, or whether to have ours.
        post_processor: anomalib's component, or whether to have ours.
        evaluator: anomalib's component, or whether to have ours.
        visualizer: anomalib's component, or whether to have ours.

    Raises:
        ValueError: If an argument is not accepted; the message says what is.
    """

    model: Detector
    pre_processor: Any
    post_processor: Any
    visualizer: Any
    name: str
    training_paths: list[str]
    """Paths of the images in the memory bank, in its order."""
    normal_classes: dict[str, str]
    """Class of each of these by path, where there are several normal classes; else empty."""
    provenance: dict[str, str]
    """Where the backbone's weights came from."""
    trunk_stages: int = 2
    """How many of the backbone's stages form its trunk."""

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        weights: str = "default",
        backbone_args: dict[str, Any] | None = None,
        pooling: PoolingName = "default",
        normalization: NormalizationName = "power_l2",
        power: float = 0.5,
        scorer: ScorerName = "whitening",
        num_neighbors: int | None = None,
        scorer_args: dict[str, Any] | None = None,
        resize: int | Sequence[int] | None = None,
        crop: int | Sequence[int] | None = None,
        false_positive_rate: float = 0.05,
        cleaning: float = 0.0,
        runtime: RuntimeName = "auto",
        keep_embeddings: bool = True,
        pre_processor: PreProcessor | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        check_backbone(backbone)
        check_cleaning(cleaning)
        if pre_processor is True:
            pre_processor = self.build_pre_processor(backbone, backbone_args, resize, crop)
        super().__init__(
            pre_processor=pre_processor,
            post_processor=Calibration(false_positive_rate) if post_processor is True else post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        # OmegaConf's containers must not reach the checkpoint, which holds plain data only
        self.hparams.update({name: _plain(value) for name, value in self.hparams.items()})
        self.training_paths = []
        self.normal_classes = {}
        self.provenance = {}
        self._runtime_stale = True
        self.conditions: Conditions = {}
        self._hazards = HazardWatch()
        self._validation_batches: float | int | None = None
        self.build_parts()

    def build_parts(self) -> None:
        """Build what makes a score, not yet fitted, from ``hparams``."""
        self.model = self.build_detector()
        if isinstance(self.post_processor, Calibration):
            self.post_processor.logits = self.model.scorer.gives_logits

    def build_detector(self) -> Detector:
        """Detector of the model's arguments, not yet fitted."""
        backbone = Backbone(
            self.hparams["backbone"],
            weights=self.hparams["weights"],
            pooling=self.hparams["pooling"],
            trunk_stages=self.trunk_stages,
            backbone_args=self.hparams["backbone_args"],
        )
        parts = len(pooling_parts(self.hparams["pooling"]))
        normalization = EmbeddingNormalization(
            self.hparams["normalization"], power=self.hparams["power"], num_parts=parts
        )
        return Detector(backbone, normalization, self.build_scorer())

    def build_scorer(self) -> Scorer:
        """Scorer of the model's arguments, not yet fitted."""
        scorer_args = dict(self.hparams["scorer_args"] or {})
        if self.hparams["num_neighbors"] is not None:
            scorer_args["num_neighbors"] = self.hparams["num_neighbors"]
        return make_scorer(self.hparams["scorer"], **scorer_args)

    @staticmethod
    def build_pre_processor(
        backbone: str,
        backbone_args: dict[str, Any] | None = None,
        resize: int | Sequence[int] | None = None,
        crop: int | Sequence[int] | None = None,
    ) -> ImagePreProcessor:
        """Pre-processor that a backbone's weights were trained with, but for the sizes given."""
        cfg = timm.get_pretrained_cfg(backbone)
        transform = weights_transform(
            cfg.to_dict() if cfg is not None else {},
            resize=resize,
            crop=crop,
            img_size=(backbone_args or {}).get("img_size"),
        )
        return ImagePreProcessor(transform)

    # ---- what anomalib asks of a model

    @property
    @override
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS

    @staticmethod
    @override
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> ImagePreProcessor:
        """Pre-processor of the default backbone, for another input size if given (no crop then)."""
        return DetectorMixin.build_pre_processor("tf_efficientnet_lite0", resize=image_size, crop=image_size)

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
        return [*super().configure_callbacks(), PredictionWriter(), RemovedImagesWriter()]

    # ---- fitting

    @override
    def prepare_data(self) -> None:
        # before the images are read: missing weights must not surface after that
        if self.trainer.state.fn == TrainerFn.FITTING and self.trainer.ckpt_path is None:
            self.model.backbone.load_weights()

    @override
    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        has_validation = hasattr(getattr(self.trainer, "datamodule", None), "val_data")
        monitors = any(getattr(callback, "monitor", None) for callback in self.trainer.callbacks)
        if not (has_validation and monitors):
            self._validation_batches = self.trainer.limit_val_batches
            self.trainer.limit_val_batches = 0  # the threshold comes from the training images, nothing is monitored

    @override
    def on_fit_end(self) -> None:
        if self._validation_batches is not None:
            self.trainer.limit_val_batches = self._validation_batches
            self._validation_batches = None

    def fit(self) -> None:
        """Fit scorer and calibration for the weights as they are, unless they are fitted already."""
        raise NotImplementedError

    def fit_embeddings(
        self,
        embeddings: Tensor,
        paths: list[str],
        held_out: Tensor | None = None,
        *,
        digests: list[str] | None = None,
        removal: Removal | None = None,
    ) -> None:
        """Fit scorer and calibration on embeddings ``(N, D)`` of normal images and their paths.

        Images that cleaning removes are not in the memory bank, but still set the threshold, by their distances to it:
        without the tail of the distances the threshold would be too low for new normal images, of which as many are
        unusual.

        Args:
            embeddings: As the scorer takes them.
            paths: Of the images, in the same order.
            held_out: Positions of the images that the threshold comes from; by default all. A network that was
                trained on images knows them better than new ones: theirs would be too low a threshold.
            digests: SHA-256 of the files; by default they are read.
            removal: What to leave out; by default it is found by ``cleaning`` in these embeddings.

        Raises:
            ValueError: If the images are too few for the scorer, or their embeddings are not finite.
        """
        count, scorer = len(paths), self.model.scorer
        paths = [os.path.abspath(path) if path else "" for path in paths]  # noqa: PTH100 - keeps links
        if removal is None and self.hparams["cleaning"]:
            removal = find_removal(embeddings, self.hparams["cleaning"])
        kept = torch.arange(count) if removal is None else removal.kept(count)
        bank = embeddings if removal is None else embeddings[kept.to(embeddings.device)]
        calibrating = torch.ones(count, dtype=torch.bool)
        if held_out is not None:
            calibrating[:] = False
            calibrating[held_out.cpu()] = True
        scorer.fit(bank, calibrate=isinstance(self.post_processor, Calibration))
        self.training_paths = [paths[position] for position in kept.tolist()]
        self.provenance = self.model.backbone.provenance or self.provenance
        digests = normal_digests(paths) if digests is None else digests
        keep, held = self.hparams["keep_embeddings"], scorer.fitted_embeddings() is not None
        self.bank_record = BankRecord(
            bank.detach().float().cpu() if keep and not held else None,
            [digests[position] for position in kept.tolist()],
            None if held_out is None else calibrating[kept].nonzero()[:, 0].tolist(),
            dict(self.conditions),
        )
        if removal is not None:
            own = removal.positions.tolist()
            rows = embeddings[removal.positions.to(embeddings.device)]
            self.bank_record.removed = RemovedImages(
                removal,
                [paths[position] for position in own],
                [paths[position] for position in removal.nearest.tolist()],
                [digests[position] for position in own],
                scorer(rows).detach().cpu(),
                calibrating[removal.positions].tolist(),
                rows.detach().float().cpu() if keep or held else None,
            )
        if self._trainer is not None:
            self.normal_classes = find_normal_classes(self.trainer)
        if self.normal_classes and scorer.explain(embeddings[:1], 1)[1] is None:
            logger.warning("Scorer %s compares with no single image: no nearest_class.", self.hparams["scorer"])
        if isinstance(self.post_processor, Calibration):
            self._calibrate(calibrating[kept], self.bank_record.removed)
        self._log_fit(count)

    def _calibrate(self, calibrating: Tensor, removed: RemovedImages | None) -> None:
        distances = self.model.scorer.calibration_distances()
        parts = [distances[calibrating.to(distances.device)]]
        if removed is not None:
            parts.append(removed.distances[torch.tensor(removed.calibrating)].to(distances.device))
        self.post_processor.fit(torch.cat(parts))

    def _log_fit(self, count: int) -> None:
        removed = self.bank_record.removed if self.bank_record is not None else None
        if removed is not None:
            logger.info(
                "Cleaning: the %d most unusual of %d training images are left out of the memory bank. They still count "
                "for the threshold.",
                *(len(removed.paths), count),
            )
        elif self.hparams["cleaning"]:
            logger.warning(
                "cleaning=%g of %d images is less than one: nothing is removed.", self.hparams["cleaning"], count
            )
        if isinstance(self.post_processor, Calibration):
            logger.info(
                "%d normal images; threshold %.6g for a false-positive rate of %g.",
                len(self.training_paths),
                self.post_processor.threshold,
                self.post_processor.false_positive_rate,
            )

    # ---- scoring

    @override
    def on_validation_start(self) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.fit()
        else:
            self._require_fitted()
            self._prepare_runtime()

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
        self._hazards.look(batch, dataset_in_use(self.trainer))
        return self.score_batch(batch, getattr(self.visualizer, "num_neighbors", 0))

    def score_batch(self, batch: Batch, num_neighbors: int) -> STEP_OUTPUT:
        """Attach distances and nearest normal images to a batch in place; needs no trainer.

        Args:
            batch: Pre-processed images.
            num_neighbors: Nearest normal images to attach, by scorers that have them.

        Raises:
            RuntimeError: If the model is not trained.
            ValueError: If a distance is not finite.
        """
        shown = max(num_neighbors, bool(self.normal_classes))
        distances, neighbors = self.model.scorer.explain(self.embed_batch(batch), shown)
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

    def embed_batch(self, batch: Batch) -> Tensor:
        """Embeddings of a batch of pre-processed images, as the scorer takes them.

        Raises:
            ValueError: If the batch is one of image sets.
        """
        if hasattr(batch, "set_images"):
            raise ValueError(f"data of {self.name} must be single images, got sets of images; use Dn2Set.")
        return self.embed_images(batch)

    def embed_images(self, batch: Batch) -> Tensor:
        """Embeddings of all images of a batch, whatever they belong to."""
        # reduced precision is the runtime's business: a bank in three digits is no bank
        with torch.autocast(self.device.type, enabled=False):
            return self.model.embed(batch.image.float())

    def forget_runtime(self) -> None:
        """Have the runtime built again before the next use: weights or backbone are not what they were."""
        self._runtime_stale = True
        self.model.runtime = None

    def _prepare_runtime(self, batch_size: int | None = None) -> None:
        if not self._runtime_stale:
            return
        name = self._chosen_runtime()
        self.model.runtime = self.model.make_runtime(name, batch_size)
        self._runtime_stale = False
        logger.info("Backbone %s runs by %s.", self.model.backbone.name, name)

    def _chosen_runtime(self) -> RuntimeName:
        datamodule = getattr(self.trainer, "datamodule", None)
        sets = [getattr(datamodule, name, None) for name in ("train_data", "test_data")]
        num_images = sum(len(images) for images in sets if images is not None) or None
        return choose_runtime(self.hparams["runtime"], self.device, num_images)

    @property
    def _is_fitted(self) -> bool:
        return len(self.model.scorer.calibration) > 0

    def _require_fitted(self) -> None:
        if not self._is_fitted:
            raise RuntimeError(f"{self.name} is not trained; fit it first, or give ckpt_path of a trained one.")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


DetectorMixin.__init__.__doc__ = DetectorMixin.__doc__  # where jsonargparse finds the arguments of the classes below it
