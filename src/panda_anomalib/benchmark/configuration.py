"""From a configuration file to jobs that can be run: whatever is wrong with any of them is said before the first."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from panda_anomalib.benchmark.grid import ALL, expand_grid
from panda_anomalib.benchmark.jobs import Job, digest
from panda_anomalib.benchmark.labels import distinct_labels
from panda_anomalib.benchmark.sections import check_data, check_model, class_names, takes
from panda_anomalib.benchmark.source_lines import line_of
from panda_anomalib.commands import nearest_path
from panda_anomalib.quiet import warnings_only
from panda_anomalib.registration import register

__all__ = ["Configuration", "read_configuration"]

_ACCELERATORS = {"cpu": "cpu", "cuda": "cuda", "gpu": "cuda"}
_SECTIONS = ("seed", "model", "data")
_OPTIONS = ("output", "share_embeddings")
_SHARING = {"auto": True, "off": False, True: True, False: False}  # YAML reads a bare "off" as false

T = TypeVar("T")


@dataclass(frozen=True)
class Configuration:
    """A benchmark.

    Attributes:
        jobs: In the order of the file.
        config_hash: Of the whole file's content.
        output: Folder of the results, where the file names one.
        share_embeddings: Whether jobs take the embeddings of frozen networks from one pass.
    """

    jobs: list[Job]
    config_hash: str
    output: Path | None
    share_embeddings: bool


def read_configuration(path: Path | str) -> Configuration:
    """Read a file, make its jobs and check all of them.

    The file has the keys ``accelerator`` (``cpu``, ``cuda`` or a list of them) and ``benchmark`` with ``seed``,
    ``model`` and ``data``, where ``{grid: [...]}`` in the place of a value makes one job for each element, and
    ``normal_class: {grid: all}`` one for each class. ``output`` and ``share_embeddings`` may stand beside them.

    Raises:
        FileNotFoundError: If there is no such file, or a data set's files are not there.
        ValueError: If anything in it is not accepted; the line is named where the wrong word stands in one.
    """
    path = Path(path)
    content = _load(path)
    try:
        return _configuration(content)
    except (ValueError, FileNotFoundError) as error:
        line = line_of(path, str(error))
        raise type(error)(f"{error} ({path}, line {line})" if line else str(error)) from error


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"config must be an existing file, got {str(path)!r}{nearest_path(path)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config must be a YAML file, got {path}: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"config must have the keys accelerator and benchmark, got {content!r} in {path}.")
    return content


def _configuration(content: dict[str, Any]) -> Configuration:
    if not {"accelerator", "benchmark"} <= set(content) <= {"accelerator", "benchmark", *_OPTIONS}:
        raise ValueError(
            f"config must have the keys accelerator and benchmark and no other but {' and '.join(_OPTIONS)}, "
            f"got {', '.join(map(str, content))}."
        )
    if not isinstance(content["benchmark"], dict):
        raise ValueError(f"benchmark must have the keys seed, model and data, got {content['benchmark']!r}.")
    sharing = content.get("share_embeddings", "auto")
    if not isinstance(sharing, str | bool) or sharing not in _SHARING:
        raise ValueError(f"share_embeddings must be auto or off, got {sharing!r}.")
    accelerators = _accelerators(content["accelerator"])
    configs = list(expand_grid(content["benchmark"]))
    for config in configs:
        _check_keys(config)
    register()
    configs = [{**config, "data": data} for config in configs for data in _each_class(config["data"])]
    output = content.get("output")
    return Configuration(
        jobs=_jobs(configs, accelerators),
        config_hash=digest(content),
        output=None if output is None else Path(output),
        share_embeddings=_SHARING[sharing],
    )


def _accelerators(named: object) -> list[str]:
    if not named:
        raise ValueError(f"accelerator must be cpu or cuda, or a list of them, got {named!r}.")
    found = []
    for name in named if isinstance(named, list) else [named]:
        if name not in _ACCELERATORS:
            raise ValueError(f"accelerator must be cpu or cuda (gpu is the same), got {name!r}.")
        found.append(_ACCELERATORS[name])
        if found[-1] == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"accelerator must be there, got {name!r} on a machine where torch finds no CUDA; use cpu."
            )
    return found


def _check_keys(config: Mapping[str, Any]) -> None:
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
                "arguments belong below init_args."
            )
        if not isinstance(section.setdefault("init_args", {}), dict):
            raise ValueError(f"benchmark.{part}.init_args must be arguments, got {section['init_args']!r}.")


def _each_class(section: dict[str, Any]) -> Iterator[dict[str, Any]]:
    arguments = section["init_args"]
    if arguments.get("normal_class") != ALL:
        yield section
        return
    for name in class_names(section):
        yield {**section, "init_args": {**arguments, "normal_class": name}}


def _jobs(configs: list[dict[str, Any]], accelerators: list[str]) -> list[Job]:
    with warnings_only():  # anomalib tells of each model that is built, here for a look only
        _once([config["model"] for config in configs], check_model)
        # the seed draws a split, and does not change what is there
        modules = _once([config["data"] for config in configs], check_data)
    models = distinct_labels(
        [config["model"]["class_path"].rpartition(".")[2] for config in configs],
        [config["model"]["init_args"] for config in configs],
    )
    names = [str(module.name) for module in modules]
    settings = [{**config["data"]["init_args"]} for config in configs]
    for one in settings:
        for name in ("normal_class", "category", "seed"):
            one.pop(name, None)
    datasets = distinct_labels(names, settings)
    jobs = [
        Job(
            accelerator=accelerator,
            seed=config["seed"],
            model=config["model"],
            data=_with_seed(config["data"], config["seed"]),
            label=f"{model} on {accelerator}" if len(accelerators) > 1 else model,
            dataset=dataset,
            category=str(module.category or ""),
        )
        for accelerator in accelerators
        for config, model, dataset, module in zip(configs, models, datasets, modules, strict=True)
    ]
    _refuse_twins(jobs)
    return jobs


def _once(sections: list[dict[str, Any]], check: Callable[[dict[str, Any]], T]) -> list[T]:
    """Result of a check for each section; equal ones are checked once."""
    results: dict[str, T] = {}
    for section in sections:
        if (key := digest(section)) not in results:
            results[key] = check(section)
    return [results[digest(section)] for section in sections]


def _refuse_twins(jobs: list[Job]) -> None:
    """One row for each model, data set, class and seed: a table with two has lost one of them."""
    first: dict[tuple[str, str, str, int], Job] = {}
    for job in jobs:
        key = (job.label, job.dataset, job.category, job.seed)
        if key in first:
            raise ValueError(f"jobs must differ, got two of {job.description}; remove one, or what repeats it.")
        first[key] = job


def _with_seed(section: dict[str, Any], seed: int) -> dict[str, Any]:
    """The data's section with the job's seed as the seed of its split, unless it names one.

    An unseeded split draws from the global generator, which every model leaves in another state: models would be
    compared on different test images.
    """
    if not takes(section, "seed"):
        return section
    return {**section, "init_args": {"seed": seed, **section["init_args"]}}
