"""PANDA's joint optimisation: compactness while the pretraining task goes on (arXiv:2010.05903, Sec. 2.2, Eq. 2)."""

from typing import Any

import timm
import torch
from anomalib.models.components import AnomalibModule
from torch import Tensor
from torch.utils.data import default_collate
from typing_extensions import override

from panda_anomalib.adaptation.labelled import LabelledImages
from panda_anomalib.adaptation.minibatches import AdaptationLoader, MinibatchOrder
from panda_anomalib.adaptation.objectives import JointOptimization
from panda_anomalib.adaptation.stem_cache import StemOutputs
from panda_anomalib.backbones.classifier import classifier
from panda_anomalib.models.adapted import AdaptationMixin

__all__ = ["PandaJoint"]


class PandaJoint(AdaptationMixin, AnomalibModule):
    """Every minibatch holds normal images, pulled together, and labelled pretraining images, classified.

    Args:
        labelled: Folder of pretraining images, one folder per class in the order of the classifier's classes; needed
            to fit, not to test.
        alpha: Weight of the compactness beside the cross-entropy.
        adaptation: Arguments of ``AdaptationMixin``.
    """

    objective: JointOptimization

    def __init__(self, *, labelled: str | None = None, alpha: float = 1.0, **adaptation: Any) -> None:
        super().__init__(**adaptation)
        if self.hparams["pooling"] != "default":
            raise ValueError(
                f"pooling must be default, which the classifier of PandaJoint reads, got {self.hparams['pooling']!r}."
            )

    @override
    def build_objective(self) -> JointOptimization:
        self.refuse_objective()
        network: Any = timm.create_model(self.hparams["backbone"], **(self.hparams["backbone_args"] or {}))
        return JointOptimization(self.objective_normalization(), network.get_classifier(), alpha=self.hparams["alpha"])

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        folder = self.hparams["labelled"]
        if folder is None:
            raise ValueError("labelled must be a folder of pretraining images, one folder per class, got None; set it.")
        backbone = self.hparams["backbone"]
        transform = self.build_pre_processor(
            backbone, self.hparams["backbone_args"], self.hparams["resize"], self.hparams["crop"]
        ).transform
        self._images = LabelledImages(folder, transform, self._num_classes)  # before any image is read

    @property
    def _num_classes(self) -> int:
        return len(next(self.objective.classifier.parameters()))

    @override
    def prepare_adaptation(self, embeddings: Tensor) -> None:
        super().prepare_adaptation(embeddings)
        backbone = self.model.backbone
        network: Any = classifier(backbone.name, backbone.weights, self.hparams["backbone_args"])[0]
        self.objective.classifier.load_state_dict(network.get_classifier().state_dict())

    @override
    def build_loader(self, normals: StemOutputs, order: MinibatchOrder, length: int) -> AdaptationLoader:
        host = self._host_loader
        companions = StemOutputs(
            self._images,
            lambda batch: self.run_stem(batch[0].as_subclass(Tensor).to(self.device)),
            batch_size=host.batch_size or 1,
            num_workers=host.num_workers,
            collate_fn=default_collate,
            cache=self.hparams["cache"],
            description="Stem outputs of labelled images",
        )
        if self.hparams["minibatches"] * order.batch_size > len(self._images):  # else each is seen once at most
            companions.fill()
        return AdaptationLoader(
            normals,
            order,
            companions=companions,
            companion_order=self.minibatch_order(len(self._images)),
            companion_labels=torch.tensor(self._images.labels),
            length=length,
        )
