"""Processes that work for a benchmark."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from panda_anomalib.benchmark.jobs import Job
from panda_anomalib.benchmark.outcome import Outcome
from panda_anomalib.benchmark.tasks import Task
from panda_anomalib.benchmark.workers import Workers


def _square(number: int) -> Outcome:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 3:
        raise LookupError("no three")
    return Outcome({"status": "done", "error": "", "square": number**2})


def test_a_process_that_dies_takes_one_job_with_it() -> None:
    """As out of memory does. The others have the results that they have one after the other."""
    arguments: dict[str, Any] = {"class_path": "A", "init_args": {}}
    tasks: list[Task] = [
        (Job("cpu", number, arguments, arguments, "A", "d", "c"), partial(_square, number)) for number in range(6)
    ]
    found = {job.seed: outcome.columns for job, outcome, _ in Workers(2)(tasks)}
    assert {number: columns.get("square") for number, columns in found.items()} == {
        0: 0, 1: 1, 2: None, 3: None, 4: 16, 5: 25,
    }  # fmt: skip
    assert found[2]["error"] == "RuntimeError: the process of the job died (exit code -9)"
    assert found[3]["error"] == "LookupError: no three"


def test_no_processes_are_refused(tmp_path: Path) -> None:
    """Before the file is read."""
    from panda_anomalib.benchmark import run_benchmark  # here, or each of the processes above would import all models

    with pytest.raises(ValueError, match="jobs must be at least 1 at once, got 0"):
        run_benchmark(tmp_path / "none.yaml", processes=0)
