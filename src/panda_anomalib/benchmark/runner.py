"""Runs a benchmark: what is not done yet, one job after the other, and nothing of it is lost."""

import logging
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from panda_anomalib.benchmark.checks import run_checks
from panda_anomalib.benchmark.configuration import read_configuration
from panda_anomalib.benchmark.execution import run_all
from panda_anomalib.benchmark.jobs import Job
from panda_anomalib.benchmark.outcome import Outcome
from panda_anomalib.benchmark.ray_tasks import RayTasks
from panda_anomalib.benchmark.store import ResultsFolder
from panda_anomalib.benchmark.tasks import Executor, run_in_turn
from panda_anomalib.benchmark.workers import Workers
from panda_anomalib.progress import track
from panda_anomalib.quiet import each_warning_once

__all__ = ["BenchmarkResults", "run_benchmark"]

logger = logging.getLogger(__name__)


class BenchmarkResults(NamedTuple):
    """What a benchmark has led to."""

    folder: Path
    """Where everything is."""
    table: pd.DataFrame
    """One row per job, see `panda_anomalib.benchmark.schema`."""


def run_benchmark(
    config: Path | str,
    *,
    output: Path | str | None = None,
    share_embeddings: bool | None = None,
    processes: int = 1,
    executor: Literal["processes", "ray"] = "processes",
    checks: bool = True,
) -> BenchmarkResults:
    """Compare models on data sets, as a configuration file says; see ``read_configuration``.

    Everything is in the output folder as soon as its job has ended. Started again, with the same or a longer list of
    jobs, it goes on where it stopped: finished jobs are skipped, failed ones tried again.

    Args:
        config: The file.
        output: Folder of the results; by default the file's own ``output``, or ``runs/benchmark/<name of the file>``.
        share_embeddings: Whether jobs take the embeddings of frozen networks from one pass; by default as the file
            says, which is yes where it says nothing.
        checks: Whether to check the protocol at the end, see `panda_anomalib.benchmark.checks`.
        processes: How many jobs run at once, each in a process of its own. One runs them in this process.
        executor: What these processes are: of this machine, or Ray's, on as many as its cluster has.

    Returns:
        The folder and the table of all jobs; what failed is in it, too.

    Raises:
        FileNotFoundError: If the file or a data set is not there.
        ValueError: If processes is less than 1, or anything in the file is wrong; nothing has been run then.
        RuntimeError: If another benchmark is writing into the folder.
        OSError: If results cannot be written.
    """
    if processes < 1:
        raise ValueError(f"jobs must be at least 1 at once, got {processes}.")
    execute: Executor = run_in_turn if processes == 1 else Workers(processes)
    if executor == "ray":
        execute = RayTasks(processes)
    configuration = read_configuration(config)
    folder = Path(output or configuration.output or Path("runs/benchmark") / Path(config).stem)
    shares = configuration.share_embeddings if share_embeddings is None else share_embeddings
    with ResultsFolder(folder, configuration.jobs, configuration.config_hash) as results, each_warning_once():
        todo = [job for job in configuration.jobs if job.job_id not in results.done]
        if skipped := len(configuration.jobs) - len(todo):
            logger.info("%d of %d jobs are done already in %s.", skipped, len(configuration.jobs), folder)
        finished = run_all(todo, folder / "embeddings" if shares else None, execute)
        for number, (job, outcome, started) in enumerate(track(finished, "Jobs", total=len(todo)), start=skipped + 1):
            results.save(job, outcome, started)
            _tell(f"{number}/{len(configuration.jobs)}", job, outcome)
        table = results.table()
        if checks and (todo or not (folder / "checks.json").is_file()):
            run_checks(folder, configuration.jobs, table)
        return BenchmarkResults(folder, table)


def _tell(number: str, job: Job, outcome: Outcome) -> None:
    columns = outcome.columns
    if columns["status"] == "failed":
        logger.error("[%s] %s failed: %s", number, job.description, columns["error"])
        return
    auroc = columns.get("image_AUROC")
    shown = "no AUROC" if auroc is None else f"AUROC {100 * auroc:.2f} %"
    own = columns["job_seconds"] - columns.get("extract_seconds", 0.0)  # a shared pass has had its line
    logger.info("[%s] %s: %s, %.2f s", number, job.description, shown, own)
