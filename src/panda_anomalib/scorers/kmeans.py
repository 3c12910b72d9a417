"""Distance to K-means (DN2 Sec. 5.1 and Tab. 6; PANDA Sec. 4.2.3)."""

import copy

import faiss
import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from panda_anomalib.scorers.base import Neighbors, Scorer
from panda_anomalib.scorers.knn import DistanceName
from panda_anomalib.scorers.search import mean_and_norms, nearest

__all__ = ["KMeansScorer"]

_ITERATIONS = 50
_RESTARTS = 10


class KMeansScorer(Scorer):
    """Sum of the distances to the nearest means of the normal embeddings.

    DN2 sums the distances to the 2 nearest means (the default), PANDA takes the nearest one. With fewer means than
    ``num_neighbors`` all of them count. Lloyd's algorithm by faiss: 50 iterations, best of 10 seeded starts.

    Shapes: means ``(C, D)``, embeddings ``(B, D)``, distances ``(B,)``. The neighbours it names are the normal images
    nearest to each mean, with the distance to the mean.

    Args:
        num_means: C, at most the number of normal images.
        num_neighbors: How many nearest means count.
        distance: ``euclidean`` (default) or ``squared``.
        seed: Seed of the starts.

    Raises:
        ValueError: If an argument is not accepted.
    """

    means: Tensor
    representatives: Tensor
    """Position (C,) of the normal image nearest to each mean."""

    def __init__(
        self, num_means: int = 10, num_neighbors: int = 2, *, distance: DistanceName = "euclidean", seed: int = 0
    ) -> None:
        super().__init__()
        if num_means < 1:
            raise ValueError(f"num_means must be at least 1, got {num_means}.")
        if num_neighbors < 1:
            raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}.")
        if distance not in ("euclidean", "squared"):
            raise ValueError(
                f"distance must be euclidean or squared, got {distance!r}; for cosine, normalise the embeddings (l2)."
            )
        self.num_means = num_means
        self.num_neighbors = num_neighbors
        self.distance = distance
        self.seed = seed
        self.register_buffer("means", torch.empty(0))
        self.register_buffer("representatives", torch.empty(0, dtype=torch.int64))

    @override
    def _check(self, embeddings: Tensor) -> None:
        super()._check(embeddings)
        if self.num_means > len(embeddings):
            raise ValueError(
                f"num_means must be at most the number of normal images, {len(embeddings)}, got {self.num_means}; "
                "lower it or add images."
            )

    @override
    def _fit(self, embeddings: Tensor) -> None:
        kmeans = faiss.Kmeans(
            embeddings.shape[1],
            self.num_means,
            niter=_ITERATIONS,
            nredo=_RESTARTS,
            seed=self.seed,
            min_points_per_centroid=1,  # faiss would warn below 39
            max_points_per_centroid=len(embeddings),  # and take a sample above 256
        )
        kmeans.train(embeddings.cpu().numpy())
        self.means = torch.from_numpy(np.array(kmeans.centroids)).to(embeddings.device)
        mean, norms = mean_and_norms(embeddings)
        self.representatives = nearest(self.means, embeddings, mean, norms, 1)[1][:, 0]

    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        return self._nearest_means(embeddings, self.num_neighbors)[0].sum(dim=1)

    @override
    def neighbors(self, embeddings: Tensor, num_neighbors: int) -> Neighbors:
        distances, positions = self._nearest_means(embeddings, num_neighbors)
        return distances, self.representatives[positions]

    def _nearest_means(self, embeddings: Tensor, count: int) -> Neighbors:
        self._require_means()
        mean, norms = mean_and_norms(self.means)
        squared, positions = nearest(embeddings.float(), self.means, mean, norms, min(count, len(self.means)))
        return squared.sqrt() if self.distance == "euclidean" else squared, positions

    def _require_means(self) -> None:
        if len(self.means) == 0:  # also reached by the copies that calibrate, which have no calibration themselves
            self._require_fitted()

    @override
    def _for_size(self, count: int) -> "KMeansScorer":
        scorer = copy.deepcopy(self)
        scorer.num_means = min(self.num_means, count)
        return scorer
