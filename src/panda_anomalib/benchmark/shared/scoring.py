"""A job whose embeddings are there: scorer, threshold and metrics, without a trainer."""

import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from panda_anomalib.benchmark.jobs import digest
from panda_anomalib.benchmark.measuring import PeakMemory, state_mib
from panda_anomalib.benchmark.outcome import Outcome, describe_threshold, rates
from panda_anomalib.benchmark.shared.embedding_file import EmbeddingFile, path_of
from panda_anomalib.benchmark.shared.planning import SharedJob
from panda_anomalib.calibration import Calibration
from panda_anomalib.evaluation import image_metrics
from panda_anomalib.quiet import warnings_only

__all__ = ["in_reading_order", "score_shared"]

_AT_ONCE = 512  # test images: a batch does not change a distance, see the scorers


def in_reading_order(jobs: Sequence[SharedJob]) -> Iterator[tuple[SharedJob, str]]:
    """Jobs with the key of what they compute; jobs of one key follow each other.

    Seeds that draw no split, as those of the published data sets, change nothing in a frozen model.
    """
    keyed: dict[str, list[SharedJob]] = {}
    for shared in jobs:
        keyed.setdefault(digest([shared.job.model, shared.train_keys, shared.test.keys]), []).append(shared)
    for key, equal in keyed.items():
        for shared in equal:
            yield shared, key


def score_shared(shared: SharedJob, file: EmbeddingFile, device: str) -> Outcome:
    """Fit the scorer on the embeddings of the training images and score those of the test images.

    The result is that of `panda_anomalib.benchmark.alone`, bit for bit where the runtime works in batches of one size.

    Raises:
        ValueError: As the fit of the model, or if a distance is not finite.
    """
    start = time.perf_counter()
    model: Any = shared.model
    with PeakMemory(device) as memory, warnings_only(), torch.no_grad():
        model.to(device)
        model.model.scorer = model.build_scorer().to(device)
        model.post_processor = Calibration(
            model.post_processor.false_positive_rate, logits=model.model.scorer.gives_logits
        ).to(device)
        empty = state_mib(model)
        paths = [path_of(key) for key in shared.train_keys]
        model.fit_embeddings(
            model.model.normalization(_rows(file, shared.train_keys).to(device)), paths, digests=[""] * len(paths)
        )
        fitted = time.perf_counter()
        bank = state_mib(model) - empty
        scores = _score(model, shared, file, device)
    end = time.perf_counter()
    fit_share, test_share = (file.seconds_per_image * len(keys) for keys in (shared.train_keys, shared.test.keys))
    return Outcome(
        {
            "status": "done",
            "error": "",
            **rates(scores),
            **image_metrics(scores["distance"].to_numpy(), scores["anomalous"].to_numpy(), shared.test.labels),
            **describe_threshold(model, None),
            "num_train": len(paths),
            "fit_seconds": fitted - start + fit_share,
            "test_seconds": end - fitted + test_share,
            "job_seconds": end - start + fit_share + test_share,
            "extract_seconds": fit_share + test_share,
            "peak_memory_mib": memory.mib,
            "bank_mib": max(bank, 0.0),
            "shared_embeddings": True,
            "weights_sha256": str(file.provenance.get("sha256", "")),
        },
        scores,
    )


def _score(model: Any, shared: SharedJob, file: EmbeddingFile, device: str) -> pd.DataFrame:
    embeddings = model.model.normalization(_rows(file, shared.test.keys).to(device))
    distances = torch.cat([model.model.scorer(rows) for rows in embeddings.split(_AT_ONCE)])
    if bad := int((~torch.isfinite(distances)).sum()):
        raise ValueError(f"distances must be finite, got NaN or infinity for {bad} of {len(distances)} test images.")
    batch = SimpleNamespace(distance=distances)
    model.post_processor.post_process_batch(batch)
    return pd.DataFrame(
        {
            "image_path": shared.test.paths,
            "label": shared.test.labels.astype(np.int64),
            "distance": distances.double().cpu().numpy(),
            "score": batch.pred_score.double().cpu().numpy(),
            "anomalous": batch.pred_label.bool().cpu().numpy(),
            "p_value": batch.p_value.double().cpu().numpy(),
        }
    )


def _rows(file: EmbeddingFile, keys: Sequence[str]) -> torch.Tensor:
    return file.rows(np.array([file.positions[key] for key in keys], dtype=np.int64))
