"""What adaptation minimises: losses on the embeddings of a minibatch.

Compactness is PANDA's (arXiv:2010.05903, Eq. 1); the angular and the mean-shifted contrastive loss are those of Reiss &
Hoshen (arXiv:2106.03844). All of them see pooled embeddings through a normalisation of their own, and take what they
need to know of the unadapted network from ``prepare``.
"""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from panda_anomalib.backbones import EmbeddingNormalization

__all__ = [
    "AngularCenter",
    "Compactness",
    "JointOptimization",
    "MeanShiftedContrastive",
    "Objective",
    "ObjectiveName",
    "OutlierExposure",
    "make_objective",
]

ObjectiveName = Literal["compactness", "angular", "mean_shifted_contrastive"]


class Objective(nn.Module):
    """Loss of a minibatch of normal images.

    Shapes: embeddings ``(V, B, D)`` of V views of B images, pooled and not normalised; loss 0-d, a mean over images.

    Args:
        normalization: How embeddings are normalised before the loss.
    """

    center: Tensor
    """Mean (D,) of the unadapted embeddings, normalised as the loss sees them; empty before ``prepare``."""
    num_views: int = 1
    """1: the image; 2: the image and its mirror image."""

    def __init__(self, normalization: EmbeddingNormalization) -> None:
        super().__init__()
        self.normalization = normalization
        self.register_buffer("center", torch.empty(0))

    def prepare(self, embeddings: Tensor) -> None:
        """Learn the centre from the unadapted embeddings ``(N, D)`` of all training images."""
        # float64: a mean over many images must not depend on their order
        self.center = self.normalization(embeddings).double().mean(dim=0).float()

    @override
    def forward(self, embeddings: Tensor, companions: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Loss of normal embeddings ``(V, B, D)`` and, where the objective has them, of its other images.

        Args:
            embeddings: Of normal images.
            companions: ``(B', D)``, of outliers or of labelled images.
            labels: ``(B',)``, of the labelled images.
        """
        raise NotImplementedError

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if (center := state_dict.get(f"{prefix}center")) is not None:
            self.center = torch.empty_like(center, device=self.center.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class Compactness(Objective):
    """Mean over images and dimensions of the squared distance to the centre of the unadapted embeddings (PANDA)."""

    @override
    def forward(self, embeddings: Tensor, companions: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        return F.mse_loss(self.normalization(embeddings[0]), self.center.expand_as(embeddings[0]))


class AngularCenter(Objective):
    """Mean over images of 1 - cosine similarity to the centre."""

    @override
    def forward(self, embeddings: Tensor, companions: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        return (1 - F.cosine_similarity(self.normalization(embeddings[0]), self.center[None], dim=1)).mean()


class MeanShiftedContrastive(Objective):
    """NT-Xent of two views on directions seen from the centre: ``u = (z - c) / ||z - c||``.

    Args:
        normalization: ``l2`` in the paper.
        temperature: Of the softmax; 0.25 in the paper.
    """

    num_views = 2

    def __init__(self, normalization: EmbeddingNormalization, *, temperature: float = 0.25) -> None:
        super().__init__(normalization)
        self.temperature = temperature

    @override
    def forward(self, embeddings: Tensor, companions: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        views = [F.normalize(self.normalization(view) - self.center, dim=1) for view in embeddings]
        count = len(views[0])
        directions = torch.cat(views)  # (2 B, D)
        similarities = directions @ directions.T / self.temperature
        # a view is neither its own positive nor its own negative
        similarities = similarities.masked_fill(
            torch.eye(2 * count, dtype=torch.bool, device=directions.device), -torch.inf
        )
        positives = torch.arange(2 * count, device=directions.device).roll(count)
        return F.cross_entropy(similarities, positives)


class OutlierExposure(Objective):
    """Logistic regression on a linear head: normal images 0, outliers 1 (PANDA Sec. 3, Eq. 5).

    Args:
        normalization: ``none`` in the paper.
        embedding_size: D.
        seed: Of the head's initial weights.
    """

    def __init__(self, normalization: EmbeddingNormalization, embedding_size: int, *, seed: int = 0) -> None:
        super().__init__(normalization)
        self.head = nn.Linear(embedding_size, 1)
        self.seed = seed

    @override
    def prepare(self, embeddings: Tensor) -> None:
        """Begin with a fresh head."""
        super().prepare(embeddings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.head.reset_parameters()

    @override
    def forward(self, embeddings: Tensor, companions: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        if companions is None:
            raise RuntimeError("outlier exposure needs outliers in every minibatch.")
        logits = self.head(self.normalization(torch.cat([embeddings[0], companions])))[:, 0]
        targets = torch.cat([logits.new_zeros(embeddings.shape[1]), logits.new_ones(len(companions))])
        return F.binary_cross_entropy_with_logits(logits, targets)


class JointOptimization(Objective):
    """Cross-entropy of labelled pretraining images + alpha * compactness of normal images (PANDA Eq. 2).

    Args:
        normalization: Of the compactness; ``none`` in the paper.
        classifier: The pretrained network's linear head, which is trained too.
        alpha: Weight of the compactness, a mean over images and dimensions.
    """

    def __init__(self, normalization: EmbeddingNormalization, classifier: nn.Module, *, alpha: float = 1.0) -> None:
        super().__init__(normalization)
        self.classifier = classifier
        self.alpha = alpha
        self.compactness = Compactness(normalization)

    @override
    def prepare(self, embeddings: Tensor) -> None:
        super().prepare(embeddings)
        self.compactness.prepare(embeddings)

    @override
    def forward(self, embeddings: Tensor, companions: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        if companions is None or labels is None:
            raise RuntimeError("joint optimisation needs labelled images in every minibatch.")
        return F.cross_entropy(self.classifier(companions), labels) + self.alpha * self.compactness(embeddings)


_OBJECTIVES: dict[str, type[Objective]] = {
    "compactness": Compactness,
    "angular": AngularCenter,
    "mean_shifted_contrastive": MeanShiftedContrastive,
}


def make_objective(name: ObjectiveName, normalization: EmbeddingNormalization) -> Objective:
    """Objective of a name.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in _OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(get_args(ObjectiveName))}, got {name!r}.")
    return _OBJECTIVES[name](normalization)
