"""Every statistic of the report beside an independent way to the same number."""

import numpy as np
import pandas as pd
import pytest
import reference
from scipy import stats

from panda_anomalib.benchmark.report.statistics import (
    auroc_covariance,
    bootstrap_aurocs,
    compare,
    compare_ranks,
    holm,
    percentile_interval,
    realised_rate,
)


def two_scorings(rng: np.random.Generator, normal: int, anomalous: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances (2, M) of two models alike in quality, with errors in common, and labels (M,)."""
    labels = np.repeat([False, True], [normal, anomalous])
    common = rng.normal(size=normal + anomalous) + shift * labels
    return common + rng.normal(scale=0.7, size=(2, len(labels))), labels


def test_delong_by_hand() -> None:
    """Normal 1, 2, 3 and anomalous 2, 4: shares below are 1/2 and 1, shares above 1, 3/4 and 1/2."""
    aurocs, covariance = auroc_covariance(np.array([[1.0, 2, 3, 2, 4]]), np.array([0, 0, 0, 1, 1], bool))
    assert aurocs.tolist() == [0.75]
    assert covariance.item() == pytest.approx(0.125 / 2 + 0.0625 / 3)


def test_delong_equals_all_pairs(rng: np.random.Generator) -> None:
    """AUROCs and covariance equal the float64 reference, with ties within and between the kinds."""
    distances, labels = rng.integers(0, 12, size=(4, 60)).astype(float), rng.random(60) < 0.4
    aurocs, covariance = auroc_covariance(distances, labels)
    np.testing.assert_allclose(aurocs, [reference.auroc(row, labels) for row in distances], rtol=1e-12)
    np.testing.assert_allclose(covariance, reference.auroc_covariance(distances, labels), rtol=1e-10, atol=1e-15)


def test_delong_p_value_is_that_of_exchanging_models(rng: np.random.Generator) -> None:
    """Under no difference the two models' ranks of an image can be exchanged: p equals the share of exchanges."""
    distances, labels = two_scorings(rng, 120, 90, 1.0)
    distances[0, labels] += 0.15
    ranks = stats.rankdata(distances, axis=1)
    aurocs, covariance = auroc_covariance(ranks, labels)
    found = compare(aurocs, covariance, [0], [1])
    exchanged = np.where(rng.random((4000, 1, len(labels))) < 0.5, ranks, ranks[::-1])
    sums = stats.rankdata(exchanged, axis=2)[:, :, labels].sum(axis=2)  # of ranks: AUROC but for constants
    differences = (sums[:, 0] - sums[:, 1]) / (120 * 90)
    share = np.mean(np.abs(differences) >= abs(found.difference))
    assert 0.005 < found.p_value < 0.5  # else the comparison says little
    assert found.p_value == pytest.approx(share, abs=0.02)


def test_delong_keeps_its_level(rng: np.random.Generator) -> None:
    """Without a difference p is below 5 % in 5 % of the draws, and the interval misses 0 as often."""
    found = []
    for _ in range(1000):
        distances, labels = two_scorings(rng, 60, 60, 1.5)
        found.append(compare(*auroc_covariance(distances, labels), [0], [1]))
    wrong = np.mean([one.p_value < 0.05 for one in found])
    assert 0.03 < wrong < 0.07  # 5 % +- 3 standard errors
    assert wrong == np.mean([one.low > 0 or one.high < 0 for one in found])


def test_mean_over_seeds_is_a_contrast(rng: np.random.Generator) -> None:
    """Two seeds against one: the difference and variance are those of the mean, covariances included."""
    labels = rng.random(80) < 0.5
    aurocs, covariance = auroc_covariance(rng.normal(size=(3, 80)) + labels, labels)
    found = compare(aurocs, covariance, [0, 2], [1])
    assert found.difference == pytest.approx((aurocs[0] + aurocs[2]) / 2 - aurocs[1])
    c = covariance
    variance = (c[0, 0] + c[2, 2] + 2 * c[0, 2]) / 4 + c[1, 1] - c[0, 1] - c[2, 1]
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-6)


