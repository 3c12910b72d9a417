"""PANDA with elastic weight consolidation (Reiss et al., arXiv:2010.05903, Sec. 3, Eqs. 3 and 4)."""

import logging
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from typing_extensions import override

from panda_anomalib.adaptation.fisher import diagonal_fisher
from panda_anomalib.adaptation.fisher_file import SAMPLE_WEIGHT, FisherFile, load_fisher
from panda_anomalib.backbones.classifier import classifier
from panda_anomalib.callbacks.elastic_weight_consolidation import ElasticWeightConsolidation
from panda_anomalib.models.adapted import AdaptationMixin
from panda_anomalib.progress import track

__all__ = ["PandaEwc"]

logger = logging.getLogger(__name__)

AnchorName = Literal["fisher", "l2"]

_FISHER_IMAGES = 1000
"""Training images behind an estimate without a file: the paper's 100 minibatches hold as many at 10 each."""


class PandaEwc(AdaptationMixin, AnomalibModule):
    """Compactness, while each weight is held to its pretrained value as firmly as the pretraining task needs it.

    Args:
        fisher: File of ``panda-anomalib fisher``. Without one, the Fisher information is estimated before the training
            from the normal images, with labels drawn from the pretrained classifier.
        anchor: ``fisher`` (EWC), or ``l2``: the same penalty with 1 in the place of the Fisher information.
        weight: Lambda of the penalty ``lambda / 2 * sum(F * (theta - theta_0)^2)``. By default what the file says, or
            the paper's 1e4, which belongs to Fisher information of single images; for ``l2`` that times the mean of the
            Fisher information, so that both penalties hold as firmly on average.
        minibatches: Length of the training.
        adaptation: Arguments of ``AdaptationMixin``.
    """

    def __init__(
        self,
        *,
        fisher: str | None = None,
        anchor: AnchorName = "fisher",
        weight: float | None = None,
        minibatches: int = 7850,
        **adaptation: Any,
    ) -> None:
        if anchor not in ("fisher", "l2"):
            raise ValueError(f"anchor must be fisher or l2, got {anchor!r}.")
        super().__init__(minibatches=minibatches, **adaptation)
        self._consolidation: ElasticWeightConsolidation | None = None

    @override
    def configure_callbacks(self) -> list[Callback]:
        callbacks: list[Callback] = super().configure_callbacks()
        if self.is_fitting:
            self._consolidation = ElasticWeightConsolidation(
                weight=self.hparams["weight"], module="model.backbone.network"
            )
            callbacks.append(self._consolidation)
        return callbacks

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.hparams["fisher"] is not None and self.trainer.ckpt_path is None:
            self._read_fisher()  # a file that does not fit must not surface after the images are read

    def _read_fisher(self) -> FisherFile:
        backbone = self.model.backbone
        shapes = {name: value.shape for name, value in backbone.trunk_parameters().items()}
        sha256 = (backbone.provenance or {}).get("sha256")
        return load_fisher(self.hparams["fisher"], backbone=backbone.name, weights_sha256=sha256, shapes=shapes)

    @override
    def prepare_adaptation(self, embeddings: Tensor) -> None:
        super().prepare_adaptation(embeddings)
        penalty, weight = self._consolidation, self.hparams["weight"]
        if penalty is None:
            raise RuntimeError("the penalty is missing; configure_callbacks makes it for a fit.")
        if self.hparams["anchor"] == "l2" and weight is not None:
            return
        if self.hparams["fisher"] is not None:
            file = self._read_fisher()
            fisher, suggested = file.fisher, file.weight
        else:
            fisher, suggested = self._estimate_fisher(), SAMPLE_WEIGHT
        if self.hparams["anchor"] == "l2":
            count = sum(value.numel() for value in fisher.values())
            penalty.weight = suggested * float(sum(value.double().sum() for value in fisher.values())) / count
            logger.info("L2 anchor with weight %.4g: %g times the mean Fisher information.", penalty.weight, suggested)
        else:
            penalty.fisher = fisher
            penalty.weight = suggested if weight is None else weight

    def _estimate_fisher(self) -> dict[str, Tensor]:
        backbone = self.model.backbone
        network, _ = classifier(backbone.name, backbone.weights, self.hparams["backbone_args"])
        dataset = self._clean(self._host_loader.dataset)
        kept = np.arange(len(dataset)) if self.removal is None else self.removal.kept(len(dataset)).numpy()
        chosen = np.random.default_rng(self.hparams["seed"]).permutation(kept)[:_FISHER_IMAGES]
        logger.info(
            "No Fisher file: estimating the Fisher information from %d normal images with labels sampled from the "
            "pretrained classifier.",
            len(chosen),
        )
        with torch.enable_grad():
            return diagonal_fisher(
                network.to(self.device),
                self._images(Subset(dataset, chosen.tolist()), dataset),
                labels="sampled",
                parameters=backbone.trunk_parameters(),
                seed=self.hparams["seed"],
            )

    def _images(self, subset: "Subset[Any]", dataset: Any) -> Iterator[tuple[Tensor, None]]:
        host = self._host_loader
        loader = DataLoader(
            subset, batch_size=host.batch_size, num_workers=host.num_workers, collate_fn=host.collate_fn
        )
        for batch in track(loader, "Fisher information", len(loader)):
            if self.pre_processor is not None:
                self.pre_processor.prepare(batch, dataset)
            yield batch.image.float().as_subclass(Tensor), None
