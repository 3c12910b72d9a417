"""A job whose embeddings are there: scorer, threshold and metrics, without a trainer."""

import time
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from panda_anomalib.benchmark.jobs import Job
from panda_anomalib.benchmark.measuring import PeakMemory, state_mib
from panda_anomalib.benchmark.outcome import Outcome, describe_threshold, rates
from panda_anomalib.benchmark.sections import build_model
from panda_anomalib.benchmark.shared.embedding_file import EmbeddingFile, EmbeddingRows, path_of
from panda_anomalib.benchmark.shared.planning import SharedJob
from panda_anomalib.calibration import Calibration
from panda_anomalib.evaluation import image_metrics
from panda_anomalib.quiet import warnings_only

__all__ = ["ScoringTask"]

_AT_ONCE = 512  # test images: a batch does not change a distance, see the scorers


@dataclass(frozen=True)
class ScoringTask:
    """Fits the scorer of a job on the embeddings of N training images, and scores those of M test images.

    The outcome is that of `panda_anomalib.benchmark.alone`, bit for bit where the runtime works in batches of one
    size. It can be sent to another process.

    Attributes:
        job: The job.
        train_paths: N paths, in the order of a fit.
        train: Rows ``(N,)`` of their embeddings.
        test_paths: M paths, as the data set has them.
        test: Rows ``(M,)`` of theirs.
        labels: ``(M,)``, True for anomalous.
        rows: The embeddings.
    """

    job: Job
    train_paths: list[str]
    train: NDArray[np.int64]
    test_paths: list[str]
    test: NDArray[np.int64]
    labels: NDArray[np.bool_]
    rows: EmbeddingRows

    @classmethod
    def of(cls, shared: SharedJob, file: EmbeddingFile) -> "ScoringTask":
        """Task of a job whose images are all in the file."""
        return cls(
            job=shared.job,
            train_paths=[path_of(key) for key in shared.train_keys],
            train=file.find(shared.train_keys),
            test_paths=shared.test.paths,
            test=file.find(shared.test.keys),
            labels=shared.test.labels,
            rows=file.rows,
        )

    def __call__(self) -> Outcome:
        """Do it.

        Raises:
            ValueError: As the fit of the model, or if a distance is not finite.
        """
        start = time.perf_counter()
        device = torch.device(self.job.accelerator)
        with PeakMemory(self.job.accelerator) as memory, warnings_only(), torch.no_grad():
            model = _unfitted(self.job, device)
            empty = state_mib(model)
            embeddings = model.model.normalization(self.rows.read(self.train).to(device))
            model.fit_embeddings(embeddings, self.train_paths, digests=[""] * len(self.train_paths))
            fitted = time.perf_counter()
            bank = state_mib(model) - empty
            scores = self._score(model, model.model.normalization(self.rows.read(self.test).to(device)))
        end = time.perf_counter()
        fit_share, test_share = (self.rows.seconds_per_image * len(images) for images in (self.train, self.test))
        return Outcome(
            {
                "status": "done",
                "error": "",
                **rates(scores),
                **image_metrics(scores["distance"].to_numpy(), scores["anomalous"].to_numpy(), self.labels),
                **describe_threshold(model, None),
                "num_train": len(self.train),
                "fit_seconds": fitted - start + fit_share,
                "test_seconds": end - fitted + test_share,
                "job_seconds": end - start + fit_share + test_share,
                "extract_seconds": fit_share + test_share,
                "peak_memory_mib": memory.mib,
                "bank_mib": max(bank, 0.0),
                "shared_embeddings": True,
                "weights_sha256": self.rows.provenance.get("sha256", ""),
            },
            scores,
        )

    def _score(self, model: Any, embeddings: Tensor) -> pd.DataFrame:
        distances = torch.cat([model.model.scorer(rows) for rows in embeddings.split(_AT_ONCE)])
        if bad := int((~torch.isfinite(distances)).sum()):
            raise ValueError(f"distances must be finite, got NaN or infinity for {bad} of {len(distances)} images.")
        batch = SimpleNamespace(distance=distances)
        model.post_processor.post_process_batch(batch)
        return pd.DataFrame(
            {
                "image_path": self.test_paths,
                "label": self.labels.astype(np.int64),
                "distance": distances.double().cpu().numpy(),
                "score": batch.pred_score.double().cpu().numpy(),
                "anomalous": batch.pred_label.bool().cpu().numpy(),
                "p_value": batch.p_value.double().cpu().numpy(),
            }
        )


def _unfitted(job: Job, device: torch.device) -> Any:
    """Model of a job without its network, not yet fitted."""
    model = _without_network(yaml.safe_dump(job.model)).to(device)
    model.model.scorer = model.build_scorer().to(device)
    rate = model.hparams["false_positive_rate"]
    model.post_processor = Calibration(rate, logits=model.model.scorer.gives_logits).to(device)
    return model


@lru_cache(maxsize=64)
def _without_network(section: str) -> Any:
    """Building a network takes longer than most scorers need for all their images: once for each section."""
    model = build_model(yaml.safe_load(section))
    model.model.backbone.network = nn.Identity()
    return model
