"""The benchmark pipeline: checks the configuration, runs the jobs, keeps every row and tells the failures."""

import itertools
import logging
import time
import traceback
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from anomalib.pipelines import Benchmark as AnomalibBenchmark
from anomalib.pipelines.components import Runner
from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from panda_anomalib.atomic import write_atomically
from panda_anomalib.benchmark.jobs import BenchmarkJob, BenchmarkJobGenerator
from panda_anomalib.quiet import host_warnings_only

__all__ = ["Benchmark", "BenchmarkRunner"]

_ACCELERATORS = {"cpu": "cpu", "cuda": "cuda", "gpu": "cuda"}

logger = logging.getLogger(__name__)


class BenchmarkRunner(Runner):  # type: ignore[misc, unused-ignore] # anomalib is typed loosely
    """Runs jobs one after the other and writes the table anew after each.

    Args:
        generator: Makes the jobs.
        folder: Takes ``results.csv``, and ``errors.log`` with the tracebacks of failed jobs.
        rows: The rows so far, to which those of this runner are added.
    """

    def __init__(self, generator: BenchmarkJobGenerator, folder: Path, rows: list[dict[str, Any]]) -> None:
        super().__init__(generator)
        self.generator: BenchmarkJobGenerator = generator
        self.folder = folder
        self.rows = rows

    @override
    def run(self, args: dict[str, Any], prev_stage_results: object = None) -> pd.DataFrame:
        """Run all jobs; one that fails gives a row with its configuration and ``error``.

        Args:
            args: The ``benchmark`` section of the configuration.
            prev_stage_results: Not used: there is one stage.

        Returns:
            The table of all rows.
        """
        jobs = list(self.generator.generate_jobs(args))
        for number, job in enumerate(jobs, start=1):
            logger.info("Job %d of %d: %s", number, len(jobs), job.description)
            start = time.perf_counter()
            try:
                with host_warnings_only():
                    row = job.run()
            except Exception as error:  # noqa: BLE001 - whatever it is, the other jobs go on and the row tells it
                row = self._failed(job, error, time.perf_counter() - start)
            else:
                logger.info("Job %d of %d took %.1f s", number, len(jobs), row["job_duration"])
            self.rows.append(row)
            self._write()
        return BenchmarkJob.collect(self.rows)

    def _write(self) -> None:
        table = BenchmarkJob.collect(self.rows)
        write_atomically(self.folder / "results.csv", partial(table.to_csv, index=False))

    def _failed(self, job: BenchmarkJob, error: Exception, duration: float) -> dict[str, Any]:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        logger.error("%s failed: %s", job.description, reason)
        with (self.folder / "errors.log").open("a", encoding="utf-8") as file:
            file.write(f"{job.description}\n{''.join(traceback.format_exception(error))}\n")
        return {**job.columns, "job_duration": duration, "error": reason}


class Benchmark(AnomalibBenchmark):  # type: ignore[misc, unused-ignore] # anomalib is typed loosely
    """Compare models on data sets, as a configuration file says.

    The file has two keys: ``accelerator`` (``cpu``, ``cuda`` or a list of them) and ``benchmark`` with ``seed``,
    ``model`` and ``data``, where ``{grid: [...]}`` in the place of a value makes one job for each element. Jobs run one
    after the other, on one device. Results are in ``runs/benchmark/<time>/results.csv``, one row as soon as its job has
    ended; what failed has its reason in the column ``error`` and its traceback in ``errors.log`` beside the table.
    """

    @override
    def run(self, args: Namespace | None = None) -> pd.DataFrame:
        """Run all jobs, print the table of results and return it.

        Args:
            args: Has the attribute ``config``, the path of the file; the arguments of the process when None.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the configuration is wrong; nothing has been run then.
            RuntimeError: After all jobs, if any failed.
        """
        config = self._get_args(args)
        _check(config)
        runners = self._setup_runners(config)
        for runner in runners:
            list(
                runner.generator.generate_jobs(config["benchmark"])
            )  # raises for a wrong section, before the first job
        table = pd.DataFrame()
        runners[0].folder.mkdir(parents=True)
        for runner in runners:
            table = runner.run(config["benchmark"])
        _print(table)
        path = runners[0].folder / "results.csv"
        logger.info("Results of %d jobs are in %s", len(table), path)
        if failed := table["error"].notna().sum() if "error" in table else 0:
            raise RuntimeError(f"{failed} of {len(table)} jobs failed; see the column error of {path}.")
        return table

    @override
    def _get_args(self, args: Namespace | None) -> dict[str, Any]:
        config = (args or self.get_parser().parse_args()).config
        if not Path(config).is_file():
            raise FileNotFoundError(f"config must be an existing file, got {str(config)!r}; check the path.")
        try:
            content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"config must be a YAML file, got {config}: {' '.join(str(error).split())}.") from error
        if not isinstance(content, dict):
            raise ValueError(f"config must have the keys accelerator and benchmark, got {content!r} in {config}.")
        return content

    @staticmethod
    @override
    def _setup_runners(args: dict[str, Any]) -> list[BenchmarkRunner]:
        named = args["accelerator"] if isinstance(args["accelerator"], list) else [args["accelerator"]]
        rows: list[dict[str, Any]] = []
        folder = _unused_folder()
        return [BenchmarkRunner(BenchmarkJobGenerator(_accelerator(name)), folder, rows) for name in named]


def _check(config: dict[str, Any]) -> None:
    if sorted(config) != ["accelerator", "benchmark"]:
        raise ValueError(f"config must have the keys accelerator and benchmark and no other, got {', '.join(config)}.")
    if not isinstance(config["benchmark"], dict):
        raise ValueError(f"benchmark must have the keys seed, model and data, got {config['benchmark']!r}.")
    if not config["accelerator"]:
        raise ValueError(f"accelerator must be cpu or cuda, or a list of them, got {config['accelerator']!r}.")


def _accelerator(name: object) -> str:
    if name not in _ACCELERATORS:
        raise ValueError(f"accelerator must be cpu or cuda (gpu is the same), got {name!r}.")
    accelerator = _ACCELERATORS[str(name)]
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"accelerator must be there, got {name!r} on a machine where torch finds no CUDA; use cpu.")
    return accelerator


def _unused_folder() -> Path:
    now = datetime.now().astimezone().strftime("%Y-%m-%d-%H_%M_%S")
    names = itertools.chain([now], (f"{now}-{number}" for number in itertools.count(2)))  # two runs in one second
    return next(folder for name in names if not (folder := Path("runs") / BenchmarkJob.name / name).exists())


def _print(table: pd.DataFrame) -> None:
    """Print what tells the rows apart and what was measured, one line for each job."""
    first = [name for name in ("model.class_path", "data.class_path") if name in table]
    names = [str(name) for name in table]
    varying = [name for name in names if name not in first and table[name].astype(str).nunique() > 1]
    metrics = [
        name for name in map(str, table) if name not in (*first, *varying) and name.startswith(("image_", "pixel_"))
    ]
    shown = Table(title="Benchmark", header_style="bold")
    for name in (columns := [*first, *varying, *metrics]):
        shown.add_column(name, overflow="fold")
    for _, row in table[columns].iterrows():
        shown.add_row(*("" if pd.isna(x) else f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.map(_plain)))
    Console().print(shown)


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float) or value is None else str(value)
