"""From the ``benchmark`` section of a configuration to jobs, and from a job to one row of the table."""

import difflib
import itertools
import time
from collections.abc import Generator, Iterator
from inspect import signature
from tempfile import TemporaryDirectory
from typing import Any

import anomalib.data
import pandas as pd
from anomalib.data import get_datamodule
from anomalib.models import UnknownModelError, get_model
from anomalib.models.components import AnomalibModule
from anomalib.pipelines.components import Job, JobGenerator
from anomalib.utils.config import flatten_dict
from lightning import seed_everything
from typing_extensions import override

from panda_anomalib.engine import Engine

__all__ = ["BenchmarkJob", "BenchmarkJobGenerator"]

_SECTIONS = ("seed", "model", "data")


class BenchmarkJob(Job):  # type: ignore[misc, unused-ignore] # anomalib is typed loosely
    """Trains one model on one data set and tests it.

    Model and data are built when the job runs, after the seed is set: equal seeds give equal weights, and a model that
    cannot be built fails its own job only.

    Args:
        accelerator: ``cpu`` or ``cuda``.
        config: ``seed``, ``model`` and ``data`` of this job, the last two with ``class_path`` and ``init_args``.
    """

    name = "benchmark"

    def __init__(self, accelerator: str, config: dict[str, Any]) -> None:
        super().__init__()
        self.accelerator = accelerator
        self.config = {**config, "data": _with_seed(config["data"], config["seed"])}

    @property
    def description(self) -> str:
        """One line for the progress: what runs on what."""
        model, data = (self.config[part]["class_path"].rpartition(".")[2] for part in ("model", "data"))
        category = self.config["data"].get("init_args", {}).get("category")
        return f"{model} on {data}{f' {category}' if category else ''}, seed {self.config['seed']}, {self.accelerator}"

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of the row that are known before the job runs."""
        return {"accelerator": self.accelerator, **flatten_dict(self.config)}

    @override
    def run(self, task_id: int | None = None) -> dict[str, Any]:
        """Run the job.

        Args:
            task_id: Index of the device, or None for the first that is free.

        Returns:
            The row: durations in seconds, the configuration with dotted keys, and the metrics of the test.

        Raises:
            ValueError: If there is no model of that name.
            Exception: Whatever else building, training or testing raised.
        """
        start = time.perf_counter()
        seed_everything(self.config["seed"], workers=True, verbose=False)
        model = _build_model(self.config["model"])
        datamodule = get_datamodule(self.config["data"])
        with TemporaryDirectory() as folder:
            engine = Engine(
                accelerator=self.accelerator,
                devices=1 if task_id is None else [task_id],
                default_root_dir=folder,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            fit_start = time.perf_counter()
            engine.fit(model, datamodule=datamodule)
            test_start = time.perf_counter()
            metrics = engine.test(model, datamodule=datamodule, verbose=False)[0]
            end = time.perf_counter()
        durations = {
            "job_duration": end - start,
            "fit_duration": test_start - fit_start,
            "test_duration": end - test_start,
        }
        return {**self.columns, **durations, **metrics}

    @staticmethod
    @override
    def collect(results: list[dict[str, Any]]) -> pd.DataFrame:
        """One table of all rows, with the union of their columns and ``error`` last."""
        table = pd.DataFrame(results)
        return table[[name for name in table if name != "error"] + [name for name in table if name == "error"]]

    @staticmethod
    @override
    def save(results: pd.DataFrame) -> None:
        """Nothing to do: the runner has saved each row when its job ended."""


class BenchmarkJobGenerator(JobGenerator):  # type: ignore[misc, unused-ignore] # anomalib is typed loosely
    """One job for each combination of the ``grid`` lists.

    Args:
        accelerator: ``cpu`` or ``cuda``.
    """

    def __init__(self, accelerator: str) -> None:
        self.accelerator = accelerator

    @property
    @override
    def job_class(self) -> type[BenchmarkJob]:
        """The class of the jobs."""
        return BenchmarkJob

    @override
    def generate_jobs(
        self, args: dict[str, Any] | None = None, prev_stage_result: object = None
    ) -> Generator[BenchmarkJob, None, None]:
        """Yield the jobs; all configurations are checked before the first.

        Args:
            args: The ``benchmark`` section.
            prev_stage_result: Not used: there is one stage.

        Raises:
            ValueError: If the section lacks a key, has one too many or holds a value of the wrong kind.
        """
        configs = list(expand_grid(args or {}))
        for config in configs:
            _check(config)
        yield from (BenchmarkJob(self.accelerator, config) for config in configs)


def expand_grid(value: Any) -> Iterator[Any]:
    """Every combination of the ``grid`` lists in a configuration; the first list changes slowest.

    Unlike anomalib's, only a key that *is* ``grid`` counts (not ``grid_size``), and grids may stand inside grids.

    Raises:
        ValueError: If a ``grid`` is not a list, is empty, or has keys beside it.
    """
    if not isinstance(value, dict):
        yield value
    elif "grid" in value:
        if len(value) > 1 or not isinstance(value["grid"], list) or not value["grid"]:
            raise ValueError(f"grid must be a list of values and stand alone in its section, got {value}.")
        for choice in value["grid"]:
            yield from expand_grid(choice)
    else:
        for combination in itertools.product(*(list(expand_grid(part)) for part in value.values())):
            yield dict(zip(value, combination, strict=True))


def _check(config: dict[str, Any]) -> None:
    if sorted(config) != sorted(_SECTIONS):
        raise ValueError(f"benchmark must have the keys {', '.join(_SECTIONS)} and no other, got {', '.join(config)}.")
    seed = config["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"benchmark.seed must be a whole number from 0 to 4294967295, got {seed!r}.")
    for part in ("model", "data"):
        section = config[part]
        if not isinstance(section, dict) or not isinstance(section.get("class_path"), str):
            raise ValueError(f"benchmark.{part} must have a class_path, such as Dn2 or Folder, got {section!r}.")
        if unknown := set(section) - {"class_path", "init_args"}:
            raise ValueError(
                f"benchmark.{part} must have class_path and init_args only, got {', '.join(sorted(unknown))}; "
                f"arguments belong below init_args."
            )


def _build_model(section: dict[str, Any]) -> AnomalibModule:
    try:
        return get_model(section)
    except UnknownModelError as error:  # anomalib's has no message
        name = section["class_path"]
        known = [model.__name__ for model in AnomalibModule.__subclasses__()]
        nearest = difflib.get_close_matches(name.rpartition(".")[2], known, n=3, cutoff=0)
        raise ValueError(
            f"model must be a model that anomalib knows, got {name!r}; the nearest are {', '.join(nearest)}."
        ) from error


def _with_seed(section: dict[str, Any], seed: int) -> dict[str, Any]:
    """The data's section with the job's seed as the seed of its split, unless it names one.

    An unseeded split draws from the global generator, which every model leaves in another state: models would be
    compared on different test images.
    """
    datamodule = getattr(anomalib.data, section["class_path"].rpartition(".")[2], None)
    if datamodule is None or "seed" not in signature(datamodule).parameters:
        return section
    return {**section, "init_args": {"seed": seed, **section.get("init_args", {})}}
