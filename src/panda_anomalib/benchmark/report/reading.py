"""Results folders -> one table of jobs, whatever version of the runner wrote them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from panda_anomalib.benchmark.report.older import with_present_names
from panda_anomalib.benchmark.schema import IDENTITY, TEXT_COLUMNS

__all__ = ["Results", "read_results"]

_NUMBERS = (
    *("seed", "image_AUROC", "image_AUPR", "image_F1Score", "image_FalseAlarmRate", "image_MissRate"),
    *("threshold", "false_positive_rate", "num_train", "num_test_normal", "num_test_anomalous", "fit_seconds"),
    *("test_seconds", "job_seconds", "peak_memory_mib", "bank_mib", "extract_seconds"),
)


@dataclass(frozen=True)
class Results:
    """What was read.

    Attributes:
        jobs: One row per job with the columns of `panda_anomalib.benchmark.schema` (missing ones added, empty) and
            ``folder``, in which its scores lie.
        checks: Entries of ``checks.json``, with ``folder``; None when no folder has one.
        remarks: What the reader of the report must know about the files, in full sentences.
    """

    jobs: pd.DataFrame
    checks: list[dict[str, Any]] | None
    remarks: list[str] = field(default_factory=list)

    @property
    def done(self) -> pd.DataFrame:
        """Jobs with a result."""
        return self.jobs[self.jobs["status"] == "done"]

    @property
    def failed(self) -> pd.DataFrame:
        """Jobs without one."""
        return self.jobs[self.jobs["status"] != "done"]


def read_results(folders: Sequence[Path]) -> Results:
    """Read one or several results folders as one benchmark.

    Raises:
        FileNotFoundError: If a folder is not there, or holds no results.
        ValueError: If a table cannot be understood.
    """
    remarks: list[str] = []
    tables, checks = [], []
    for folder in dict.fromkeys(Path(folder) for folder in folders):
        rows = _read_rows(folder, remarks)
        tables.append(_normalised(rows, folder, remarks))
        found = _read_checks(folder, remarks)
        checks += [found] if found is not None else []
    jobs = pd.concat(tables, ignore_index=True)
    if tables[1:]:
        jobs = _with_distinct_labels(jobs, remarks)
    jobs = _newest_only(jobs, remarks)
    return Results(jobs, [entry for found in checks for entry in found] if checks else None, remarks)


def _read_rows(folder: Path, remarks: list[str]) -> pd.DataFrame:
    if not folder.is_dir():
        raise FileNotFoundError(f"folder must be one that a benchmark has written, got '{folder}'; check the path.")
    reasons = []
    for name, read in (("results.parquet", pd.read_parquet), ("results.csv", _read_csv)):
        if not (folder / name).is_file():
            continue
        try:
            rows = read(folder / name)
        except (ValueError, OSError) as error:  # pandas' and pyarrow's errors about contents are ValueErrors
            reasons.append(f"'{folder / name}' cannot be read ({' '.join(str(error).split())[:200]})")
            continue
        if len(rows):
            remarks += [f"{reason}; {name} was taken." for reason in reasons]
            return rows
    if rows_of_jobs := _read_json_rows(folder):
        remarks.append(f"'{folder}' has no table that can be read; the rows come from the {len(rows_of_jobs)} jobs.")
        return pd.DataFrame(rows_of_jobs)
    if reasons:
        raise ValueError(f"results must be a table, got: {'; '.join(reasons)}.")
    raise FileNotFoundError(
        "folder must hold the results of a benchmark (results.parquet, results.csv or jobs/*/row.json), got "
        f"'{folder}' without any; is the benchmark still at its first job?"
    )


def _read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=dict.fromkeys((*TEXT_COLUMNS, "class"), str), low_memory=False)


def _read_json_rows(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(folder.glob("jobs/*/row.json")):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # a job that was killed while writing
            continue
        if isinstance(row, dict):
            rows.append({"job_id": path.parent.name, **row})
    return rows


def _normalised(rows: pd.DataFrame, folder: Path, remarks: list[str]) -> pd.DataFrame:
    jobs = with_present_names(rows, folder, remarks)
    for name in TEXT_COLUMNS:
        jobs[name] = _text(jobs[name]) if name in jobs else ""
    metrics = [name for name in jobs if str(name).startswith(("image_", "pixel_"))]
    for column in dict.fromkeys((*_NUMBERS, *metrics)):
        numbers = pd.to_numeric(jobs[column], errors="coerce") if column in jobs else np.nan
        jobs[column] = pd.Series(numbers, index=jobs.index, dtype=float)
    jobs["status"] = jobs["status"].where(jobs["status"] != "", np.where(jobs["error"] == "", "done", "failed"))
    jobs["category"] = jobs["category"].replace("", "all")
    if jobs["seed"].isna().any():
        remarks.append(f"Some rows of '{folder}' do not say their seed; it is taken for 0.")
    jobs["seed"] = jobs["seed"].fillna(0).astype(int)
    jobs["folder"] = str(folder)
    return jobs


def _text(values: "pd.Series[Any]") -> "pd.Series[str]":
    return values.astype(object).where(values.notna(), "").astype(str).str.strip()


def _with_distinct_labels(jobs: pd.DataFrame, remarks: list[str]) -> pd.DataFrame:
    """Tell apart what several folders call alike: two benchmarks may mean different settings by one label."""
    clashing = jobs[jobs.duplicated(list(IDENTITY), keep=False) & ~jobs.duplicated([*IDENTITY, "job_id"], keep=False)]
    labels = sorted(clashing["model"].unique())
    if labels:
        chosen = jobs["model"].isin(labels)
        named = jobs["model"] + " (" + jobs["folder"].map(lambda path: Path(path).name) + ")"
        jobs = jobs.assign(model=jobs["model"].where(~chosen, named))
        remarks.append(f"Several folders have other jobs of {', '.join(labels)}: the folder's name was added.")
    return jobs


def _newest_only(jobs: pd.DataFrame, remarks: list[str]) -> pd.DataFrame:
    """One row for each model, data set, class and seed: a done one before a failed one, then the one started last."""
    order = jobs.assign(_done=jobs["status"] == "done").sort_values(["_done", "started"], kind="stable").index
    newest = jobs.loc[order].drop_duplicates(list(IDENTITY), keep="last").index
    if surplus := len(jobs) - len(newest):
        rows = "row was" if surplus == 1 else "rows were"
        remarks.append(
            f"{surplus} older {rows} left out: the same model, data set, class and seed is there again (the newest "
            "finished job counts)."
        )
    return jobs.loc[sorted(newest)].reset_index(drop=True)


def _read_checks(folder: Path, remarks: list[str]) -> list[dict[str, Any]] | None:
    path = folder / "checks.json"
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        remarks.append(f"'{path}' cannot be read ({error}): the protocol checks are missing from this report.")
        return None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        remarks.append(f"'{path}' is not a list of checks: they are missing from this report.")
        return None
    return [{**entry, "folder": str(folder)} for entry in entries]
