"""Label-free numbers against numpy twins and against cases by hand."""

import math

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from panda_anomalib.adaptation import collapse


def _rows(rng: np.random.Generator, count: int, dimensions: int) -> tuple[Tensor, np.ndarray]:
    """Rows with a large common offset, where careless distances and covariances lose their digits."""
    rows = (rng.normal(size=(count, dimensions)) * np.linspace(3, 0.1, dimensions) + 50).astype(np.float32)
    return torch.from_numpy(rows), rows


@pytest.mark.parametrize(("count", "dimensions"), [(40, 7), (7, 40)])
def test_effective_rank_equals_entropy_of_covariance(count: int, dimensions: int, rng: np.random.Generator) -> None:
    """Both ways round: more images than dimensions and fewer."""
    rows, array = _rows(rng, count, dimensions)
    assert collapse.effective_rank(rows) == pytest.approx(reference.effective_rank(array), rel=1e-6)


def test_effective_rank_by_hand() -> None:
    """Four points on a cross of arms 2 and 1: eigenvalues 4 to 1, entropy of (0.8, 0.2)."""
    cross = torch.tensor([[2.0, 0, 0], [-2.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0]]) + 7
    by_hand = math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    assert collapse.effective_rank(cross) == pytest.approx(by_hand)
    assert collapse.effective_rank(100 * cross) == pytest.approx(by_hand)
    assert collapse.effective_rank(cross[:2]) == pytest.approx(1.0)


def test_collapsed_rows_have_rank_zero() -> None:
    """Equal rows, and rows that differ by rounding only, whose noise would spread in every direction."""
    assert collapse.effective_rank(torch.full((20, 8), 0.1)) == 0
    noise = 3 + 1e-15 * torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert collapse.effective_rank(noise) == 0


def test_center_distance_is_the_compactness_loss(rng: np.random.Generator) -> None:
    """METHODS S8 by hand, (4 + 9) / 2 / 2, and its twin."""
    assert collapse.center_distance(torch.tensor([[1.0, 3.0], [4.0, 1.0]]), torch.ones(2)) == 3.25
    rows, array = _rows(rng, 9, 5)
    center = array[:3].mean(axis=0)
    assert collapse.center_distance(rows, torch.from_numpy(center)) == pytest.approx(
        reference.compactness(array, center), rel=1e-6
    )


def test_total_variance_is_the_trace_of_the_covariance(rng: np.random.Generator) -> None:
    """Four points by hand (METHODS section 7: 26.25 with divisor N - 1), and numpy."""
    bank = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [10.0, 0.0]])
    assert collapse.total_variance(bank) == pytest.approx(26.25)
    rows, array = _rows(rng, 30, 6)
    assert collapse.total_variance(rows) == pytest.approx(np.trace(np.cov(array.astype(float), rowvar=False)))


@pytest.mark.parametrize("count", [2, 9, 25, 300])
def test_typical_distance_equals_brute_force(count: int, rng: np.random.Generator) -> None:
    """Over blocks of queries, and for sets smaller than a tenth can be of."""
    rows, array = _rows(rng, count, 6)
    held, rest = (positions.numpy() for positions in collapse.split_held_out(count, seed=3))
    assert sorted([*held, *rest]) == list(range(count))
    assert len(held) == max(1, round(count / 10))
    k = min(2, len(rest))
    assert collapse.typical_distance(rows, seed=3) == pytest.approx(
        reference.typical_distance(array, held, k), rel=1e-6
    )


def test_held_out_tenth_depends_on_the_seed_alone() -> None:
    """The same seed gives the same images again, another seed others."""
    first, again, other = (collapse.split_held_out(100, seed=seed)[0].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_knn_distances_over_several_blocks(rng: np.random.Generator) -> None:
    """More queries than a block; within one set no row finds itself, but its duplicate is a neighbour."""
    rows, array = _rows(rng, 300, 4)
    rows[7] = rows[299]
    array[7] = array[299]
    np.testing.assert_allclose(
        collapse.knn_distances(rows, rows[:50], 3), reference.knn(array, array[:50], 3), atol=1e-9
    )
    within = collapse.knn_distances(rows, rows, 1, same=True)
    np.testing.assert_allclose(within, reference.leave_one_out_knn(array, 1), rtol=1e-6)
    assert within[7] == within[299] == 0


def test_neighbor_preservation(rng: np.random.Generator) -> None:
    """1 for a scaled and shifted copy, the twin's value for other embeddings, chance for unrelated ones."""
    before, array = _rows(rng, 60, 5)
    after = before + torch.from_numpy(rng.normal(size=before.shape))
    assert collapse.neighbor_preservation(before, 0.01 * before + 2) == 1
    share = collapse.neighbor_preservation(before, after, 4)
    assert share == pytest.approx(reference.neighbor_preservation(array, after.numpy(), 4))
    assert 0.1 < share < 0.9
    unrelated = [torch.from_numpy(rng.normal(size=(400, 30))) for _ in range(2)]
    assert collapse.neighbor_preservation(*unrelated) == pytest.approx(10 / 399, abs=0.01)


def test_held_out_ratio(rng: np.random.Generator) -> None:
    """The twin's value; grows when the training images alone contract; NaN where they are one point."""
    train, array = _rows(rng, 40, 5)
    held_out, held_array = _rows(rng, 12, 5)
    ratio = collapse.held_out_ratio(train, held_out)
    assert ratio == pytest.approx(reference.held_out_ratio(array, held_array, 2), rel=1e-6)
    assert collapse.held_out_ratio(0.5 * (train - 50) + 50, held_out) > 1.5 * ratio
    assert math.isnan(collapse.held_out_ratio(torch.ones(4, 3), torch.zeros(2, 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: collapse.effective_rank(torch.ones(1, 3)), r"embeddings must be \(N, D\) with at least 2 rows"),
        (lambda: collapse.total_variance(torch.ones(4)), r"at least 2 rows, got shape \(4,\)"),
        (lambda: collapse.effective_rank(torch.full((3, 3), torch.nan)), "embeddings must be finite, got NaN"),
        (
            lambda: collapse.center_distance(torch.ones(2, 3), torch.ones(2)),
            r"center must have shape \(3,\), got",
        ),
        (lambda: collapse.split_held_out(1), "count must be at least 2, got 1"),
        (lambda: collapse.typical_distance(torch.ones(1, 3)), "count must be at least 2, got 1"),
        (lambda: collapse.knn_distances(torch.ones(2, 3), torch.ones(2, 4)), "queries must have 4 columns"),
        (lambda: collapse.knn_distances(torch.ones(2, 3), torch.ones(2, 3), 0), "num_neighbors must be at least 1"),
        (lambda: collapse.neighbor_preservation(torch.ones(3, 2), torch.ones(4, 2)), "after must hold the 3 images"),
    ],
)
def test_errors(call: object, message: str) -> None:
    """Each says what is accepted and what it got."""
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
