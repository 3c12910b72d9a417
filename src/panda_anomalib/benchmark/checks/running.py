"""All checks of a benchmark, class by class, into ``checks.json``."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from panda_anomalib.atomic import write_atomically
from panda_anomalib.benchmark.checks.check import Check
from panda_anomalib.benchmark.checks.duplicates import DUPLICATES, check_duplicates
from panda_anomalib.benchmark.checks.scores import SOURCES, check_shuffled_labels, check_sign, check_sources
from panda_anomalib.benchmark.jobs import Job
from panda_anomalib.benchmark.sections import build_data
from panda_anomalib.benchmark.shared.embedding_file import EmbeddingFile, image_key
from panda_anomalib.models.bank_record import file_digests
from panda_anomalib.progress import track
from panda_anomalib.quiet import warnings_only

__all__ = ["run_checks"]

logger = logging.getLogger(__name__)


def run_checks(folder: Path, jobs: Sequence[Job], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Check every class of every data set of which a job is done, on the split of the first seed.

    Args:
        folder: Of the results; takes ``checks.json`` and the pictures.
        jobs: Of the benchmark.
        table: Its rows.

    Returns:
        The entries of ``checks.json``.
    """
    done = table[table["status"] == "done"]
    first: dict[tuple[str, str], Job] = {}
    for job in jobs:
        first.setdefault((job.dataset, job.category), job)
    files = [EmbeddingFile(path.parent, {}) for path in sorted(folder.glob("embeddings/*/about.json"))]
    look = _Looks(folder, files, {})
    entries: list[dict[str, Any]] = []
    for (dataset, category), job in track(list(first.items()), "Checks of the protocol"):
        own = done[(done["dataset"] == dataset) & (done["category"] == category)]
        if own.empty:
            continue
        found = [check_shuffled_labels(own, folder), check_sign(own), *look.at_images(job, own)]
        entries += [check.entry(dataset, category) for check in found]
    text = json.dumps(entries, indent=1)
    write_atomically(folder / "checks.json", lambda path: path.write_text(text, encoding="utf-8"))
    for entry in entries:
        if entry["status"] in ("failed", "warning"):
            logger.warning("%s %s, %s: %s", *(entry[key] for key in ("dataset", "category", "name", "text")))
    return entries


@dataclass
class _Looks:
    """What looks at images share: each file is hashed once."""

    folder: Path
    files: list[EmbeddingFile]
    digests: dict[str, str]

    def at_images(self, job: Job, done: pd.DataFrame) -> list[Check]:
        """Checks of the images of a job's data, for finished jobs ``done`` on them."""
        place = f"checks/{job.dataset}-{job.category}".rstrip("-").replace(" ", "_")
        try:
            train, test = _images(job)
            new = [path for path in (*train, *test) if path not in self.digests]
            self.digests.update(zip(new, file_digests(new), strict=True))
            embeddings = _embeddings(self.files, train, test)
            duplicates = check_duplicates(train, test, embeddings, self.folder, place)
        except Exception as error:  # noqa: BLE001 - results are there: a look that fails does not undo them
            reason = f"The images could not be looked at: {' '.join(str(error).split())}"
            return [Check(name, "not run", None, reason) for name in (SOURCES, DUPLICATES)]
        known, tested = ([self.digests[path] for path in paths] for paths in (train, test))
        return [check_sources(done, known, tested), duplicates]


def _images(job: Job) -> tuple[list[str], list[str]]:
    """Paths of training and test images."""
    with warnings_only():
        datamodule = build_data(job.data)
        datamodule.prepare_data()
        datamodule.setup(TrainerFn.FITTING)
    train, test = (datamodule.train_data.samples["image_path"], datamodule.test_data.samples["image_path"])
    return [str(path) for path in train], [str(path) for path in test]


def _embeddings(files: list[EmbeddingFile], train: list[str], test: list[str]) -> tuple[Tensor, Tensor] | None:
    """Of the first kind of embeddings that has all images, at unit length."""
    keys = [[image_key(path) for path in paths] for paths in (train, test)]
    for file in files:
        if all(key in file.positions for part in keys for key in part):
            rows = [file.rows.read(file.find(part)) for part in keys]
            known, tested = (part / part.norm(dim=1, keepdim=True).clamp_min(1e-12) for part in rows)
            return known, tested
    return None
