"""PANDA with outlier exposure (Reiss et al., arXiv:2010.05903, Sec. 3, Eq. 5)."""

from pathlib import Path
from typing import Any, Literal

from anomalib.models.components import AnomalibModule
from typing_extensions import override

from panda_anomalib.adaptation.minibatches import AdaptationLoader, MinibatchOrder
from panda_anomalib.adaptation.objectives import OutlierExposure
from panda_anomalib.adaptation.outliers import OutlierImages
from panda_anomalib.adaptation.stem_cache import StemOutputs
from panda_anomalib.backbones.normalization import NormalizationName
from panda_anomalib.models.adapted import AdaptationMixin
from panda_anomalib.scorers import Scorer
from panda_anomalib.scorers.logit import LogitScorer

__all__ = ["PandaOe"]

OutlierScorerName = Literal["logit", "knn", "kmeans", "center", "whitening", "ocsvm"]


class PandaOe(AdaptationMixin, AnomalibModule):
    """Last block and a linear head, trained to tell normal images from those of another folder; the logit scores.

    Args:
        outliers: Folder of images presumed anomalous, of any kind; needed to fit, not to test.
        match_resolution: Whether outliers are brought to the resolution and compression of the normal images first:
            a network told to separate two sources learns whatever tells them apart.
        scorer: ``logit`` (the paper), or a scorer of DN2 on the embeddings trained so.
        trainable_stages: How many of the backbone's last stages are trained; the paper's text says the last.
        minibatches: Length of the training; by default 75 passes over 5 000 images in minibatches of 32.
        objective_normalization: How the linear head sees embeddings; with ``scorer="logit"`` the scorer too.
        learning_rate: Of stochastic gradient descent.
        weight_decay: Of stochastic gradient descent.
        adaptation: Arguments of ``AdaptationMixin``.
    """

    objective: OutlierExposure

    def __init__(
        self,
        *,
        outliers: str | None = None,
        match_resolution: bool = True,
        scorer: OutlierScorerName = "logit",
        trainable_stages: int = 1,
        minibatches: int = 11775,
        objective_normalization: NormalizationName = "none",
        learning_rate: float = 0.1,
        weight_decay: float = 0.0,
        **adaptation: Any,
    ) -> None:
        if scorer == "logit":
            adaptation["normalization"] = objective_normalization
        super().__init__(
            scorer=scorer,
            trainable_stages=trainable_stages,
            minibatches=minibatches,
            objective_normalization=objective_normalization,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            **adaptation,
        )

    @override
    def build_scorer(self) -> Scorer:
        return LogitScorer() if self.hparams["scorer"] == "logit" else super().build_scorer()

    @override
    def build_objective(self) -> OutlierExposure:
        self.refuse_objective()
        size = self.model.backbone.embedding_size
        return OutlierExposure(self.objective_normalization(), size, seed=self.hparams["seed"])

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        folder = self.hparams["outliers"]
        if stage == "fit" and (folder is None or not Path(folder).is_dir()):  # before any image is read
            raise ValueError(f"outliers must be a folder of images presumed anomalous, got {folder!r}; check the path.")

    @override
    def build_loader(self, normals: StemOutputs, order: MinibatchOrder, length: int) -> AdaptationLoader:
        images = OutlierImages(
            self.hparams["outliers"],
            like=self._paths,
            match_resolution=self.hparams["match_resolution"],
            seed=self.hparams["seed"],
        )
        if self.pre_processor is not None:
            self.pre_processor.install(images)
        companions = self.stem_outputs(images, "Stem outputs of outliers", cache=self.hparams["cache"])
        if self.hparams["minibatches"] * order.batch_size > len(images):  # else each is seen once at most
            companions.fill()
        companion_order = self.minibatch_order(len(images))
        return AdaptationLoader(normals, order, companions=companions, companion_order=companion_order, length=length)

    @override
    def prepare_scorer(self, scorer: Scorer) -> None:
        if isinstance(scorer, LogitScorer):
            scorer.set_head(self.objective.head.weight[0], self.objective.head.bias)
