"""Jobs become outcomes: first those that share embeddings, then the others."""

import logging
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path

from panda_anomalib.benchmark.alone import run_alone
from panda_anomalib.benchmark.jobs import Job, digest
from panda_anomalib.benchmark.outcome import Outcome
from panda_anomalib.benchmark.shared.planning import Group, SharedJob, plan_groups
from panda_anomalib.benchmark.shared.scoring import ScoringTask
from panda_anomalib.benchmark.tasks import Executor, Finished

__all__ = ["run_all"]

logger = logging.getLogger(__name__)


def run_all(jobs: Sequence[Job], embeddings: Path | None, execute: Executor) -> Iterator[Finished]:
    """Run jobs; one that fails has an outcome that says why.

    Args:
        jobs: In any order; the outcomes come in another.
        embeddings: Folder for the embeddings that jobs share; None to run each alone.
        execute: Runs the tasks that jobs are made of.
    """
    alone = list(jobs)
    if embeddings is not None:
        groups, alone = plan_groups(jobs)
        for group in groups:
            alone += yield from _run_group(group, embeddings, execute)
    position = {job.job_id: number for number, job in enumerate(jobs)}
    alone.sort(key=lambda job: position[job.job_id])
    yield from execute([(job, partial(run_alone, job)) for job in alone])


def _run_group(group: Group, folder: Path, execute: Executor) -> Generator[Finished, None, list[Job]]:
    """Outcomes of jobs that share embeddings; returns those that have to run alone, because there are none."""
    try:
        file = group.embeddings(folder)
    except Exception as error:  # noqa: BLE001 - each job says on its own what it lacks
        logger.warning("Embeddings cannot be shared, each job runs alone: %s", " ".join(str(error).split()))
        return [shared.job for shared in group.jobs]
    # A seed that draws no split, as those of the published data sets do not, changes nothing in a frozen model.
    equal: dict[str, list[SharedJob]] = {}
    for shared in group.jobs:
        equal.setdefault(digest([shared.job.model, shared.images]), []).append(shared)
    copies = {first.job.job_id: [shared.job for shared in others] for first, *others in equal.values()}
    tasks = [(first.job, ScoringTask.of(first, file)) for first, *_ in equal.values()]
    for job, outcome, started in execute(tasks):
        yield job, outcome, started
        same = {} if outcome.traceback else {"same_as": job.job_id}
        for copy in copies[job.job_id]:
            yield copy, Outcome({**outcome.columns, **same}, outcome.scores, outcome.traceback), started
    return []
