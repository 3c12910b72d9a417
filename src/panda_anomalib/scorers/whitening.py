"""Distance after PCA whitening of the normal embeddings (PANDA Sec. 4.2.2)."""

import copy
from typing import Literal

import torch
from sklearn.decomposition import PCA
from torch import Tensor
from typing_extensions import override

from panda_anomalib.scorers.base import Neighbors, ScoredEmbeddings, Scorer
from panda_anomalib.scorers.center import CenterScorer
from panda_anomalib.scorers.knn import KNNScorer

__all__ = ["WhiteningScorer"]


class WhiteningScorer(Scorer):
    """PCA-whitened embeddings, scored by nearest neighbours or by the squared norm (Mahalanobis distance).

    ``w(x) = V_r^T (x - mean) / sqrt(lambda_r)``. With fewer normal images than dimensions, whitening all components
    puts every normal image at the same distance from every other: components must be left out, or their eigenvalues
    shrunk towards their mean, ``(1 - shrinkage) lambda + shrinkage * mean(lambda)``.

    Shapes: embeddings ``(B, D)``, whitened ``(B, r)``, distances ``(B,)``.

    Args:
        n_components: r as a number, the fraction of variance to keep, in (0, 1), or None for all D.
        shrinkage: In [0, 1]; 1 is no whitening. All components need some unless images outnumber dimensions.
            The default, 0.9 with all components, was chosen with the default readout of DN2.
        score: ``knn`` or ``center``.
        num_neighbors: k of ``knn``.

    Raises:
        ValueError: If an argument is not accepted.
    """

    mean: Tensor
    components: Tensor
    """Linear map ``(r, D)`` that whitens."""

    def __init__(
        self,
        n_components: float | None = None,
        *,
        shrinkage: float = 0.9,
        score: Literal["knn", "center"] = "knn",
        num_neighbors: int = 2,
    ) -> None:
        super().__init__()
        if n_components is not None and not (0 < n_components < 1 or n_components == int(n_components) >= 1):
            raise ValueError(
                "n_components must be a fraction between 0 and 1, a whole number of components, or null for all, "
                f"got {n_components}."
            )
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage must be between 0 and 1, got {shrinkage}.")
        if score not in ("knn", "center"):
            raise ValueError(f"score must be knn or center, got {score!r}.")
        self.n_components = n_components
        self.shrinkage = shrinkage
        self.scorer: KNNScorer | CenterScorer = KNNScorer(num_neighbors) if score == "knn" else CenterScorer()
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("components", torch.empty(0))

    @override
    def _check(self, embeddings: Tensor) -> None:
        super()._check(embeddings)
        count, dim = embeddings.shape
        if count < 2:
            raise ValueError("whitening needs at least 2 normal images, got 1; take the scorer knn, or add images.")
        if self.n_components is None and self.shrinkage == 0 and count <= dim:
            raise ValueError(
                f"shrinkage must be above 0 for all components of {count} normal images of {dim} dimensions, got 0; "
                "set it, or n_components."
            )
        if self.n_components is not None and self.n_components > (most := min(count - 1, dim)):
            raise ValueError(
                f"n_components must be at most {most} with {count} normal images of {dim} dimensions, "
                f"got {self.n_components}; lower it or give a fraction such as 0.9."
            )
        self.scorer._check(embeddings)

    @override
    def _fit(self, embeddings: Tensor) -> None:
        self._fit_axes(embeddings)
        self.scorer.fit(self._whiten(embeddings))

    @override
    def _calibrate(self, embeddings: Tensor) -> Tensor:
        """Each image left out of the axes, with its fold, and of the bank, alone.

        Leaving the whole fold out of the bank as well would thin it out, and every distance would be too large.
        """
        if not isinstance(self.scorer, KNNScorer):
            return super()._calibrate(embeddings)
        distances = torch.empty(len(embeddings), device=embeddings.device)
        for fold, rest in self._folds(embeddings):
            other = self._for_size(len(rest))
            other._fit_axes(embeddings[rest])
            neighbors = KNNScorer(self.scorer.num_neighbors)  # not a copy, which would copy the bank
            neighbors._fit(other._whiten(embeddings))
            distances[fold] = neighbors.left_out_distances(fold)
        return distances

    def _fit_axes(self, embeddings: Tensor) -> None:
        whitening, mean = _whitening(embeddings.double().cpu(), self.n_components, self.shrinkage)
        self.mean = mean.float().to(embeddings.device)
        self.components = whitening.float().to(embeddings.device)

    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        distances: Tensor = self.scorer(self._whiten_each(embeddings))
        return distances

    @override
    def neighbors(self, embeddings: Tensor, num_neighbors: int) -> Neighbors | None:
        return self.scorer.neighbors(self._whiten_each(embeddings), num_neighbors)

    @override
    def explain(self, embeddings: Tensor, num_neighbors: int) -> ScoredEmbeddings:
        return self.scorer.explain(self._whiten_each(embeddings), num_neighbors)

    def _whiten(self, embeddings: Tensor) -> Tensor:
        return (embeddings.float() - self.mean) @ self.components.T

    def _whiten_each(self, embeddings: Tensor) -> Tensor:
        """Row by row: a product of whole batches rounds a row differently in another batch."""
        if len(self.mean) == 0:
            self._require_fitted()
        if torch.compiler.is_compiling():
            return self._whiten(embeddings)
        return torch.stack([self.components @ row for row in embeddings.float() - self.mean])

    @override
    def _for_size(self, count: int) -> "WhiteningScorer":
        scorer = copy.deepcopy(self)
        if self.n_components is not None and self.n_components >= 1:
            scorer.n_components = min(self.n_components, count - 1)
        scorer.scorer = self.scorer._for_size(count)  # type: ignore[assignment]
        return scorer


