"""One class of a data set: AUROCs, intervals, tests, false alarms, curves and examples from the saved distances."""

from pathlib import Path

import numpy as np
import pytest
import reference
from benchmark_results import Job, job, measured, scores, write_results

from panda_anomalib.benchmark.report.class_results import ClassResult, analyse_classes
from panda_anomalib.benchmark.report.reading import read_results


def analysed(folder: Path, jobs: list[Job]) -> ClassResult:
    """The only class of these jobs."""
    (result,) = analyse_classes(read_results([write_results(folder, jobs)]), resamples=300)
    return result


def test_distances_decide_not_the_evaluator(tmp_path: Path) -> None:
    """An evaluator that clamps scores to ties is told, and its AUROC is not used."""
    table = scores([1.0, 2, 3], [2.5, 4])
    result = analysed(tmp_path, [measured(job("Patchcore", "wbc", "a", image_AUROC=0.5), table)])
    outcome = result.outcomes["Patchcore"]
    assert outcome.aurocs == {0: pytest.approx(5 / 6)}
    assert outcome.reported == {0: 0.5}


def test_without_distances_the_evaluator_counts(tmp_path: Path) -> None:
    """Mean and spread over seeds by hand; no interval, no curve, no test, and the reason."""
    rows = [job("Dn2", "wbc", "a", seed, image_AUROC=value) for seed, value in enumerate((0.8, 0.9))]
    result = analysed(tmp_path, [(row, None) for row in rows])
    outcome = result.outcomes["Dn2"]
    assert outcome.mean == pytest.approx(0.85)
    assert outcome.spread == pytest.approx(0.1 / np.sqrt(2))
    assert outcome.interval is None
    assert outcome.curve is None
    assert outcome.reported == {}
    assert result.pairs.pairs == []
    assert result.without_scores == {"Dn2": "no scores were saved"}


def test_interval_only_of_the_mean_beside_it(tmp_path: Path) -> None:
    """With the scores of one seed lost, there is no interval of the mean over both."""
    table = scores([1.0, 2, 3], [2.5, 4])
    both = [measured(job("Dn2", "wbc", "a", 0), table), (job("Dn2", "wbc", "a", 1, image_AUROC=0.9), None)]
    assert analysed(tmp_path, both).outcomes["Dn2"].interval is None


def test_undefined_auroc_is_no_outcome(tmp_path: Path) -> None:
    """A job without anomalous test images has nothing to show, and breaks nothing."""
    result = analysed(tmp_path, [(job("Dn2", "wbc", "a", image_AUROC=float("nan")), scores([1.0, 2], []))])
    assert result.outcomes == {}
    assert result.without_scores == {"Dn2": "the test set has no anomalous image"}


def test_interval_is_that_of_the_images(tmp_path: Path, rng: np.random.Generator) -> None:
    """95 % bootstrap interval, about 1.96 standard errors of DeLong to each side."""
    table = scores(rng.normal(size=150), rng.normal(size=150) + 1.5)
    outcome = analysed(tmp_path, [measured(job("Dn2", "wbc", "a"), table)]).outcomes["Dn2"]
    labels = table["label"].to_numpy()
    error = np.sqrt(reference.auroc_covariance(table["distance"].to_numpy()[None], labels).item())
    assert outcome.interval == pytest.approx((outcome.mean - 1.96 * error, outcome.mean + 1.96 * error), abs=0.012)


def test_seeds_on_the_same_images_are_one_test(tmp_path: Path, rng: np.random.Generator) -> None:
    """Means over seeds are compared on the common images; the pair's difference is that of the means."""
    normal, anomalous = rng.normal(size=80), rng.normal(size=80) + 1.5
    jobs = [
        measured(job(model, "wbc", "a", seed), scores(normal + rng.normal(size=80), anomalous + gain))
        for model, gain in (("Dn2", 0.0), ("Dfm", 2.0))
        for seed in (0, 1)
    ]
    result = analysed(tmp_path, jobs)
    pair = result.pairs.between("Dfm", "Dn2")
    assert pair is not None
    assert pair.comparison.difference == pytest.approx(result.outcomes["Dn2"].mean - result.outcomes["Dfm"].mean)
    assert result.pairs.told_apart("Dn2", "Dfm") is True
    assert result.pairs.remarks == []
    assert result.best == ["Dfm"]


def test_seeds_on_other_images_are_not_added_up(tmp_path: Path, rng: np.random.Generator) -> None:
    """Of random splits one is tested, and that is said; few images are, too."""
    jobs = [
        measured(job(model, "wbc", "a", seed), scores(rng.normal(size=30), rng.normal(size=8) + 1, prefix=f"{seed}"))
        for model in ("Dn2", "Dfm")
        for seed in (0, 1)
    ]
    result = analysed(tmp_path, jobs)
    (pair,) = result.pairs.pairs
    first = [result.outcomes[model].aurocs[0] for model in ("Dn2", "Dfm")]
    assert pair.comparison.difference == pytest.approx(first[0] - first[1])
    assert "one seed's images" in result.pairs.remarks[0]
    assert "With 30 normal and 8 anomalous images the p-values are rough" in result.pairs.remarks[1]


