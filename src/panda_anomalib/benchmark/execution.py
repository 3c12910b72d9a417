"""Jobs become outcomes: first those that share embeddings, then the others, one by one."""

import logging
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from panda_anomalib.benchmark.alone import run_alone
from panda_anomalib.benchmark.jobs import Job
from panda_anomalib.benchmark.outcome import Outcome
from panda_anomalib.benchmark.shared.planning import Group, plan_groups
from panda_anomalib.benchmark.shared.scoring import in_reading_order, score_shared

__all__ = ["Finished", "attempt", "run_all"]

logger = logging.getLogger(__name__)

Finished = tuple[Job, Outcome, str]
"""A job, its outcome, and when it was started."""


def run_all(jobs: Sequence[Job], embeddings: Path | None) -> Iterator[Finished]:
    """Run jobs; one that fails has an outcome that says why.

    Args:
        jobs: In any order; the outcomes come in another.
        embeddings: Folder for the embeddings that jobs share; None to run each alone.
    """
    alone = list(jobs)
    if embeddings is not None:
        groups, alone = plan_groups(jobs)
        for group in groups:
            alone += yield from _run_group(group, embeddings)
        alone.sort(key=list(jobs).index)
    for job in alone:
        yield attempt(job, partial(run_alone, job))


def attempt(job: Job, run: Callable[[], Outcome]) -> Finished:
    """The outcome of a job, which is a failure if it raised."""
    started, start = _now(), time.perf_counter()
    try:
        outcome = run()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other jobs go on and the row tells it
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        outcome = Outcome.failure(reason, "".join(traceback.format_exception(error)), time.perf_counter() - start)
    return job, outcome, started


def _run_group(group: Group, folder: Path) -> Generator[Finished, None, list[Job]]:
    """Outcomes of jobs that share embeddings; where there are none, the jobs, which have to run alone."""
    try:
        file = group.embeddings(folder)
    except Exception as error:  # noqa: BLE001 - each job says on its own what it lacks
        logger.warning("Embeddings cannot be shared, each job runs alone: %s", " ".join(str(error).split()))
        return [shared.job for shared in group.jobs]
    known: dict[str, Outcome] = {}
    for shared, key in in_reading_order(group.jobs):
        if key in known:
            yield shared.job, known[key], _now()
            continue
        known.clear()
        finished = attempt(shared.job, partial(score_shared, shared, file, group.kind["accelerator"]))
        if finished[1].traceback is None:
            same = {"same_as": shared.job.job_id}  # a seed that changes nothing need not be computed again
            known[key] = Outcome({**finished[1].columns, **same}, finished[1].scores)
        yield finished
    return []


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