def test_no_variance_no_claim() -> None:
    """Equal orders differ with p = 1; two perfect models likewise; a difference without variance is undefined."""
    labels = np.array([0, 0, 1, 1], bool)
    rows = np.array([[1.0, 2, 3, 4], [10.0, 20, 30, 40], [3.0, 4, 1, 2]])
    aurocs, covariance = auroc_covariance(rows, labels)
    assert compare(aurocs, covariance, [0], [1]).p_value == 1.0
    assert np.isnan(compare(aurocs, covariance, [0], [2]).p_value)
    with pytest.raises(ValueError, match="two images of each kind, got 3 normal, 1 others"):
        auroc_covariance(rows, np.array([0, 0, 0, 1], bool))


def test_bootstrap_agrees_with_delong(rng: np.random.Generator) -> None:
    """Two ways to the standard error of an AUROC and of a difference, with ties."""
    distances, labels = two_scorings(rng, 150, 250, 1.0)
    distances = distances.round(1)
    aurocs, covariance = auroc_covariance(distances, labels)
    positions = np.arange(len(labels))
    drawn = bootstrap_aurocs(labels, [(positions, row) for row in distances], resamples=4000)
    np.testing.assert_allclose(drawn.mean(axis=0), aurocs, atol=0.002)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, rtol=0.08)
    low, high = percentile_interval(drawn[:, 0])
    error = np.sqrt(covariance[0, 0])
    assert (low, high) == pytest.approx((aurocs[0] - 1.96 * error, aurocs[0] + 1.96 * error), abs=0.006)


def test_bootstrap_counts_pairs() -> None:
    """Each resample's value is the AUROC of the images as often as they were drawn, whatever the order of images."""
    labels = np.array([1, 0, 1, 0, 0], bool)
    distances = np.array([2.0, 1, 3, 2, 3])
    drawn = bootstrap_aurocs(labels, [(np.arange(5), distances), (np.arange(5), -distances)], resamples=200)[:, 0]
    possible = set()
    for normal in np.ndindex(3, 3, 3):
        for anomalous in np.ndindex(2, 2):
            images = [*np.array([1, 3, 4])[list(normal)], *np.array([0, 2])[list(anomalous)]]
            possible.add(round(reference.auroc(distances[images], labels[images]), 9))
    assert set(drawn.round(9)) <= possible
    assert len(set(drawn.round(9))) > 3


def test_bootstrap_of_splits_draws_images_once() -> None:
    """Two scorings with one image in common move together; a scoring that gets no normal image is NaN."""
    labels = np.array([0, 0, 1, 1], bool)
    first, second = (np.array([0, 2]), np.array([0.0, 1.0])), (np.array([0, 1, 2, 3]), np.array([0.0, 5, 1, 1]))
    drawn = bootstrap_aurocs(labels, [first, second], resamples=400)
    undefined = np.isnan(drawn[:, 0])
    assert 0.4 < undefined.mean() < 0.6  # no normal image 0 in 1/4, no anomalous image 2 in 1/4: 7/16
    assert drawn[~undefined, 0].tolist() == [1.0] * int((~undefined).sum())
    assert not np.isnan(drawn[:, 1]).any()
    assert percentile_interval(drawn[:, 0]) == (1.0, 1.0)


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03], [0.2], [0.5, 0.5, 0.001, 0.02], [0.05, 0.01, 0.01, 0.9]])
def test_holm_equals_the_procedure(p_values: list[float]) -> None:
    """Adjusted p-values are the smallest levels at which the step-down procedure rejects."""
    np.testing.assert_allclose(holm(p_values), reference.holm(p_values), rtol=1e-12)


def test_holm_of_undefined_tests() -> None:
    """An undefined p-value stays undefined and still counts: 0.02 is multiplied by two."""
    np.testing.assert_array_equal(holm([np.nan, 0.02]), [np.nan, 0.04])


@pytest.mark.parametrize(("count", "total"), [(3, 40), (0, 25), (25, 25)])
def test_interval_of_a_rate_is_exact(count: int, total: int) -> None:
    """At each end of the interval the tail beyond the count has 2.5 %."""
    rate = realised_rate(count / total, total)
    if count:
        assert reference.binomial_tail(count, total, rate.low) == pytest.approx(0.025, rel=1e-6)
    else:
        assert rate.low == 0
    if count < total:
        assert 1 - reference.binomial_tail(count + 1, total, rate.high) == pytest.approx(0.025, rel=1e-6)
    else:
        assert rate.high == 1


