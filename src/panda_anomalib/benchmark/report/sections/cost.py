"""Time and memory."""

from collections.abc import Iterator

import pandas as pd

from panda_anomalib.benchmark.report.analysis import Analysis
from panda_anomalib.benchmark.report.anchors import anchor
from panda_anomalib.benchmark.report.blocks import Block, Cell, Section, Table, Text
from panda_anomalib.benchmark.report.figures import cost_plot
from panda_anomalib.benchmark.report.formats import mebibytes, seconds
from panda_anomalib.benchmark.report.summary import DatasetResult

__all__ = ["cost_section"]

_COLUMNS = ("fit_seconds", "test_seconds", "job_seconds", "peak_memory_mib", "bank_mib")


def cost_section(analysis: Analysis) -> Section | None:
    """Table of times and memory, and for each data set time against AUROC; None if nothing was recorded."""
    done = analysis.results.done
    if not analysis.datasets or done[list(_COLUMNS)].isna().all(axis=None):
        return None
    rows = [row for result in analysis.datasets for row in _rows(done, result)]
    blocks: list[Block] = [
        Table(
            "Mean over classes and seeds; memory: the largest",
            ["data set", "model", "fit", "test", "images tested per second", "whole job", "peak memory", "memory bank"],
            rows,
            _remark_on_sharing(done),
        )
    ]
    missing = []
    for result in analysis.datasets:
        points = dict(_points(done, result))
        if len(points) > 1:
            blocks.append(cost_plot(result.dataset, points, analysis.looks, f"{anchor(result.dataset)}-cost"))
        elif len(result.means) > 1:
            missing.append(result.dataset)
    if missing:
        blocks.append(Text(f"No drawing of time against AUROC, for want of recorded times: {', '.join(missing)}."))
    return Section("cost", "Time and memory", blocks)


def _rows(done: pd.DataFrame, result: DatasetResult) -> Iterator[list[Cell]]:
    for model in result.means:
        jobs = done[(done["dataset"] == result.dataset) & (done["model"] == model)]
        images = (jobs["num_test_normal"] + jobs["num_test_anomalous"]) / jobs["test_seconds"].where(lambda s: s > 0)
        shared = "§" if _is_shared(jobs) else ""
        fit, test, whole = (Cell(seconds(float(jobs[name].mean())), mark=shared) for name in _COLUMNS[:3])
        speed = "-" if images.isna().all() else f"{images.mean():.0f}"
        memory = [Cell(mebibytes(float(jobs[name].max()))) for name in _COLUMNS[3:]]
        yield [Cell(result.dataset), Cell(model), fit, test, Cell(speed, mark=shared), whole, *memory]


def _points(done: pd.DataFrame, result: DatasetResult) -> Iterator[tuple[str, tuple[float, float]]]:
    for model in result.ranking:
        jobs = done[(done["dataset"] == result.dataset) & (done["model"] == model)]
        time = float((jobs["fit_seconds"] + jobs["test_seconds"]).fillna(jobs["job_seconds"]).mean())
        if time > 0:
            yield model, (time, result.means[model].mean)


def _is_shared(jobs: pd.DataFrame) -> bool:
    if "shared_embeddings" not in jobs:
        return False
    return bool(jobs["shared_embeddings"].astype(str).str.lower().isin(["true", "1", "1.0"]).any())


def _remark_on_sharing(done: pd.DataFrame) -> str:
    if not _is_shared(done):
        return ""
    return "§: the embeddings came from a pass shared with other jobs; the times contain the job's share of it."
