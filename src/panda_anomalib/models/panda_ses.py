"""PANDA with sample-wise early stopping (Reiss et al., arXiv:2010.05903, Sec. 3 and appendix D)."""

from typing import Any

import torch
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Callback
from torch import Tensor
from typing_extensions import override

from panda_anomalib.callbacks.snapshots import SnapshotEnsemble
from panda_anomalib.models.adapted import AdaptationMixin
from panda_anomalib.models.ensemble import EnsembleDetector
from panda_anomalib.progress import track

__all__ = ["PandaSes"]


class PandaSes(AdaptationMixin, AnomalibModule):
    """Several snapshots of the adapted trunk, each with its own memory bank; the farthest of them decides.

    The distance to each snapshot's bank is divided by the typical distance of a normal image there, so it is near 1
    for normal images. Testing runs the stem once and the trunk once per snapshot.

    Args:
        minibatches: Length of the training; by default 150 000 images in minibatches of 32.
        every_n_passes: Passes over the images between snapshots.
        every_n_minibatches: Minibatches between snapshots, instead of passes.
        max_samples: Images seen beyond which no snapshot is taken.
        max_snapshots: Most snapshots; where the interval makes more, so many are taken, evenly spaced.
        include_pretrained: Whether the unadapted network is one of them (not in the paper).
        adaptation: Arguments of ``AdaptationMixin``.
    """

    model: EnsembleDetector

    def __init__(
        self,
        *,
        minibatches: int = 4687,
        every_n_passes: int = 5,
        every_n_minibatches: int | None = None,
        max_samples: int = 150_000,
        max_snapshots: int = 12,
        include_pretrained: bool = False,
        **adaptation: Any,
    ) -> None:
        if adaptation.get("stop", "constant") != "constant":
            raise ValueError(f"stop of PandaSes must be constant, got {adaptation['stop']!r}: all its snapshots count.")
        super().__init__(minibatches=minibatches, **adaptation)
        self._snapshots = SnapshotEnsemble(
            every_n_passes,
            every_n_minibatches,
            max_samples=max_samples,
            max_snapshots=max_snapshots,
            include_pretrained=include_pretrained,
        )

    @override
    def build_detector(self) -> EnsembleDetector:
        plain = super().build_detector()
        return EnsembleDetector(plain.backbone, plain.normalization, plain.scorer)

    @override
    def configure_callbacks(self) -> list[Callback]:
        snapshots = [self._snapshots] if self.is_fitting else []
        return [*super().configure_callbacks(), *snapshots]

    @override
    def bank_embeddings(self) -> Tensor:
        """Embeddings ``(N, S, D)`` of the normal training images in all snapshots."""
        taken = self._snapshots.take() if self._training_is_over else self._snapshots.snapshots
        # a validation may come before the first snapshot
        self.model.load_snapshots(taken or {self.minibatches_done: dict(self.model.backbone.trunk_parameters())})
        members: Any = track(self.model.members, "Snapshots")
        return torch.stack([self.model.normalization(self.embed_snapshot(member)) for member in members], dim=1)
