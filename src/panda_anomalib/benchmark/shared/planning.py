"""From jobs to groups that share embeddings: data sets are set up once, and each image is embedded once."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from anomalib.data import AnomalibDataModule
from lightning import seed_everything
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray

from panda_anomalib.benchmark.jobs import Job, digest
from panda_anomalib.benchmark.sections import build_data, build_model
from panda_anomalib.benchmark.shared.embedding_file import EmbeddingFile, image_key, path_of
from panda_anomalib.benchmark.shared.extraction import Source, extract
from panda_anomalib.benchmark.shared.kinds import embedding_kind
from panda_anomalib.models.dn2 import Dn2
from panda_anomalib.progress import track
from panda_anomalib.quiet import warnings_only

__all__ = ["Group", "SharedJob", "TestImages", "plan_groups"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TestImages:
    """Images ``(M,)`` of a test set: their keys, paths as the data set has them, and labels."""

    keys: list[str]
    paths: list[str]
    labels: NDArray[np.bool_]


class SharedJob(NamedTuple):
    """A job with its images: the training images in the order of a fit, by absolute path."""

    job: Job
    train_keys: list[str]
    test: TestImages
    images: str
    """Hash of both: jobs of different seeds may have the same."""


@dataclass
class Group:
    """Jobs with embeddings of one kind."""

    kind: dict[str, Any]
    model: Dn2
    """Of one of the jobs: the network is that of all."""
    jobs: list[SharedJob] = field(default_factory=list)
    sources: dict[str, Source] = field(default_factory=dict)
    """Where each image of the jobs is read, by its key."""

    def embeddings(self, folder: Path) -> EmbeddingFile:
        """The embeddings of all images, after a pass over those that are not there yet.

        Raises:
            Exception: Whatever the pass raised.
        """
        file = EmbeddingFile(folder / digest(self.kind), self.kind)
        missing = {key: source for key, source in self.sources.items() if key not in file.positions}
        if missing:
            extract(
                self.model,
                missing,
                file,
                runtime=self.kind["runtime"],
                batch_size=self.kind["batch_size"],
                device=self.kind["accelerator"],
            )
        return file


class _Images(NamedTuple):
    datamodule: AnomalibDataModule
    train_keys: list[str]
    test: TestImages
    digest: str


def plan_groups(jobs: Sequence[Job]) -> tuple[list[Group], list[Job]]:
    """Sort jobs into groups that share embeddings, and others that run alone.

    What cannot be looked at here, because images are missing or damaged, is left to run, and fail, alone.
    """
    groups: dict[str, Group] = {}
    models: dict[str, Any] = {}
    by_data: dict[str, list[Job]] = {}
    for job in jobs:
        if job.model["class_path"].rpartition(".")[2] == Dn2.__name__:
            by_data.setdefault(digest(job.data), []).append(job)
    keys = _Keys()
    for own in track(list(by_data.values()), "Data sets", after=2):
        if (images := _set_up(own[0], keys)) is None:
            continue
        for job in own:
            model = _model(job, models)
            if (kind := embedding_kind(job, model, images.datamodule)) is None:
                continue
            group = groups.setdefault(digest(kind), Group(kind, model))
            group.jobs.append(SharedJob(job, images.train_keys, images.test, images.digest))
            _add_sources(group, images, keys)
    grouped = {shared.job.job_id for group in groups.values() for shared in group.jobs}
    return list(groups.values()), [job for job in jobs if job.job_id not in grouped]


class _Keys(dict[str, str]):
    """Key of each path; files are looked at once, however many jobs name them."""

    def __missing__(self, path: str) -> str:
        self[path] = image_key(path)
        return self[path]


def _set_up(job: Job, keys: _Keys) -> _Images | None:
    try:
        with warnings_only():
            datamodule = build_data(job.data)
            datamodule.prepare_data()
            datamodule.setup(TrainerFn.FITTING)  # the stage that keeps a validation split from being drawn twice
        train = [keys[path] for path in datamodule.train_data.samples["image_path"]]
        samples = datamodule.test_data.samples
        paths = list(samples["image_path"])
        test = TestImages([keys[path] for path in paths], paths, samples["label_index"].to_numpy() == 1)
    except Exception as error:  # noqa: BLE001 - the job itself meets it again, and its row tells it
        logger.debug("%s cannot share embeddings: %s", job.description, error)
        return None
    train.sort(key=path_of)
    return _Images(datamodule, train, test, digest([train, test.keys]))


def _model(job: Job, models: dict[str, Any]) -> Any:
    """The job's model; one of random weights for each seed, as it is when the job runs alone."""
    seed = job.seed if job.model["init_args"].get("weights") == "random" else None
    key = digest([job.model, seed])
    if key not in models:
        if seed is not None:
            seed_everything(seed, workers=True, verbose=False)
        with warnings_only():
            models[key] = build_model(job.model)
    return models[key]


def _add_sources(group: Group, images: _Images, keys: _Keys) -> None:
    for dataset in (images.datamodule.train_data, images.datamodule.test_data):
        for position, path in enumerate(dataset.samples["image_path"]):
            group.sources.setdefault(keys[path], (dataset, position))
