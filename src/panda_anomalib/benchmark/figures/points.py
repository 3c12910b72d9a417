"""The numbers of a figure: means over classes, with their spread over seeds, beside the papers'."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from panda_anomalib.benchmark.figures.varying import Choice, run_columns
from panda_anomalib.benchmark.report.published import counterpart

__all__ = ["Points", "line_names", "make_points", "paper_values", "published_value"]


@dataclass(frozen=True)
class Points:
    """What is drawn.

    Attributes:
        table: One row per point: ``line``, the columns of x and by, ``mean``, ``std`` (over seeds; missing for one),
            ``seeds`` and ``jobs`` (how many).
        metric: Of which the means are.
        x: Column along the axis.
        by: Columns of which each combination is a line.
        lines: Names of the lines, in order.
        remarks: What the reader must know about them, in full sentences.
    """

    table: pd.DataFrame
    metric: str
    x: str
    by: list[str]
    lines: list[str]
    remarks: list[str]


def make_points(jobs: pd.DataFrame, choice: Choice, metric: str) -> Points:
    """Average jobs: over classes for each seed, then over seeds.

    Args:
        jobs: From ``prepare``.
        choice: Of x and by.
        metric: Column that is drawn.

    Raises:
        ValueError: If no job has the metric, or it is none.
    """
    jobs = jobs.assign(line=line_names(jobs, choice.by))
    measured = jobs[jobs[metric].notna()]
    keys = ["line", choice.x, *choice.by]
    runs = [name for name in run_columns(jobs) if name not in keys]
    each = measured.groupby([*keys, *runs], dropna=False, sort=False)[metric].agg(["mean", "count"]).reset_index()
    grouped = each.groupby(keys, dropna=False, sort=False)
    table = grouped.agg(mean=("mean", "mean"), std=("mean", "std"), seeds=("mean", "count"), jobs=("count", "sum"))
    table = table.reset_index().astype({"seeds": "Int64", "jobs": "Int64"})
    lines = list(dict.fromkeys(jobs["line"]))
    table["order"] = table["line"].map(lines.index)
    by_x = [choice.x] if pd.api.types.is_numeric_dtype(table[choice.x]) else []
    table = table.sort_values(["order", *by_x], kind="stable").drop(columns="order").reset_index(drop=True)
    return Points(table, metric, choice.x, choice.by, lines, _remarks(jobs, measured, each, choice, metric))


def line_names(jobs: pd.DataFrame, by: list[str]) -> "pd.Series[str]":
    """Name of the line of each job: words as they are, all else as ``argument=value``; ``""`` for a single line."""
    parts = [jobs[column].map(lambda value, column=column: _part(column, value)) for column in by]
    names = [" ".join(filter(None, texts)) for texts in zip(*parts, strict=True)] if parts else [""] * len(jobs)
    return pd.Series(names, index=jobs.index, dtype=object)


def paper_values(jobs: pd.DataFrame, points: Points) -> dict[str, float]:
    """Published AUROC in percent by the paper's name of the method, of each line whose method a paper has.

    Where models differ along the axis, a line has no one published value, but for models without that setting.
    """
    if points.x.startswith("model."):
        jobs = jobs[jobs[points.x].isna()]
    lines = jobs.groupby(line_names(jobs, points.by), sort=False)
    return dict(filter(None, (published_value(own) for _, own in lines)))


def published_value(jobs: pd.DataFrame) -> tuple[str, float] | None:
    """What a paper calls the method of these jobs, and its AUROC in percent, if all are of one data set and method."""
    scorers = jobs["model.init_args.scorer"].fillna("") if "model.init_args.scorer" in jobs else [""] * len(jobs)
    kinds = set(zip(jobs["dataset"], jobs["model_class"], scorers, strict=True))
    if len(kinds) != 1:
        return None
    dataset, model_class, scorer = kinds.pop()
    row = counterpart(str(dataset), str(model_class), str(scorer), jobs["category"].nunique())
    return None if row is None else (str(row["method"]), float(row["auroc"]))


def _part(column: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if "." not in column or (isinstance(value, str) and value not in ("true", "false", "none")):
        return str(value)
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{column.rpartition('.')[2]}={shown}"


def _remarks(jobs: pd.DataFrame, measured: pd.DataFrame, each: pd.DataFrame, choice: Choice, metric: str) -> list[str]:
    remarks = []
    if without := len(jobs) - len(measured):
        remarks.append(f"{without} of {len(jobs)} finished jobs have no {metric}; they are left out.")
    alike = choice.x if choice.x in ("dataset", "category") else "line"  # what has equally many classes
    sizes = each.groupby(alike, dropna=False, sort=False)["count"]
    short = each[each["count"] < sizes.transform("max")]
    if len(short):
        places = [f"{row['line']} at {row[choice.x]}".strip() for _, row in short.head(3).iterrows()]
        remarks.append(
            f"{len(short)} of {len(each)} means go over fewer classes than others, as jobs are "
            f"missing: {', '.join(places)}{', ...' if len(short) > 3 else ''}. Do not compare them."
        )
    if choice.averaged:
        remarks.append(f"Means also go over {', '.join(choice.averaged)}; name them in by to tell them apart.")
    return remarks
