"""Where each threshold came from, and whether it kept its promise."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from panda_anomalib.benchmark.report.analysis import Analysis
from panda_anomalib.benchmark.report.blocks import Block, Cell, Details, Section, Table
from panda_anomalib.benchmark.report.formats import interval, percent
from panda_anomalib.benchmark.report.statistics import Rate, realised_rate
from panda_anomalib.benchmark.report.summary import DatasetResult
from panda_anomalib.benchmark.schema import OPTIMISTIC_SOURCE

__all__ = ["thresholds_section"]


def thresholds_section(analysis: Analysis) -> Section | None:
    """Sources and realised false-alarm rates, by data set and folded by class."""
    if not analysis.datasets:
        return None
    rows = [row for result in analysis.datasets for row in _dataset_rows(analysis, result)]
    blocks: list[Block] = [
        Table(
            "False-alarm rate in percent, and where the threshold came from",
            ["data set", "model", "threshold from", "asked", "realised", "95 % interval", "verdict", "misses", "F1"],
            rows,
            "Realised: share of normal test images called anomalous, mean over seeds and classes. The interval is the "
            "binomial one (Clopper-Pearson) of that many distinct normal test images, in brackets; it does not contain "
            "the chance of the threshold's own images. Misses and F1: means of what the evaluators said.",
        )
    ]
    by_class = [row for result in analysis.datasets for row in _class_rows(analysis, result)]
    if len(by_class) > len(rows):
        header = ["data set", "class", "model", "asked", "realised", "95 % interval", "verdict"]
        blocks.append(Details("The same by class", [Table("False-alarm rate in percent, by class", header, by_class)]))
    return Section("thresholds", "Thresholds and false alarms", blocks)


def _dataset_rows(analysis: Analysis, result: DatasetResult) -> Iterator[list[Cell]]:
    for model in result.means:
        jobs = _jobs(analysis, result.dataset, model)
        rates = [one.outcomes[model].false_alarms for one in result.classes if model in one.outcomes]
        known = [rate for rate in rates if rate is not None]
        told = [percent(float(jobs[name].mean())) for name in ("image_MissRate", "image_F1Score")]
        # Classes have normal images of their own, so their counts add up.
        rate = _pooled(known) if known and len(known) == len(rates) else None
        yield [Cell(result.dataset), Cell(model), _source(jobs), *_cells(jobs, rate), *map(Cell, told)]


def _class_rows(analysis: Analysis, result: DatasetResult) -> Iterator[list[Cell]]:
    for one in result.classes:
        for model, outcome in one.outcomes.items():
            jobs = _jobs(analysis, result.dataset, model)
            cells = _cells(jobs[jobs["category"] == one.category], outcome.false_alarms)
            yield [Cell(result.dataset), Cell(one.category), Cell(model), *cells]


def _jobs(analysis: Analysis, dataset: str, model: str) -> pd.DataFrame:
    done = analysis.results.done
    return done[(done["dataset"] == dataset) & (done["model"] == model)]


def _pooled(rates: list[Rate]) -> Rate:
    images = np.array([rate.num_images for rate in rates])
    return realised_rate(float(np.average([rate.value for rate in rates], weights=images)), int(images.sum()))


def _source(jobs: pd.DataFrame) -> Cell:
    sources = sorted(jobs["threshold_source"].unique())
    text = ", ".join(source or "not recorded" for source in sources)
    if OPTIMISTIC_SOURCE in sources:
        return Cell(f"{text}: optimistic", status="warning")
    return Cell(text)


def _cells(jobs: pd.DataFrame, rate: Rate | None) -> list[Cell]:
    """Asked, realised, interval, verdict."""
    asked = jobs["false_positive_rate"].dropna().unique()
    wanted = ", ".join(percent(float(value), 1) for value in sorted(asked)) or "-"
    if rate is None:
        return [Cell(wanted), Cell("-"), Cell("-"), Cell("not recorded")]
    cells = [Cell(wanted), Cell(percent(rate.value)), Cell(f"{interval(rate.low, rate.high)} [{rate.num_images}]")]
    if len(asked) != 1:
        return [*cells, Cell("no rate was asked" if not len(asked) else "several were asked")]
    verdict = rate.verdict(float(asked[0]))
    return [*cells, Cell(verdict, status="warning" if verdict.startswith("above") else "")]
