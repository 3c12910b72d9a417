"""The contract of all scorers: embedding -> distance."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from panda_anomalib.progress import track

__all__ = ["SECONDS_WITHOUT_BAR", "Neighbors", "ScoredEmbeddings", "Scorer"]

Neighbors = tuple[Tensor, Tensor]
"""Distances (B, k) ascending and positions (B, k) in the fitted embeddings."""

ScoredEmbeddings = tuple[Tensor, Neighbors | None]

SECONDS_WITHOUT_BAR = 2.0
_NUM_FOLDS = 10


class Scorer(nn.Module, ABC):
    """Distance of embeddings to the normal embeddings it was fitted on; higher is more anomalous.

    Shapes: embeddings ``(N, D)`` or ``(B, D)`` float32, distances ``(B,)`` float32, at least 0, unbounded above.
    All state is in buffers, which take any length when loaded into an unfitted scorer.
    """

    gives_logits: bool = False
    """Whether ``forward`` gives logits, which may be negative, instead of distances."""
    calibration: Tensor
    """Distances (M,) of normal embeddings to a scorer that had not seen them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calibration", torch.empty(0))

    def fit(self, embeddings: Tensor, *, calibrate: bool = True) -> None:
        """Fit on embeddings ``(N, D)`` of normal images and compute their calibration distances.

        Args:
            embeddings: At least two rows; without calibration one may do.
            calibrate: False leaves the calibration distances NaN: studies that need no threshold save up to ten fits.

        Raises:
            ValueError: If there are fewer than two rows, too few for the settings, or values that are not finite.
        """
        embeddings = embeddings.detach().float()
        if calibrate and len(embeddings) < 2:
            raise ValueError(
                f"embeddings must be of at least 2 normal images, got {len(embeddings)}; a threshold needs images "
                "that can be compared with each other: add normal images."
            )
        self._check(embeddings)
        self._fit(embeddings)
        self.calibration = self._calibrate(embeddings) if calibrate else embeddings.new_full((1,), torch.nan)

    def calibration_distances(self) -> Tensor:
        """Distances (M,) of the fitted images, each to a scorer that did not see it.

        Raises:
            RuntimeError: Before ``fit``.
        """
        self._require_fitted()
        return self.calibration

    def fitted_embeddings(self) -> Tensor | None:
        """The embeddings ``(N, D)`` of ``fit``, where the state holds them bit for bit, else None."""
        return None

    @abstractmethod
    def _fit(self, embeddings: Tensor) -> None:
        """Set the buffers from finite float32 embeddings ``(N, D)``."""

    @abstractmethod
    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        """Distances ``(B,)`` of embeddings ``(B, D)``; RuntimeError before ``fit``."""

    def neighbors(self, embeddings: Tensor, num_neighbors: int) -> Neighbors | None:
        """Nearest fitted embeddings, for scorers that can name them, else None."""
        del embeddings, num_neighbors
        return None

    def explain(self, embeddings: Tensor, num_neighbors: int) -> ScoredEmbeddings:
        """Distances ``(B,)`` as ``forward`` gives them, and up to ``num_neighbors`` nearest fitted embeddings."""
        return self(embeddings), self.neighbors(embeddings, num_neighbors)

    def _calibrate(self, embeddings: Tensor) -> Tensor:
        """Held-out folds: each fold is scored by a scorer fitted on the others."""
        distances = torch.empty(len(embeddings), device=embeddings.device)
        for fold, rest in self._folds(embeddings):
            scorer = self._for_size(len(rest))
            scorer._fit(embeddings[rest])
            distances[fold] = scorer(embeddings[fold])
        return distances

    @staticmethod
    def _folds(embeddings: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions in each of 10 random folds (of as many as there are rows, if fewer), and in the others."""
        order = np.random.default_rng(0).permutation(len(embeddings))
        folds = np.array_split(order, min(_NUM_FOLDS, len(order)))
        for fold in track(folds, "Threshold from the normal images", after=SECONDS_WITHOUT_BAR):
            rest = np.setdiff1d(order, fold)
            yield torch.from_numpy(fold).to(embeddings.device), torch.from_numpy(rest).to(embeddings.device)

    def _for_size(self, count: int) -> "Scorer":
        """Copy of this scorer for fitting on ``count`` rows; subclasses limit what must not exceed it."""
        del count
        return copy.deepcopy(self)

    def _check(self, embeddings: Tensor) -> None:
        if embeddings.ndim != 2 or len(embeddings) == 0:
            raise ValueError(f"embeddings must be (N, D) of normal images, got {tuple(embeddings.shape)}; add images.")
        if bad := int((~torch.isfinite(embeddings)).any(dim=1).sum()):
            raise ValueError(
                f"embeddings must be finite, got NaN or infinity in {bad} of {len(embeddings)}; "
                "check the weights, the images and the precision."
            )

    def _require_fitted(self) -> None:
        if len(self.calibration) == 0:
            raise RuntimeError(
                f"{type(self).__name__} has no normal images to compare with; train the model, or load a checkpoint."
            )

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, buffer in self._buffers.items():
            value = state_dict.get(prefix + name)
            if buffer is not None and value is not None and value.shape != buffer.shape:
                setattr(self, name, torch.empty_like(value, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
