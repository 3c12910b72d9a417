"""``stop: auto``: which weights are kept, decided by normal images alone."""

import math
from typing import Literal

import torch
from lightning.pytorch import Callback
from sklearn.metrics import roc_auc_score
from torch import Tensor
from typing_extensions import override

from panda_anomalib.adaptation.stem_cache import StemOutputs
from panda_anomalib.adaptation.synthetic import KINDS, SyntheticOutliers
from panda_anomalib.callbacks.label_free_stop import LabelFreeStop
from panda_anomalib.models.training_images import TrainingImagesMixin
from panda_anomalib.scorers import Scorer

__all__ = ["StopName", "StoppingMixin"]

StopName = Literal["constant", "auto"]

_BANK_IMAGES = 1000
_HELD_OUT_IMAGES = 200
"""Enough for a stable AUROC; both are embedded at every measurement, and the held-out ones once for each kind."""


class StoppingMixin(TrainingImagesMixin):
    """Measures on held-out normal images and altered copies of them, and puts the best weights back."""

    @override
    def build_parts(self) -> None:
        super().build_parts()
        self._synthetic: list[StemOutputs] = []

    @override
    def configure_callbacks(self) -> list[Callback]:
        callbacks: list[Callback] = super().configure_callbacks()
        # a callback of the user's own, with its own interval, would be replaced by ours
        if self.is_fitting and self.hparams["stop"] == "auto" and not self._stops():
            callbacks.append(LabelFreeStop())
        return callbacks

    def _stops(self) -> list[LabelFreeStop]:
        return [callback for callback in self.trainer.callbacks if isinstance(callback, LabelFreeStop)]

    def restore_best(self) -> None:
        """Put back the weights that a ``LabelFreeStop`` found best."""
        for stop in self._stops():
            stop.restore(self.trainer, self)

    def stop_criterion(self) -> float:
        """AUROC of held-out normal images against altered copies of them, mean over the kinds of alteration."""
        trained = _spread(self.trained_on, _BANK_IMAGES)
        held_out = _spread(self.held_out_normals, _HELD_OUT_IMAGES)
        if not self._synthetic:
            self._synthetic = [self._altered(kind, held_out.tolist()) for kind in KINDS]
        scorer = self.build_scorer().to(self.device)
        self.prepare_scorer(scorer)
        scorer.fit(self.model.normalization(self.embed_normals(trained)), calibrate=False)
        normal = self._distances(scorer, self.embed_normals(held_out))
        aurocs = []
        for outputs in self._synthetic:
            embeddings = self._embed_parts(outputs, torch.arange(len(outputs)).split(outputs.batch_size))
            distances = torch.cat([normal, self._distances(scorer, embeddings)])
            if not torch.isfinite(distances).all():
                return -math.inf  # weights that are beyond repair; the next loss says so
            labels = [0] * len(normal) + [1] * len(embeddings)
            aurocs.append(float(roc_auc_score(labels, distances.cpu().numpy())))
        return sum(aurocs) / len(aurocs)

    def prepare_scorer(self, scorer: Scorer) -> None:
        """Give a scorer, before it is fitted, what it needs of the trained weights; nothing, for most."""

    def _distances(self, scorer: Scorer, embeddings: Tensor) -> Tensor:
        with torch.no_grad():
            return scorer(self.model.normalization(embeddings))

    def _altered(self, kind: str, images: list[int]) -> StemOutputs:
        dataset = SyntheticOutliers(self._at_hand().dataset, images, kind, seed=self.hparams["seed"])
        outputs = self.stem_outputs(dataset, f"Stem outputs, {kind}", cache=self.hparams["cache"])
        outputs.fill()
        return outputs

    @override
    def close_images(self) -> None:
        super().close_images()
        for outputs in self._synthetic:
            outputs.close()
        self._synthetic = []


def _spread(positions: Tensor, count: int) -> Tensor:
    """At most ``count`` of the positions, evenly spaced: images that lie together are often alike."""
    return positions[torch.linspace(0, len(positions) - 1, min(count, len(positions))).round().long()]
