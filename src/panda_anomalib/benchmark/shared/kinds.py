"""Which jobs may share the embeddings of one pass, and what these depend on."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule

from panda_anomalib.backbones.runtimes import choose_runtime
from panda_anomalib.benchmark.jobs import Job
from panda_anomalib.models.dn2 import Dn2

__all__ = ["embedding_kind"]

_OWN_PARTS = ("pre_processor", "post_processor", "evaluator")
_OF_THE_BACKBONE = {"backbone", "weights", "backbone_args", "pooling", "resize", "crop"}
_OF_THE_BANK = {"scorer", "scorer_args", "num_neighbors", "normalization", "power", "false_positive_rate", "cleaning"}
_KNOWN = {"runtime", "visualizer", "keep_embeddings", *_OWN_PARTS, *_OF_THE_BACKBONE, *_OF_THE_BANK}


def embedding_kind(job: Job, model: Any, datamodule: AnomalibDataModule) -> dict[str, Any] | None:
    """Everything that the embeddings of a job depend on beside the image; None if it must run alone.

    Args:
        job: The job.
        model: As its configuration builds it.
        datamodule: The same, set up.
    """
    if type(model) is not Dn2 or any(job.model["init_args"].get(part, True) is not True for part in _OWN_PARTS):
        return None
    if set(model.hparams) - _KNOWN:  # a later option, of which nobody has said here what it changes
        return None
    if any(getattr(datamodule, f"{part}_augmentations", None) is not None for part in ("train", "test")):
        return None
    settings = {name: model.hparams[name] for name in sorted(_OF_THE_BACKBONE)}
    images = len(datamodule.train_data) + len(datamodule.test_data)
    try:
        runtime = choose_runtime(model.hparams["runtime"], torch.device(job.accelerator), images)
    except ValueError:  # it cannot run here: the job fails with that
        return None
    kind = {
        **settings,
        "runtime": runtime,
        "batch_size": datamodule.train_batch_size,  # which a runtime works in, and the last digits depend on
        "accelerator": job.accelerator,
        "reader": f"{type(datamodule.train_data).__module__}.{type(datamodule.train_data).__qualname__}",
        "torch": version("torch"),
        "timm": version("timm"),
    }
    if runtime.startswith("openvino"):
        kind["openvino"] = version("openvino")
    if settings["weights"] == "random":
        kind["seed"] = job.seed
    elif (file := Path(str(settings["weights"]))).is_file():
        kind["weights_file"] = [file.stat().st_size, file.stat().st_mtime_ns]
    return kind
