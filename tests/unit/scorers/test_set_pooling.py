"""Embeddings of sets: values by hand, against numpy, and what does not fit."""

import numpy as np
import pytest
import reference
import torch

from panda_anomalib.scorers import ValueScorer, set_embeddings
from panda_anomalib.scorers.set_pooling import SetPoolingName

POOLINGS: list[SetPoolingName] = ["mean", "max", "concatenation", "covariance_trace"]


def test_values_by_hand() -> None:
    """METHODS 7: the trace of the covariance is 26.25 with 1/(M - 1), where 1/M would give 19.6875."""
    rows = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [10.0, 0.0]]])
    assert set_embeddings(rows, "mean").tolist() == [[3.25, 1.0]]
    assert set_embeddings(rows, "max").tolist() == [[10.0, 4.0]]
    assert set_embeddings(rows, "concatenation").tolist() == [[0, 0, 3, 0, 0, 4, 10, 0]]
    assert set_embeddings(rows, "covariance_trace").tolist() == [[26.25]]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_equal_to_numpy(pooling: SetPoolingName, rng: np.random.Generator) -> None:
    """Far from the origin, where two large sums would cancel; as one tensor and as a list."""
    rows = (rng.normal(size=(6, 5, 7)) + 100).astype(np.float32)
    expected = np.array([reference.set_embedding(one, pooling) for one in rows])
    for given in (torch.from_numpy(rows), [torch.from_numpy(one) for one in rows]):
        np.testing.assert_allclose(set_embeddings(given, pooling), expected, rtol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_only_concatenation_knows_the_order(pooling: SetPoolingName, rng: np.random.Generator) -> None:
    """The paper's reason for pooling."""
    rows = torch.from_numpy(rng.normal(size=(1, 5, 7)).astype(np.float32))
    same = torch.allclose(set_embeddings(rows, pooling), set_embeddings(rows.flip(1), pooling), rtol=1e-5)
    assert same == (pooling != "concatenation")


@pytest.mark.parametrize("pooling", ["mean", "max", "covariance_trace"])
def test_sizes_may_differ(pooling: SetPoolingName, rng: np.random.Generator) -> None:
    """But for concatenation."""
    rows = [torch.from_numpy(rng.normal(size=(size, 3)).astype(np.float32)) for size in (2, 9, 4)]
    expected = np.array([reference.set_embedding(one.numpy(), pooling) for one in rows])
    np.testing.assert_allclose(set_embeddings(rows, pooling), expected, rtol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    """Unknown poolings, sizes that differ, sets that are too small, none."""
    one, two = torch.ones(1, 3), torch.ones(2, 3)
    with pytest.raises(
        ValueError, match="pooling must be one of mean, max, concatenation, covariance_trace, got 'sum'"
    ):
        set_embeddings([two], "sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one size for concatenation, got sizes from 1 to 2; take mean"):
        set_embeddings([one, two], "concatenation")
    with pytest.raises(ValueError, match="at least 2 images for covariance_trace, got one of 1"):
        set_embeddings([two, one], "covariance_trace")
    with pytest.raises(ValueError, match="at least one set, got none"):
        set_embeddings([], "mean")


def test_a_value_is_its_own_score() -> None:
    """Normal ones set the threshold and nothing else."""
    scorer = ValueScorer()
    with pytest.raises(RuntimeError, match="has no normal images to compare with"):
        scorer(torch.ones(1, 1))
    scorer.fit(torch.tensor([[3.0], [1.0]]))
    assert scorer.calibration_distances().tolist() == [3.0, 1.0]
    assert scorer(torch.tensor([[7.0], [0.5]])).tolist() == [7.0, 0.5]
    assert scorer.explain(torch.tensor([[7.0]]), 2)[1] is None
    with pytest.raises(ValueError, match="of one dimension to be scores, got 2"):
        scorer.fit(torch.ones(3, 2))
