"""The folder of results: every finished job is in it at once, and nothing in it is ever half written."""

import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from typing_extensions import Self

from panda_anomalib.atomic import write_atomically
from panda_anomalib.benchmark.jobs import Job
from panda_anomalib.benchmark.outcome import Outcome
from panda_anomalib.benchmark.provenance import provenance

__all__ = ["ResultsFolder"]

_SHARE_OF_TIME = 0.1  # that writing the tables may take; rewriting 1000 rows takes longer than some jobs do
_FIRST = ("job_id", "config_hash", "status", "error", "model", "model_class", "dataset", "category", "seed")


class ResultsFolder:
    """Results of a benchmark on disk, see `panda_anomalib.benchmark.schema`; one process at a time may hold it.

    Each job has a folder with its row, which is all that a restart looks at. The tables are made of the rows: after
    each job, or, where jobs take less time than that, a little later, and at the end.

    Args:
        path: Folder; made where it is not there.
        jobs: Of the benchmark, in the order of the tables.
        config_hash: Of the benchmark.

    Raises:
        RuntimeError: On entering, if another process holds the folder.
    """

    def __init__(self, path: Path, jobs: Sequence[Job], config_hash: str) -> None:
        self.path = path
        self._jobs = {job.job_id: job for job in jobs}
        self._config_hash = config_hash
        self._rows: dict[str, dict[str, Any]] = {}
        self._lock = FileLock(path / ".lock")
        self._next_tables = 0.0

    def __enter__(self) -> Self:
        """Take the folder and read what is in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"output must be free, got '{self.path}', which another benchmark is writing to; wait for it, or "
                "choose another output."
            ) from None
        self._rows = {job_id: row for job_id in self._jobs if (row := self._read(job_id)) is not None}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the tables and leave the folder to others."""
        try:
            if self._rows:
                self._write_tables()
        finally:
            self._lock.release()

    @property
    def done(self) -> set[str]:
        """Jobs that need not run again."""
        return {job_id for job_id, row in self._rows.items() if row["status"] == "done"}

    @property
    def failed(self) -> list[str]:
        """Jobs that were tried and have no result, in the order of the tables."""
        return [job_id for job_id in self._jobs if self._rows.get(job_id, {}).get("status") == "failed"]

    def save(self, job: Job, outcome: Outcome, started: str) -> None:
        """Keep the result of a job, as soon as there is one.

        Raises:
            OSError: If it cannot be written; what was there before is still there then.
        """
        folder = self.path / "jobs" / job.job_id
        folder.mkdir(parents=True, exist_ok=True)
        row = {
            **job.columns,
            "config_hash": self._config_hash,
            **outcome.columns,
            "started": started,
            **provenance(),
        }
        if outcome.scores is not None:
            scores = outcome.scores
            write_atomically(folder / "scores.parquet", lambda path: scores.to_parquet(path, index=False))
        if outcome.traceback is not None:
            with (self.path / "errors.log").open("a", encoding="utf-8") as file:
                file.write(f"{started} {job.description}\n{outcome.traceback}\n")
        text = json.dumps({name: _finite(value) for name, value in row.items()}, indent=1, allow_nan=False)
        # last, and in one step: the job is done when its row is there
        write_atomically(folder / "row.json", lambda path: path.write_text(text, encoding="utf-8"))
        self._rows[job.job_id] = row
        if time.monotonic() >= self._next_tables:
            self._write_tables()

    def table(self) -> pd.DataFrame:
        """One row per job that has run, in the order of the benchmark and with its present labels."""
        rows = [
            {**self._rows[job_id], **job.columns, "config_hash": self._config_hash}
            for job_id, job in self._jobs.items()
            if job_id in self._rows
        ]
        table = pd.DataFrame(rows)
        return table[[name for name in _FIRST if name in table] + [name for name in table if name not in _FIRST]]

    def _read(self, job_id: str) -> dict[str, Any] | None:
        try:
            row = json.loads((self.path / "jobs" / job_id / "row.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # there is none, or something else has damaged it: the job runs again
            return None
        return row if isinstance(row, dict) and row.get("status") in ("done", "failed") else None

    def _write_tables(self) -> None:
        start = time.monotonic()
        table = self.table()
        write_atomically(self.path / "results.csv", lambda path: table.to_csv(path, index=False))
        columnar = _of_one_type(table)
        write_atomically(self.path / "results.parquet", lambda path: columnar.to_parquet(path, index=False))
        end = time.monotonic()
        self._next_tables = end + (end - start) / _SHARE_OF_TIME


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _of_one_type(table: pd.DataFrame) -> pd.DataFrame:
    """Columns that hold words and numbers, as the same argument of two models may, as words: Parquet has one type."""
    words = {str(name): _as_words(table[name]) for name in table if _is_mixed(table[name].dropna())}
    return pd.DataFrame({str(name): words.get(str(name), table[name]) for name in table})


def _is_mixed(values: Iterable[Any]) -> bool:
    return len({float if type(value) is int else type(value) for value in values}) > 1


def _as_words(values: "pd.Series[Any]") -> list[str | None]:
    return [None if pd.isna(value) else str(value) for value in values]
