"""Ours beside anomalib's models, all on the packaged EfficientNet-Lite0: AUROC, time, memory, size.

    python benchmarks/side_by_side.py --sets demo --seeds 0 1 2
    python benchmarks/side_by_side.py --sets screw --screw datasets/mvtec_screw_512

``demo`` is each photograph of ``Demo`` and each image seed (the sizes of its defects were chosen on the image seeds 100
to 103), ``screw`` the MVTec category. Every model is fitted and tested by anomalib's Engine, in a process of its own,
of which the peak memory is taken, beside what the same process had before. anomalib's models get the packaged weights
and the normalisation that they were trained with; they see the whole image of 256 pixels, ours the middle 224 as by
default. Their other arguments are their defaults, but for what a network of this size and a processor ask for: see
``MODELS``. The metric is ours for all of them, on raw scores: anomalib's AUROC changes scores above 1, and its
post-processing makes ties. Without validation, which only sets thresholds. ``results/side_by_side.csv`` has one row for
each set, category, seed and model; false alarms and misses are at the threshold that ours take from training images.
Seconds are of a machine with other work; compare them with those of the same table only.
"""

import argparse
import json
import logging
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.metrics import Evaluator
from anomalib.models import Dfkde, Dfm, Fre, Padim, Patchcore, Stfpm
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from provenance import provenance
from torchvision.transforms.v2 import Compose, Normalize, Resize

from panda_anomalib import Demo, Dn2, OneClassFolder, Panda
from panda_anomalib.backbones.timm_weights import offer_packaged_weights
from panda_anomalib.backbones.weights import PACKAGED
from panda_anomalib.data.demo_images import CATEGORIES
from panda_anomalib.evaluation import AUROC

RESULTS = Path(__file__).parent / "results"
BACKBONE = "tf_efficientnet_lite0"
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


def theirs(model_class: Callable[..., AnomalibModule], **arguments: Any) -> AnomalibModule:
    """One of anomalib's models on the packaged network, with our AUROC in place of its threshold and metrics."""
    offer_packaged_weights()
    auroc = AUROC(fields=["pred_score", "gt_label", "image_path"], prefix="image_")
    return model_class(
        backbone=BACKBONE,
        pre_processor=PreProcessor(Compose([Resize((256, 256), antialias=True), Normalize([0.5] * 3, [0.5] * 3)])),
        post_processor=False,
        evaluator=Evaluator(test_metrics=[auroc]),
        visualizer=False,
        **arguments,
    )


PAPERS = {"normalization": "none", "scorer": "knn"}
STAGES = ["blocks.1", "blocks.2", "blocks.4"]  # strides 4, 8 and 16
MODELS: dict[str, tuple[Callable[[], AnomalibModule], int]] = {  # and the passes over the training images
    "dn2": (lambda: Dn2(weights="packaged", visualizer=False), 1),
    "dn2_paper": (lambda: Dn2(weights="packaged", visualizer=False, **PAPERS), 1),
    "panda": (lambda: Panda(weights="packaged", visualizer=False, minibatches=60, stop="auto"), 100),
    "dn2_random": (lambda: Dn2(weights="random", visualizer=False), 1),
    "padim": (lambda: theirs(Padim, layers=STAGES, n_features=100), 1),
    "patchcore": (lambda: theirs(Patchcore, layers=STAGES[1:], coreset_sampling_ratio=0.01), 1),
    "dfm": (lambda: theirs(Dfm, layer="blocks.6"), 1),
    "dfkde": (lambda: theirs(Dfkde, layers=["blocks.6"]), 1),
    "fre": (lambda: theirs(Fre, layer="blocks.4", input_dim=112 * 8 * 8), 20),
    "stfpm": (lambda: theirs(Stfpm, layers=STAGES), 20),
}


def measure(name: str, data: AnomalibDataModule, seed: int) -> dict[str, Any]:
    """Metrics and costs of one model on one data set."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    before = _peak_mib()
    torch.manual_seed(seed)
    make_model, passes = MODELS[name]
    model = make_model()
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(default_root_dir=folder, limit_val_batches=0, max_epochs=passes, **QUIET)
        started = time.perf_counter()
        engine.fit(model, datamodule=data)
        fitted = time.perf_counter()
        (metrics,) = engine.test(model, datamodule=data, verbose=False)
        tested = time.perf_counter()
        checkpoint = Path(engine.best_model_path or next(Path(folder).rglob("*.ckpt"))).stat().st_size
    rates = {"false_alarm_rate": metrics.get("image_FalseAlarmRate"), "miss_rate": metrics.get("image_MissRate")}
    costs = {"fit_seconds": fitted - started, "test_seconds": tested - fitted, "memory_mib": _peak_mib() - before}
    counts = {"train": len(data.train_data), "test": len(data.test_data), "checkpoint_mib": checkpoint / 2**20}
    return {"auroc": metrics["image_AUROC"], **rates, **costs, **counts}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def jobs(arguments: argparse.Namespace) -> list[tuple[dict[str, Any], AnomalibDataModule]]:
    """What to run on: set, category and seed with the data."""
    found: list[tuple[dict[str, Any], AnomalibDataModule]] = []
    if "demo" in arguments.sets:
        for seed in arguments.seeds:
            for category in CATEGORIES:
                data = Demo(arguments.root / f"seed_{seed}", category, image_seed=seed)
                data.prepare_data()
                found.append(({"set": "demo", "category": category, "seed": seed}, data))
    if "screw" in arguments.sets:
        for seed in arguments.seeds:
            data = OneClassFolder(root=arguments.screw, normal_class="good", name="screw")
            found.append(({"set": "mvtec", "category": "screw", "seed": seed}, data))
    return found


def main() -> None:
    """Run and save after every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=["demo", "screw"], default=["demo"])
    parser.add_argument("--root", type=Path, default=Path("datasets/Demo_seeds"), help="folder of the demo images")
    parser.add_argument("--screw", type=Path, default=Path("datasets/mvtec_screw_512"), help="folder of the category")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the models and the demo images")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args()
    started, target = time.time(), RESULTS / f"side_by_side_{'_'.join(arguments.sets)}.csv"
    rows: list[dict[str, Any]] = []
    processes = multiprocessing.get_context("fork")  # with everything imported, before any thread has started
    for key, data in jobs(arguments):
        for name in arguments.models:
            with ProcessPoolExecutor(1, mp_context=processes) as process:  # which may have loading processes of its own
                rows.append({**key, "model": name, **process.submit(measure, name, data, key["seed"]).result()})
            print(rows[-1], flush=True)
            pd.DataFrame(rows).to_csv(target, index=False, float_format="%.6g")
    report = {**provenance(), "seconds": round(time.time() - started), "weights": PACKAGED[BACKBONE].sha256}
    target.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    table = pd.DataFrame(rows).pivot_table(index="model", columns="category", values="auroc", sort=False)
    print((100 * table).round(1).to_string())


if __name__ == "__main__":
    main()