def _whitening(rows: Tensor, n_components: float | None, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Linear map ``(r, D)`` and mean ``(D,)`` of float64 rows ``(N, D)``."""
    if n_components is None:
        return _whitening_of_all(rows, shrinkage)
    # the same result either way; the covariance is several times faster where images outnumber dimensions
    solver = "covariance_eigh" if len(rows) > rows.shape[1] else "full"
    pca = PCA(n_components=n_components if n_components < 1 else int(n_components), svd_solver=solver)
    pca.fit(rows.numpy())
    eigenvalues = torch.from_numpy(pca.explained_variance_)
    eigenvalues = (1 - shrinkage) * eigenvalues + shrinkage * eigenvalues.mean()
    return torch.from_numpy(pca.components_) / eigenvalues.sqrt()[:, None], torch.from_numpy(pca.mean_)


def _whitening_of_all(rows: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Map ``(D, D)`` whose product with itself is the inverse of the shrunk covariance.

    Every such map gives the same distances. The inverse of the Cholesky factor costs a twentieth of the inverse root,
    which matters eleven times: for the images, and for each fold of the calibration.
    """
    mean = rows.mean(dim=0)
    centred = (rows - mean) / (len(rows) - 1) ** 0.5
    covariance = centred.T @ centred
    shrunk = (1 - shrinkage) * covariance
    shrunk.diagonal().add_(shrinkage * covariance.trace() / len(covariance))
    factor, failed = torch.linalg.cholesky_ex(shrunk)
    if failed or not torch.isfinite(factor).all():  # directions without variance, which do not count then
        eigenvalues, vectors = torch.linalg.eigh(shrunk)
        tolerance = eigenvalues[-1].clamp_min(0) * len(eigenvalues) * torch.finfo(rows.dtype).eps
        scale = torch.where(eigenvalues > tolerance, eigenvalues, torch.inf).rsqrt()
        return (vectors * scale).T, mean
    identity = torch.eye(len(factor), dtype=rows.dtype)
    return torch.linalg.solve_triangular(factor, identity, upper=False), mean
