"""Jobs and what does them, as they are handed to whoever runs them; imports no model."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from panda_anomalib.benchmark.jobs import Job
from panda_anomalib.benchmark.outcome import Outcome

__all__ = ["Executor", "Finished", "Task", "attempt", "run_in_turn"]

Task = tuple[Job, Callable[[], Outcome]]
"""A job, and what does it; both can be sent to another process."""

Finished = tuple[Job, Outcome, str]
"""A job, its outcome, and when it was started."""

Executor = Callable[[Sequence[Task]], Iterator[Finished]]
"""Runs tasks, in any order."""


def run_in_turn(tasks: Sequence[Task]) -> Iterator[Finished]:
    """Run tasks one after the other, in this process."""
    for task in tasks:
        yield attempt(task)


def attempt(task: Task) -> Finished:
    """The outcome of a task, which is a failure if it raised."""
    job, run = task
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    start = time.perf_counter()
    try:
        outcome = run()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other jobs go on and the row tells it
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        outcome = Outcome.failure(reason, "".join(traceback.format_exception(error)), time.perf_counter() - start)
    return job, outcome, started
