"""Threshold, score and p-value against their definitions; the promised false-alarm rate in a study."""

import logging

import numpy as np
import pytest
import reference
import torch
from anomalib.data import InferenceBatch

from panda_anomalib.calibration import Calibration, conformal_p_values, conformal_threshold, realised_rates
from panda_anomalib.scorers import KMeansScorer, KNNScorer, Scorer, WhiteningScorer


@pytest.mark.parametrize("count", [1, 5, 19, 20, 39, 99, 100, 1000])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.5])
def test_threshold_equals_reference(count: int, rate: float, rng: np.random.Generator) -> None:
    """The rank is exact, also where (M + 1)(1 - rate) is a whole number in theory and not in floats."""
    distances = torch.from_numpy(rng.random(count).astype(np.float32))
    expected = reference.conformal_threshold(distances.numpy(), rate)
    assert conformal_threshold(distances, rate).item() == expected


def test_p_values_equal_reference(rng: np.random.Generator) -> None:
    """With ties on both sides."""
    calibration = torch.from_numpy(np.sort(rng.integers(0, 10, 50)).astype(np.float32))
    distances = torch.arange(-1, 12, dtype=torch.float32)
    expected = [reference.conformal_p_value(d, calibration.numpy()) for d in distances.numpy()]
    np.testing.assert_allclose(conformal_p_values(distances, calibration), expected, rtol=1e-6)


@pytest.mark.parametrize(("count", "rate"), [(10, 0.05), (43, 0.05), (400, 0.1)])
def test_realised_rates_are_those_of_many_draws(count: int, rate: float, rng: np.random.Generator) -> None:
    """The share of uniform distances above a threshold from M of them is one minus the threshold."""
    draws = torch.from_numpy(rng.random((20_000, count)))
    realised = np.array([1 - float(conformal_threshold(distances, rate)) for distances in draws])
    expected = [realised.mean(), *np.quantile(realised, [0.05, 0.95])]
    np.testing.assert_allclose(realised_rates(count, rate), expected, rtol=0.1)


def test_label_score_and_p_value_agree(rng: np.random.Generator) -> None:
    """Anomalous, score above 0.5 and p-value at most the rate are one and the same."""
    calibration = Calibration(0.05)
    calibration.fit(torch.from_numpy(rng.gamma(5, size=200).astype(np.float32)))
    distances = torch.from_numpy(rng.gamma(8, size=1000).astype(np.float32))
    result = calibration(InferenceBatch(pred_score=distances))
    p_values = conformal_p_values(distances, calibration.distances)
    assert 0 < result.pred_label.sum() < 1000
    assert torch.equal(result.pred_label, distances > calibration.threshold)
    assert torch.equal(result.pred_label, result.pred_score > 0.5)
    assert torch.equal(result.pred_label, p_values <= 0.05)


def test_score_is_monotone_bounded_and_half_at_the_threshold() -> None:
    """No clamping: far distances keep their order, and AUROC of scores is AUROC of distances."""
    calibration = Calibration(0.1)
    calibration.fit(torch.linspace(1, 10, 100))
    distances = torch.cat([torch.zeros(1), torch.logspace(-4, 5, 200), calibration.threshold[None]]).sort().values
    score = calibration(InferenceBatch(pred_score=distances)).pred_score
    assert bool((score.diff() > 0).all())
    assert score[0] == 0
    assert score[-1] < 1
    assert score[distances == calibration.threshold].item() == 0.5


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
@pytest.mark.parametrize(
    "scorer", [KNNScorer(2), WhiteningScorer(4), KMeansScorer(3)], ids=["knn", "whitening", "kmeans"]
)
def test_false_alarm_rate_is_what_was_asked_for(scorer: Scorer, rate: float, rng: np.random.Generator) -> None:
    """200 random splits of one normal population: the mean rate of false alarms keeps to the rate asked for.

    Four standard errors of the mean above it, and not so far below that the threshold would be useless.
    """
    rates = []
    for _ in range(200 if isinstance(scorer, KNNScorer) else 30):
        sample = torch.from_numpy(rng.standard_t(5, size=(300, 8)).astype(np.float32))
        scorer.fit(sample[:150])
        calibration = Calibration(rate)
        calibration.fit(scorer.calibration_distances())
        rates.append((scorer(sample[150:]) > calibration.threshold).float().mean().item())
    error = np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) <= rate + 4 * error
    assert np.mean(rates) >= 0.4 * rate - 4 * error


def test_too_few_images_for_the_rate_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """Ten images carry no rate of 0.01: the threshold is the largest distance, and that is said."""
    calibration = Calibration(0.01)
    with caplog.at_level(logging.WARNING):
        calibration.fit(torch.arange(1.0, 11.0))
    assert calibration.threshold == 10
    assert "needs at least 99 normal images, got 10" in caplog.text


def test_duplicates_only(caplog: pytest.LogCaptureFixture) -> None:
    """All normal images alike: no division by zero, one sentence about it."""
    calibration = Calibration(0.05)
    with caplog.at_level(logging.WARNING):
        calibration.fit(torch.zeros(30))
    result = calibration(InferenceBatch(pred_score=torch.tensor([0.0, 0.1])))
    assert "exact duplicates" in caplog.text
    assert result.pred_label.tolist() == [False, True]
    assert torch.isfinite(result.pred_score).all()


def test_state_comes_back(rng: np.random.Generator) -> None:
    """Threshold and calibration distances load into an empty instance."""
    calibration, fresh = Calibration(0.1), Calibration(0.1)
    calibration.fit(torch.from_numpy(rng.random(77).astype(np.float32)))
    fresh.load_state_dict(calibration.state_dict())
    assert torch.equal(fresh.threshold, calibration.threshold)
    assert torch.equal(fresh.distances, calibration.distances)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5])
def test_rate_not_accepted(rate: float) -> None:
    """A percentage is no rate."""
    with pytest.raises(ValueError, match=f"false_positive_rate must be between 0 and 1, got {rate}"):
        Calibration(rate)


@pytest.mark.parametrize("distances", [torch.empty(0), torch.tensor([1.0, torch.nan])])
def test_distances_not_accepted(distances: torch.Tensor) -> None:
    """None, or not finite."""
    with pytest.raises(ValueError, match="distances must be finite and at least one"):
        Calibration().fit(distances)
