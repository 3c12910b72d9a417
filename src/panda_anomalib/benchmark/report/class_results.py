"""Everything the report says about one test set: a data set with one class taken as normal."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from panda_anomalib.benchmark.report.curves import Curve, mean_curve
from panda_anomalib.benchmark.report.examples import Examples, find_examples
from panda_anomalib.benchmark.report.pairs import Pairs, compare_models
from panda_anomalib.benchmark.report.reading import Results
from panda_anomalib.benchmark.report.scores import Scores, read_scores
from panda_anomalib.benchmark.report.statistics import Rate, bootstrap_aurocs, percentile_interval, realised_rate
from panda_anomalib.progress import track

__all__ = ["ClassResult", "Outcome", "analyse_classes"]


@dataclass(frozen=True)
class Outcome:
    """One model on one test set.

    Attributes:
        aurocs: By seed, in [0, 1]; from the raw distances where they were saved, else as the evaluator said.
        interval: 95 % bootstrap interval of the mean over seeds; None without distances.
        false_alarms: Share of normal images called anomalous, mean over seeds; None if it is not known.
        curve: ROC, mean over seeds; None without distances.
        examples: Images that the first seed gets most wrong; None without distances.
        reported: AUROC of the evaluator, by seed, where it differs from that of the distances by more than 0.0005.
    """

    model: str
    aurocs: dict[int, float]
    interval: tuple[float, float] | None = None
    false_alarms: Rate | None = None
    curve: Curve | None = None
    examples: Examples | None = None
    reported: dict[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean AUROC over seeds."""
        return float(np.mean(list(self.aurocs.values())))

    @property
    def spread(self) -> float:
        """Standard deviation over seeds, NaN for one."""
        return float(np.std(list(self.aurocs.values()), ddof=1)) if len(self.aurocs) > 1 else math.nan


@dataclass(frozen=True)
class ClassResult:
    """One class of a data set and what the models did on it.

    Attributes:
        outcomes: By model, those with an AUROC only.
        pairs: DeLong's test of each pair of models.
        without_scores: Model and reason, where a job's distances could not be used.
    """

    dataset: str
    category: str
    outcomes: dict[str, Outcome]
    pairs: Pairs
    without_scores: dict[str, str]

    @property
    def best(self) -> list[str]:
        """Models with the highest mean AUROC, to what a table shows; empty for fewer than two models."""
        if len(self.outcomes) < 2:
            return []
        highest = max(round(outcome.mean, 4) for outcome in self.outcomes.values())
        return [model for model, outcome in self.outcomes.items() if round(outcome.mean, 4) == highest]


def analyse_classes(results: Results, resamples: int = 1000) -> list[ClassResult]:
    """Analyse every data set and class of which a job is done, in the order of the table."""
    groups = list(results.done.groupby(["dataset", "category"], sort=False))
    return [
        _analyse(str(dataset), str(category), jobs, resamples)
        for (dataset, category), jobs in track(groups, "Statistics of each class")
    ]


def _analyse(dataset: str, category: str, jobs: pd.DataFrame, resamples: int) -> ClassResult:
    scores: dict[str, dict[int, Scores]] = {}
    reasons: dict[str, str] = {}
    for model, seed, folder, job_id in jobs[["model", "seed", "folder", "job_id"]].itertuples(index=False):
        found = read_scores(folder, job_id)
        if isinstance(found, str):
            reasons[model] = found
        else:
            scores.setdefault(model, {})[seed] = found
    intervals = _intervals(scores, resamples)
    outcomes = {}
    for model, rows in jobs.groupby("model", sort=False):
        outcome = _outcome(str(model), rows, scores.get(str(model), {}), intervals.get(str(model)))
        if outcome.aurocs:
            outcomes[str(model)] = outcome
    return ClassResult(dataset, category, outcomes, compare_models(scores), reasons)


def _outcome(
    model: str, jobs: pd.DataFrame, scores: dict[int, Scores], interval: tuple[float, float] | None
) -> Outcome:
    told = {int(seed): float(value) for seed, value in zip(jobs["seed"], jobs["image_AUROC"], strict=True)}
    counted = {seed: found.auroc for seed, found in scores.items()}
    aurocs = {seed: counted.get(seed, value) for seed, value in told.items()}
    if len(counted) != len(told):
        interval = None  # of other seeds than the mean beside it
    return Outcome(
        model=model,
        aurocs={seed: value for seed, value in sorted(aurocs.items()) if not math.isnan(value)},
        interval=interval,
        false_alarms=_false_alarms(jobs, scores),
        curve=mean_curve(list(scores.values())) if scores else None,
        examples=find_examples(scores[min(scores)]) if scores else None,
        reported={seed: told[seed] for seed, value in counted.items() if abs(told[seed] - value) > 5e-4},
    )


def _intervals(scores: dict[str, dict[int, Scores]], resamples: int) -> dict[str, tuple[float, float]]:
    """Bootstrap of all models on the same draws of all test images."""
    columns = list(_columns(scores))
    if not columns:
        return {}
    paths, first = np.unique(np.concatenate([found.paths for _, found in columns]), return_index=True)
    labels = np.concatenate([found.labels for _, found in columns])[first]
    scorings = [(np.searchsorted(paths, found.paths), found.distances) for _, found in columns]
    aurocs = bootstrap_aurocs(labels, scorings, resamples=resamples)
    of_model = np.array([model for model, _ in columns])
    return {
        model: percentile_interval(np.nanmean(aurocs[:, of_model == model], axis=1))
        for model in dict.fromkeys(of_model)
    }


def _columns(scores: dict[str, dict[int, Scores]]) -> Iterator[tuple[str, Scores]]:
    for model, by_seed in scores.items():
        for found in by_seed.values():
            yield model, found


def _false_alarms(jobs: pd.DataFrame, scores: dict[int, Scores]) -> Rate | None:
    """Counted on distinct normal images: scored by several seeds, they are still the same images."""
    judged = [found for found in scores.values() if found.flagged is not None]
    if judged and len(judged) == len(jobs):
        normal = [found.paths[~found.labels] for found in judged]
        shares = [found.flagged[~found.labels].mean() for found in judged if found.flagged is not None]
        return realised_rate(float(np.mean(shares)), len(np.unique(np.concatenate(normal))))
    told = jobs[jobs["image_FalseAlarmRate"].between(0, 1) & (jobs["num_test_normal"] >= 1)]
    if told.empty:
        return None
    return realised_rate(float(told["image_FalseAlarmRate"].mean()), int(told["num_test_normal"].min()))
