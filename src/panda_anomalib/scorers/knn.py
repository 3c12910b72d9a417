"""Nearest neighbours in the memory bank (DN2, arXiv:2002.10445, Sec. 4)."""

import copy
import logging
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from panda_anomalib.progress import track
from panda_anomalib.scorers.base import SECONDS_WITHOUT_BAR, Neighbors, ScoredEmbeddings, Scorer
from panda_anomalib.scorers.index import IndexName, build_index, search_index
from panda_anomalib.scorers.search import mean_and_norms, nearest, refine

__all__ = ["DistanceName", "KNNScorer", "ReductionName"]

logger = logging.getLogger(__name__)

DistanceName = Literal["squared", "euclidean", "cosine"]
ReductionName = Literal["mean", "sum"]

_QUERY_BLOCK = 512
_SPARE = 16  # candidates beyond k taken from an approximate index, then ranked exactly
_RECALL_SAMPLE = 1000


class KNNScorer(Scorer):
    """Mean or sum of the distances to the nearest rows of the memory bank.

    Shapes: memory bank ``(N, D)``, embeddings ``(B, D)``, distances ``(B,)``. Exact in float32: the same embedding
    gets the same distance whatever batch it came in. Calibration leaves each normal image out of its own neighbours.

    Args:
        num_neighbors: k, at most the number of normal images.
        distance: ``squared`` Euclidean (the authors' code), ``euclidean``, or ``cosine`` (1 - cosine similarity).
        reduction: ``mean`` (default) or ``sum`` over the k distances; both rank images alike.
        index: ``exact``, or the faiss index that proposes candidates in large banks: ``flat``, ``ivf``, ``hnsw``.
            Its recall against exact search is measured when it is fitted, and logged.

    Raises:
        ValueError: If an argument is not accepted.
    """

    memory_bank: Tensor
    mean: Tensor
    norms: Tensor

    def __init__(
        self,
        num_neighbors: int = 2,
        *,
        distance: DistanceName = "squared",
        reduction: ReductionName = "mean",
        index: IndexName = "exact",
    ) -> None:
        super().__init__()
        if num_neighbors < 1:
            raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}.")
        if distance not in ("squared", "euclidean", "cosine"):
            raise ValueError(f"distance must be squared, euclidean or cosine, got {distance!r}.")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be mean or sum, got {reduction!r}.")
        if index not in ("exact", "flat", "ivf", "hnsw"):
            raise ValueError(f"index must be exact, flat, ivf or hnsw, got {index!r}.")
        self.num_neighbors = num_neighbors
        self.distance = distance
        self.reduction = reduction
        self.index = index
        self._faiss: Any = None
        for name in ("memory_bank", "mean", "norms"):
            self.register_buffer(name, torch.empty(0))

    @override
    def _check(self, embeddings: Tensor) -> None:
        super()._check(embeddings)
        if self.num_neighbors > len(embeddings):
            raise ValueError(
                f"num_neighbors must be at most the number of normal images, {len(embeddings)}, "
                f"got {self.num_neighbors}; lower it or add images."
            )

    @override
    def _fit(self, embeddings: Tensor) -> None:
        self.memory_bank = self._prepare(embeddings).clone()
        self.mean, self.norms = mean_and_norms(self.memory_bank)
        self._faiss = None
        if self.index != "exact":
            logger.info("Index %s finds %.2f %% of the true neighbours.", self.index, 100 * self.recall())

    @override
    def fitted_embeddings(self) -> Tensor | None:
        return self.memory_bank if self.distance != "cosine" and len(self.memory_bank) else None

    @override
    def _calibrate(self, embeddings: Tensor) -> Tensor:
        blocks = torch.arange(len(self.memory_bank), device=self.memory_bank.device).split(_QUERY_BLOCK)
        tracked = track(blocks, "Threshold from the normal images", after=SECONDS_WITHOUT_BAR)
        return torch.cat([self.left_out_distances(own) for own in tracked])

    def left_out_distances(self, positions: Tensor) -> Tensor:
        """Distances ``(P,)`` of the bank's rows at ``positions`` to the rest of the bank."""
        k = min(self.num_neighbors, len(self.memory_bank) - 1)
        squared = [self._search(self.memory_bank[own], k, exclude=own)[0] for own in positions.split(_QUERY_BLOCK)]
        return self._reduce(self._convert(torch.cat(squared)))

    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        return self.explain(embeddings, self.num_neighbors)[0]

    @override
    def neighbors(self, embeddings: Tensor, num_neighbors: int) -> Neighbors:
        """Distances and positions of up to ``num_neighbors`` nearest rows, ascending."""
        self._require_fitted()
        squared, positions = self._search(self._prepare(embeddings.float()), num_neighbors)
        return self._convert(squared), positions

    @override
    def explain(self, embeddings: Tensor, num_neighbors: int) -> ScoredEmbeddings:
        distances, positions = self.neighbors(embeddings, max(num_neighbors, self.num_neighbors))
        scored = self._reduce(distances[:, : self.num_neighbors])
        return scored, (distances[:, :num_neighbors], positions[:, :num_neighbors])

    def recall(self) -> float:
        """Share of true neighbours that the index finds, over up to 1000 rows of the bank spread evenly."""
        count = len(self.memory_bank)
        own = torch.linspace(0, count - 1, min(count, _RECALL_SAMPLE), device=self.memory_bank.device).long()
        k = min(self.num_neighbors, count - 1)
        rows = self.memory_bank[own]
        true = nearest(rows, self.memory_bank, self.mean, self.norms, k, exclude=own)[0]
        found = self._search(rows, k, exclude=own)[0]
        # by distance: of two neighbours at one distance either is right
        return float((found <= true * (1 + 1e-5) + 1e-12).float().mean())

    def _prepare(self, embeddings: Tensor) -> Tensor:
        return F.normalize(embeddings, dim=1) if self.distance == "cosine" else embeddings

    def _search(self, queries: Tensor, k: int, *, exclude: Tensor | None = None) -> Neighbors:
        k = min(k, len(self.memory_bank) - (exclude is not None))
        if self.index == "exact" or torch.compiler.is_compiling():  # exported graphs hold tensors only
            return nearest(queries, self.memory_bank, self.mean, self.norms, k, exclude=exclude)
        if self._faiss is None:
            self._faiss = build_index(self.index, self.memory_bank)
        candidates = search_index(self._faiss, queries, min(k + _SPARE, len(self.memory_bank)))
        squared, positions = refine(queries, self.memory_bank, candidates, candidates.shape[1])
        if exclude is not None:
            squared = squared.masked_fill(positions == exclude[:, None], torch.inf)
        values, order = squared.topk(k, dim=1, largest=False)
        return values, positions.gather(1, order)

    def _convert(self, squared: Tensor) -> Tensor:
        if self.distance == "euclidean":
            return squared.sqrt()
        return squared / 2 if self.distance == "cosine" else squared  # unit vectors: |a - b|^2 = 2 - 2 cos

    def _reduce(self, distances: Tensor) -> Tensor:
        return distances.mean(dim=1) if self.reduction == "mean" else distances.sum(dim=1)

    @override
    def _for_size(self, count: int) -> "KNNScorer":
        scorer = copy.deepcopy(self)
        scorer.num_neighbors = min(self.num_neighbors, count)
        return scorer

    def __getstate__(self) -> dict[str, Any]:
        """State without the index, which is a cache."""
        return {**self.__dict__, "_faiss": None}

    @override
    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._faiss = None
        super()._load_from_state_dict(*args, **kwargs)
