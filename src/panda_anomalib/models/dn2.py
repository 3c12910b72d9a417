"""DN2: nearest neighbours of frozen pretrained embeddings (Bergman, Cohen & Hoshen, arXiv:2002.10445)."""

import logging
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.models.components import AnomalibModule
from torch import Tensor, nn
from typing_extensions import override

from panda_anomalib.calibration import Calibration
from panda_anomalib.models.base import DetectorMixin
from panda_anomalib.models.conditions import fit_conditions
from panda_anomalib.models.embeddings import EmbeddingStore
from panda_anomalib.models.hazards import dataset_in_use

__all__ = ["Dn2"]

logger = logging.getLogger(__name__)


class Dn2(DetectorMixin, AnomalibModule):
    """Image-level one-class anomaly detection by distance to the embeddings of normal images.

    One pass over the normal images makes the memory bank and, from the distances of each of them to the others, the
    threshold. Nothing is trained. Its arguments are those of ``DetectorMixin``.

    Example:
        >>> from panda_anomalib import Demo, Dn2, Engine
        >>> engine = Engine()
        >>> engine.fit(Dn2(), datamodule=Demo())  # doctest: +SKIP
    """

    training_description = "Embeddings of normal images"
    """What the pass over the training images is for, as a progress bar says it."""
    _store: EmbeddingStore

    @property
    @override
    def trainer_arguments(self) -> dict[str, Any]:
        """One epoch is one look at each training image; there is nothing to validate before it."""
        return {"max_epochs": 1, "num_sanity_val_steps": 0}

    @override
    def configure_optimizers(self) -> None:
        """Nothing is optimised."""

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.trainer.world_size > 1:
            # DistributedDataParallel refuses a module in which nothing is trained
            self._ddp_anchor = nn.Parameter(torch.zeros(1, device=self.device))

    @override
    def on_fit_start(self) -> None:
        self.model.backbone.load_weights()
        self._store = EmbeddingStore()
        self.forget_runtime()  # it may work in batches of another size

    @override
    def on_train_start(self) -> None:
        if len(self.trainer.train_dataloader.dataset) < 2 and isinstance(self.post_processor, Calibration):
            raise ValueError(
                "normal training images must be at least 2, got 1: a threshold needs images that can be compared with "
                "each other; add normal images."
            )
        # one size however few images there are: those that are added later must get the embeddings of this fit
        batch_size = getattr(self.trainer.train_dataloader, "batch_size", None)
        self._prepare_runtime(batch_size)
        self.conditions = fit_conditions(self._chosen_runtime(), batch_size, self.device)

    @override
    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Tensor:
        self._hazards.look(batch, dataset_in_use(self.trainer))
        with torch.no_grad():
            self._store.add(self.embed_batch(batch), batch.image_path)
        anchor = getattr(self, "_ddp_anchor", None)
        # Lightning wants a loss
        return anchor.sum() * 0 if anchor is not None else torch.zeros((), device=self.device, requires_grad=True)

    @override
    def on_train_epoch_end(self) -> None:
        self.fit()

    @override
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

    @override
    def on_fit_end(self) -> None:
        super().on_fit_end()
        if self.conditions.get("runtime") == "eager":
            self.forget_runtime()  # it padded batches, which costs time and is for the memory bank alone
        if hasattr(self, "_ddp_anchor"):
            del self._ddp_anchor
