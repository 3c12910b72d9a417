"""Losses against their numpy twins, and their gradients' direction."""

import numpy as np
import pytest
import reference
import torch
from torch import nn

from panda_anomalib.adaptation.objectives import (
    AngularCenter,
    Compactness,
    JointOptimization,
    MeanShiftedContrastive,
    OutlierExposure,
    make_objective,
)
from panda_anomalib.backbones import EmbeddingNormalization

PLAIN = EmbeddingNormalization("none")


@pytest.fixture
def embeddings(rng: np.random.Generator) -> torch.Tensor:
    """Two views of 5 images in 7 dimensions."""
    return torch.from_numpy(rng.gamma(2.0, size=(2, 5, 7)).astype(np.float32))


@pytest.fixture
def unadapted(rng: np.random.Generator) -> torch.Tensor:
    """20 images in 7 dimensions."""
    return torch.from_numpy(rng.gamma(3.0, size=(20, 7)).astype(np.float32))


def test_compactness_by_hand() -> None:
    """Compactness by hand."""
    objective = Compactness(PLAIN)
    objective.prepare(torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
    assert float(objective(torch.tensor([[[1.0, 3.0], [4.0, 1.0]]]))) == pytest.approx(3.25)  # METHODS, section 7


@pytest.mark.parametrize("kind", ["none", "l2", "power_l2"])
def test_compactness_sees_normalised_embeddings(kind: str, embeddings: torch.Tensor, unadapted: torch.Tensor) -> None:
    """Compactness sees normalised embeddings."""
    normalise = {
        "none": lambda rows: rows,
        "l2": reference.unit,
        "power_l2": lambda rows: reference.power_l2(rows, 0.5),
    }
    objective = make_objective("compactness", EmbeddingNormalization(kind))
    objective.prepare(unadapted)
    center = normalise[kind](unadapted.double().numpy()).mean(axis=0)
    expected = reference.compactness(normalise[kind](embeddings[0].double().numpy()), center)
    assert float(objective(embeddings)) == pytest.approx(expected, rel=1e-5)


def test_angular_center(embeddings: torch.Tensor, unadapted: torch.Tensor) -> None:
    """Angular center."""
    objective = AngularCenter(EmbeddingNormalization("l2"))
    objective.prepare(unadapted)
    center = reference.unit(unadapted.numpy()).mean(axis=0)
    expected = reference.angular_center(embeddings[0].double().numpy(), center)
    assert float(objective(embeddings)) == pytest.approx(expected, rel=1e-5)


def test_mean_shifted_contrastive(embeddings: torch.Tensor, unadapted: torch.Tensor) -> None:
    """Mean shifted contrastive."""
    objective = MeanShiftedContrastive(EmbeddingNormalization("l2"))
    objective.prepare(unadapted)
    center = reference.unit(unadapted.numpy()).mean(axis=0)
    first, second = (reference.unit(view.numpy()) for view in embeddings)
    expected = reference.mean_shifted_contrastive(first, second, center, 0.25)
    assert float(objective(embeddings)) == pytest.approx(expected, rel=1e-5)


def test_outlier_exposure(embeddings: torch.Tensor) -> None:
    """Outlier exposure."""
    objective = OutlierExposure(PLAIN, 7, seed=3)
    objective.prepare(embeddings[0])
    weight, bias = (parameter.detach().double().numpy() for parameter in (objective.head.weight, objective.head.bias))
    normal, outliers = (view.double().numpy() @ weight[0] + bias for view in embeddings)
    expected = reference.outlier_exposure(normal, outliers)
    assert objective(embeddings[:1], embeddings[1]).item() == pytest.approx(expected, rel=1e-5)


def test_outlier_exposure_by_hand() -> None:
    """Outlier exposure by hand."""
    objective = OutlierExposure(PLAIN, 1)
    nn.init.ones_(objective.head.weight)
    nn.init.zeros_(objective.head.bias)
    two = torch.tensor([[2.0]])
    assert objective(two[None], two).item() == pytest.approx((2.1269 + 0.1269) / 2, abs=1e-4)  # METHODS, section 7


def test_head_is_fresh_and_seeded(embeddings: torch.Tensor) -> None:
    """Head is fresh and seeded."""
    objective = OutlierExposure(PLAIN, 7, seed=3)
    objective.prepare(embeddings[0])
    first = objective.head.weight.clone()
    torch.manual_seed(99)
    nn.init.zeros_(objective.head.weight)
    objective.prepare(embeddings[0])
    assert torch.equal(objective.head.weight, first)


def test_joint_optimization(embeddings: torch.Tensor, unadapted: torch.Tensor) -> None:
    """Joint optimization."""
    head = nn.Linear(7, 3)
    objective = JointOptimization(PLAIN, head, alpha=0.3)
    objective.prepare(unadapted)
    labels = torch.tensor([0, 2, 1, 1, 0])
    weight, bias = (parameter.detach().double().numpy() for parameter in (head.weight, head.bias))
    expected = reference.cross_entropy(embeddings[1].double().numpy() @ weight.T + bias, labels.numpy())
    center = unadapted.double().numpy().mean(axis=0)
    expected += 0.3 * reference.compactness(embeddings[0].double().numpy(), center)
    assert objective(embeddings[:1], embeddings[1], labels).item() == pytest.approx(expected, rel=1e-5)


def test_center_survives_a_state_dict(unadapted: torch.Tensor) -> None:
    """Center survives a state dict."""
    saved = Compactness(PLAIN)
    saved.prepare(unadapted)
    loaded = Compactness(PLAIN)
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded.center, saved.center)


def test_unknown_objective() -> None:
    """Unknown objective."""
    with pytest.raises(ValueError, match="objective must be one of compactness, angular"):
        make_objective("compact", PLAIN)
