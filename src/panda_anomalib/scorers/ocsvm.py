"""One-class support vector machine on embeddings: a baseline of the papers, on the same features."""

import torch
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import OneClassSVM
from torch import Tensor
from typing_extensions import override

from panda_anomalib.scorers.base import Scorer

__all__ = ["OCSVMScorer"]


class OCSVMScorer(Scorer):
    """How far scikit-learn's one-class support vector machine finds an embedding from the normal ones.

    ``1 - sum_i a_i exp(-gamma ||x - x_i||^2)`` over the support vectors x_i, whose weights a_i sum to 1: the order of
    its negative decision function, in [0, 1]. Calibration fits it ten times more, and each fit takes time and memory
    with the square of the number of images.

    Shapes: support vectors ``(S, D)``, embeddings ``(B, D)``, distances ``(B,)``.

    Args:
        nu: Share of the normal images that may lie outside, at most; at least as many are support vectors.
        gamma: Of the kernel; by default 1 / (D variance), scikit-learn's ``scale``.

    Raises:
        ValueError: If an argument is not accepted.
    """

    support: Tensor
    weights: Tensor
    """Of the support vectors, ``(S,)``; they sum to 1."""
    width: Tensor
    """Gamma of the fit, ``()``."""

    def __init__(self, nu: float = 0.5, *, gamma: float | None = None) -> None:
        super().__init__()
        if not 0 < nu <= 1:
            raise ValueError(f"nu must be above 0 and at most 1, got {nu}.")
        if gamma is not None and gamma <= 0:
            raise ValueError(f"gamma must be above 0, got {gamma}; leave it out for 1 / (D variance).")
        self.nu = nu
        self.gamma = gamma
        self.register_buffer("support", torch.empty(0))
        self.register_buffer("weights", torch.empty(0))
        self.register_buffer("width", torch.tensor(0.0))

    @override
    def _fit(self, embeddings: Tensor) -> None:
        rows = embeddings.double().cpu().numpy()
        gamma = self.gamma or 1 / (rows.shape[1] * rows.var() or 1.0)
        # scikit-learn's own kernel is computed one pair at a time
        machine = OneClassSVM(kernel="precomputed", nu=self.nu, tol=1e-6).fit(rbf_kernel(rows, gamma=gamma))
        weights = torch.from_numpy(machine.dual_coef_[0] / machine.dual_coef_.sum())
        self.support = embeddings[torch.from_numpy(machine.support_).long().to(embeddings.device)]
        self.weights = weights.float().to(embeddings.device)
        self.width = torch.tensor(gamma, device=embeddings.device).float()

    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        if len(self.support) == 0:
            self._require_fitted()
        kernel = torch.exp(-self.width * self._squared_distances(embeddings.float()))
        return (1 - (kernel * self.weights).sum(dim=1)).clamp_min(0)

    def _squared_distances(self, embeddings: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # in an export: ONNX has no cdist
            center = self.support.mean(dim=0)  # near which little is lost by the difference of large numbers
            rows, columns = embeddings - center, self.support - center
            squares = rows.square().sum(dim=1, keepdim=True) + columns.square().sum(dim=1)
            return (squares - 2 * rows @ columns.T).clamp_min(0)
        # not the matmul form, whose last digits depend on the batch
        return torch.cdist(embeddings, self.support, compute_mode="donot_use_mm_for_euclid_dist").square()