def test_model_on_other_images_is_left_out(tmp_path: Path, rng: np.random.Generator) -> None:
    """Two models share their images; the third was tested on others, so it is not paired."""
    jobs = [
        measured(job(model, "wbc", "a"), scores(rng.normal(size=30), rng.normal(size=30), prefix=prefix))
        for model, prefix in (("Dn2", "x"), ("Dfm", "x"), ("Padim", "y"))
    ]
    result = analysed(tmp_path, jobs)
    assert [(pair.first, pair.second) for pair in result.pairs.pairs] == [("Dn2", "Dfm")]
    assert result.pairs.remarks == ["Not compared, because their test images were others: Padim."]
    assert result.pairs.told_apart("Dn2", "Padim") is None


def test_holm_is_over_all_pairs_of_the_class(tmp_path: Path, rng: np.random.Generator) -> None:
    """Three models make three pairs, and the adjusted p-values are Holm's of all three."""
    base = rng.normal(size=200) + np.repeat([0.0, 1.0], 100)
    jobs = []
    for model in ("a", "b", "c"):
        noisy = base + rng.normal(scale=0.5, size=200)
        jobs.append(measured(job(model, "wbc", "a"), scores(noisy[:100], noisy[100:])))
    pairs = analysed(tmp_path, jobs).pairs.pairs
    expected = reference.holm([pair.comparison.p_value for pair in pairs])
    assert [pair.adjusted for pair in pairs] == pytest.approx(expected)


def test_false_alarms_of_distinct_images(tmp_path: Path) -> None:
    """Two seeds on the same 40 normal images, 4 and 2 alarms: the interval is that of 3 in 40, not of 6 in 80."""
    normal = np.arange(40.0)
    jobs = [
        measured(job("Dn2", "wbc", "a", seed), scores(normal, [50.0], threshold=threshold))
        for seed, threshold in ((0, 35.5), (1, 37.5))
    ]
    rate = analysed(tmp_path, jobs).outcomes["Dn2"].false_alarms
    assert rate is not None
    assert (rate.value, rate.num_images) == (pytest.approx(0.075), 40)
    assert reference.binomial_tail(3, 40, rate.low) == pytest.approx(0.025, rel=1e-6)


def test_false_alarms_of_split_seeds_have_more_images(tmp_path: Path) -> None:
    """Two seeds on 20 normal images each, none in common: 40 images."""
    jobs = [
        measured(job("Dn2", "wbc", "a", seed), scores(np.arange(20.0), [50], threshold=17.5, prefix=f"{seed}"))
        for seed in (0, 1)
    ]
    rate = analysed(tmp_path, jobs).outcomes["Dn2"].false_alarms
    assert rate is not None
    assert (rate.value, rate.num_images) == (0.1, 40)


def test_false_alarms_as_told(tmp_path: Path) -> None:
    """Without scores the evaluator's rate and one seed's number of images; without these there is none."""
    told = job("Dn2", "wbc", "a", image_AUROC=0.9, image_FalseAlarmRate=0.25, num_test_normal=12)
    outcomes = analysed(tmp_path, [(told, None), (job("Dfm", "wbc", "a", image_AUROC=0.9), None)]).outcomes
    rate = outcomes["Dn2"].false_alarms
    assert rate is not None
    assert (rate.value, rate.num_images) == (0.25, 12)
    assert outcomes["Dfm"].false_alarms is None


def test_curve_by_hand(tmp_path: Path) -> None:
    """Normal 0..3, anomalous 2.5 and 5, threshold 2.2: the staircase at its corners, and the point of the threshold."""
    table = scores([0.0, 1, 2, 3], [2.5, 5], threshold=2.2)
    curve = analysed(tmp_path, [measured(job("Dn2", "wbc", "a"), table)]).outcomes["Dn2"].curve
    assert curve is not None
    at = dict(zip(curve.false_alarms.round(3), curve.found, strict=True))
    assert [at[rate] for rate in (0.0, 0.245, 0.25, 1.0)] == [0.5, 0.5, 1.0, 1.0]
    assert curve.point == (0.25, 1.0)


def test_examples_are_the_worst(tmp_path: Path) -> None:
    """The most distant normal image and the least distant anomalous one, with the share of images they are beyond."""
    table = scores([0.0, 1, 6], [2, 5, 7, 8])
    examples = analysed(tmp_path, [measured(job("Dn2", "wbc", "a"), table)]).outcomes["Dn2"].examples
    assert examples is not None
    assert examples.normal[0].path == "test/0/00002.png"
    assert examples.normal[0].misranked == 0.5  # above 2 and 5, of four
    assert examples.anomalous[0].path == "test/1/00003.png"
    assert examples.anomalous[0].misranked == pytest.approx(1 / 3)  # below 6, of three
    assert examples.normal[1].misranked == 0
