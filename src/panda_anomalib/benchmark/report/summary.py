"""Classes put together: one line for each model and data set."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from panda_anomalib.benchmark.report.class_results import ClassResult
from panda_anomalib.benchmark.report.reading import Results

__all__ = ["DatasetResult", "ModelMean", "auroc_by_dataset", "summarise"]


@dataclass(frozen=True)
class ModelMean:
    """One model on one data set.

    Attributes:
        mean: AUROC in [0, 1], mean over classes of the means over seeds.
        spread: Standard deviation over seeds of the mean over classes; NaN with fewer than two seeds that have all.
        num_seeds: Seeds with all of the model's classes.
        worst: Class with the lowest AUROC, and that AUROC.
        num_classes: Classes with an AUROC.
        num_best: Classes in which no other model was better.
    """

    model: str
    mean: float
    spread: float
    num_seeds: int
    worst: tuple[str, float]
    num_classes: int
    num_best: int


@dataclass(frozen=True)
class DatasetResult:
    """One data set.

    Attributes:
        classes: In the order of the table.
        means: By model, in the order of the table; models without any AUROC are missing.
        num_classes: Classes that any job was meant to measure, failed ones included.
    """

    dataset: str
    classes: list[ClassResult]
    means: dict[str, ModelMean]
    num_classes: int

    def is_complete(self, model: str) -> bool:
        """Whether the model has an AUROC for every class; only such means may be compared."""
        return model in self.means and self.means[model].num_classes == self.num_classes

    @property
    def ranking(self) -> list[str]:
        """Complete models, best first."""
        complete = [model for model in self.means if self.is_complete(model)]
        return sorted(complete, key=lambda model: -self.means[model].mean)

    @property
    def foremost(self) -> list[str]:
        """At most six models, for where there is no room for all: the complete ones, best first, then others."""
        others = [model for model in self.means if model not in self.ranking]
        return [*self.ranking, *sorted(others, key=lambda model: -self.means[model].mean)][:6]

    @property
    def best(self) -> list[str]:
        """Complete models with the highest mean, to what a table shows; empty for fewer than two."""
        if len(self.ranking) < 2:
            return []
        highest = round(self.means[self.ranking[0]].mean, 4)
        return [model for model in self.ranking if round(self.means[model].mean, 4) == highest]


def summarise(results: Results, classes: Sequence[ClassResult]) -> list[DatasetResult]:
    """One result for each data set of which anything was measured."""
    return list(_summaries(results, classes))


def _summaries(results: Results, classes: Sequence[ClassResult]) -> Iterator[DatasetResult]:
    for dataset, jobs in results.jobs.groupby("dataset", sort=False):
        own = [result for result in classes if result.dataset == dataset and result.outcomes]
        if not own:
            continue
        means = {}
        for model in jobs["model"].unique():
            if mean := _model_mean(model, own):
                means[model] = mean
        yield DatasetResult(str(dataset), own, means, jobs["category"].nunique())


def _model_mean(model: str, classes: Sequence[ClassResult]) -> ModelMean | None:
    having = [result for result in classes if model in result.outcomes]
    if not having:
        return None
    by_class = {result.category: result.outcomes[model].mean for result in having}
    aurocs = [result.outcomes[model].aurocs for result in having]
    seeds = set(aurocs[0]).intersection(*aurocs[1:])
    of_seeds = [float(np.mean([by_seed[seed] for by_seed in aurocs])) for seed in sorted(seeds)]
    worst = min(by_class, key=by_class.__getitem__)
    return ModelMean(
        model=model,
        mean=float(np.mean(list(by_class.values()))),
        spread=float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else math.nan,
        num_seeds=len(of_seeds),
        worst=(worst, by_class[worst]),
        num_classes=len(having),
        num_best=sum(model in result.best for result in having),
    )


def auroc_by_dataset(datasets: Sequence[DatasetResult]) -> pd.DataFrame:
    """Mean AUROC, data sets x models: the models that are complete on every data set."""
    models = [model for model in datasets[0].means if all(result.is_complete(model) for result in datasets)]
    rows = [[result.means[model].mean for model in models] for result in datasets]
    return pd.DataFrame(rows, index=[result.dataset for result in datasets], columns=models)