def test_verdict_on_a_rate() -> None:
    """Above only when the whole interval is: 7 of 100 is not proof against 5 %, 15 of 100 is."""
    verdicts = [realised_rate(value, 100).verdict(0.05) for value in (0.07, 0.15, 0.0)]
    assert verdicts == ["as asked", "above what was asked", "below what was asked"]
    assert realised_rate(0.0, 50).verdict(0.05) == "as asked"


def means_of(rng: np.random.Generator, num_sets: int, gains: dict[str, float]) -> pd.DataFrame:
    """AUROCs of data sets of differing difficulty, each model better by its gain, and noise."""
    difficulty = rng.uniform(0.7, 0.9, size=num_sets)
    return pd.DataFrame(
        {name: difficulty + gain + rng.normal(scale=0.01, size=num_sets) for name, gain in gains.items()}
    )


def test_ranks_by_hand() -> None:
    """Two data sets, three models, one tie: (1, 2.5, 2.5) and (2, 1, 3)."""
    found = compare_ranks(pd.DataFrame({"a": [0.9, 0.8], "b": [0.7, 0.85], "c": [0.7, 0.6]}))
    assert found.mean_ranks.to_dict() == {"a": 1.5, "b": 1.75, "c": 2.75}
    assert found.pairs is None
    assert "2 data sets are too few" in found.remark
    assert "From 7 data sets on" in found.remark  # 3 pairs * 2 / 2 ** 7 = 0.047


def test_wilcoxon_holm_equals_scikit_posthocs(rng: np.random.Generator) -> None:
    """The pairs are those of a library that does it on its own; Friedman's p is scipy's of the columns."""
    posthocs = pytest.importorskip("scikit_posthocs")
    means = means_of(rng, 9, {"a": 0.03, "b": 0.025, "c": 0.0})
    found = compare_ranks(means)
    assert found.pairs is not None
    theirs = posthocs.posthoc_wilcoxon(means.to_numpy().T, p_adjust="holm").to_numpy()
    np.testing.assert_allclose(found.pairs.loc[["a", "b", "c"], ["a", "b", "c"]], theirs, atol=1e-9)
    assert found.friedman_p == pytest.approx(stats.friedmanchisquare(*means.to_numpy().T).pvalue)
    by_hand = sorted(stats.wilcoxon(means["a"], means[other]).pvalue for other in "bc")
    assert found.pairs.loc["a", "c"] == pytest.approx(3 * by_hand[0])


def test_too_few_data_sets_claim_nothing() -> None:
    """One model that wins on all of six data sets: 0.031 for one pair, never below 0.05 for three."""
    means = pd.DataFrame({"a": [0.9] * 6, "b": np.linspace(0.5, 0.8, 6)})
    pair = compare_ranks(means)
    assert pair.pairs is not None
    assert pair.pairs.loc["a", "b"] == pytest.approx(2 / 2**6)
    assert pair.friedman_p is None
    three = compare_ranks(means.assign(c=np.linspace(0.4, 0.6, 6)))
    assert three.pairs is None
    assert three.friedman_p == pytest.approx(stats.friedmanchisquare(*[range(6), range(6, 12), range(12, 18)]).pvalue)


def test_level_models_are_not_told_apart() -> None:
    """Models equal on every data set have equal ranks and p = 1, without a warning."""
    means = pd.DataFrame({"a": [0.9] * 8, "b": [0.9] * 8, "c": [0.9] * 8})
    found = compare_ranks(means)
    assert found.mean_ranks.tolist() == [2.0, 2.0, 2.0]
    assert found.friedman_p == 1.0
    assert found.pairs is not None
    assert (found.pairs == 1.0).all(axis=None)


@pytest.mark.parametrize("shape", [(1, 3), (5, 1), (0, 0)])
def test_nothing_to_rank(shape: tuple[int, int]) -> None:
    """One data set or one model has no ranks, and says so."""
    found = compare_ranks(pd.DataFrame(np.full(shape, 0.9)))
    assert found.mean_ranks.empty
    assert f"got {shape[0]} and {shape[1]}" in found.remark
