"""A job on its own: train, test, measure, by anomalib's Engine."""

import contextlib
import io
import math
import time
from tempfile import TemporaryDirectory
from typing import Any

from lightning import seed_everything

from panda_anomalib.benchmark.collecting import ScoreCollector
from panda_anomalib.benchmark.jobs import Job
from panda_anomalib.benchmark.measuring import PeakMemory, state_mib
from panda_anomalib.benchmark.outcome import Outcome, describe_threshold, rates
from panda_anomalib.benchmark.provenance import weights_sha256
from panda_anomalib.benchmark.sections import build_data, build_model
from panda_anomalib.engine import Engine
from panda_anomalib.quiet import warnings_only

__all__ = ["run_alone"]


def run_alone(job: Job) -> Outcome:
    """Train the model on the data set and test it; nothing is left on disk.

    Model and data are built after the seed is set: equal seeds give equal weights, and a model that cannot be built
    fails its own job only.

    Raises:
        Exception: Whatever building, training or testing raised.
    """
    start = time.perf_counter()
    seed_everything(job.seed, workers=True, verbose=False)
    collector = ScoreCollector()
    with (
        PeakMemory(job.accelerator) as memory,
        warnings_only(),
        contextlib.redirect_stdout(io.StringIO()),  # the summary of each test: ours is one for all
        TemporaryDirectory() as folder,
    ):
        model, datamodule = build_model(job.model), build_data(job.data)
        empty = state_mib(model)
        engine = Engine(
            accelerator="gpu" if job.accelerator == "cuda" else "cpu",
            devices=1,
            default_root_dir=folder,
            callbacks=[collector],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        fit_start = time.perf_counter()
        engine.fit(model, datamodule=datamodule)
        test_start = time.perf_counter()
        bank = state_mib(model) - empty
        metrics = engine.test(model, datamodule=datamodule, verbose=False)[0]
        end = time.perf_counter()
    scores = collector.table()
    return Outcome(
        {
            "status": "done",
            "error": "",
            **rates(scores),
            **{name: _number(value) for name, value in metrics.items()},
            **describe_threshold(model, datamodule),
            "num_train": len(datamodule.train_data),
            "fit_seconds": test_start - fit_start,
            "test_seconds": end - test_start,
            "job_seconds": end - start,
            "peak_memory_mib": memory.mib,
            "bank_mib": max(bank, 0.0),
            "shared_embeddings": False,
            "weights_sha256": weights_sha256(model),
        },
        scores,
    )


def _number(value: Any) -> float | None:
    """None for what is undefined, which JSON has no number for."""
    return float(value) if math.isfinite(float(value)) else None
