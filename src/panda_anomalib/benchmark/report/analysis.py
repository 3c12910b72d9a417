"""All numbers of a report, before any is written."""

from dataclasses import dataclass

from panda_anomalib.benchmark.report.class_results import ClassResult, analyse_classes
from panda_anomalib.benchmark.report.figures.style import Look, looks_of
from panda_anomalib.benchmark.report.reading import Results
from panda_anomalib.benchmark.report.statistics import RankComparison, compare_ranks
from panda_anomalib.benchmark.report.summary import DatasetResult, auroc_by_dataset, summarise

__all__ = ["Analysis", "analyse"]


@dataclass(frozen=True)
class Analysis:
    """What the sections are written from.

    Attributes:
        results: As they were read.
        classes: Each class of each data set, those without any AUROC included.
        datasets: Data sets with at least one AUROC.
        ranked: Models over data sets; None with fewer than two data sets.
        unranked: Models that were not run to the end on every data set.
        looks: Colour and marker of each model.
    """

    results: Results
    classes: list[ClassResult]
    datasets: list[DatasetResult]
    ranked: RankComparison | None
    unranked: list[str]
    looks: dict[str, Look]

    @property
    def models(self) -> list[str]:
        """All models, in the order of the table, failed ones included."""
        return list(self.looks)


def analyse(results: Results) -> Analysis:
    """Compute everything; this is what takes the time of a report."""
    classes = analyse_classes(results)
    datasets = summarise(results, classes)
    models = [str(model) for model in results.jobs["model"].unique()]
    ranked, compared = None, models
    if len(datasets) > 1:
        means = auroc_by_dataset(datasets)
        compared = list(means.columns)
        ranked = compare_ranks(means)
    unranked = [model for model in models if model not in compared]
    return Analysis(results, classes, datasets, ranked, unranked, looks_of(models))
