"""AUROC on the demo images: DN2 with packaged and with random weights, beside anomalib's models on the same network.

    python benchmarks/demo.py --seeds 0 1 2

Every model is fitted and tested by anomalib's Engine on ``Demo``, for each photograph and image seed. The sizes of the
defects were chosen on the image seeds 100 to 103. anomalib's models get the packaged weights of EfficientNet-Lite0 into
their feature extractors, tensor by tensor, and the normalisation that the weights were trained with; they see the whole
image of 256 pixels, DN2 the middle 224 as by default. The metric is ours for all of them, on raw scores: anomalib's
AUROC changes scores above 1, and its post-processing makes ties. Without validation, which only sets thresholds.
``results/demo.csv`` has one row for each photograph, seed and model; false alarms and misses are at DN2's threshold.
"""

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib.engine import Engine
from anomalib.metrics import Evaluator
from anomalib.models import Dfkde, Dfm, Padim, Patchcore
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from provenance import provenance
from torchvision.transforms.v2 import Compose, Normalize, Resize

from panda_anomalib import Demo, Dn2
from panda_anomalib.backbones.weights import PACKAGED, packaged_state_dict
from panda_anomalib.data.demo_images import CATEGORIES
from panda_anomalib.evaluation import AUROC

RESULTS = Path(__file__).parent / "results"
BACKBONE = "tf_efficientnet_lite0"
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


def on_packaged_weights(model_class: Callable[..., AnomalibModule], **arguments: Any) -> AnomalibModule:
    """One of anomalib's models on the packaged network, with our AUROC in place of its threshold and metrics."""
    auroc = AUROC(fields=["pred_score", "gt_label", "image_path"], prefix="image_")
    model = model_class(
        backbone=BACKBONE,
        pre_trained=False,
        pre_processor=PreProcessor(Compose([Resize((256, 256), antialias=True), Normalize([0.5] * 3, [0.5] * 3)])),
        post_processor=False,
        evaluator=Evaluator(test_metrics=[auroc]),
        visualizer=False,
        **arguments,
    )
    network = model.model.feature_extractor.feature_extractor
    missing, _ = network.load_state_dict(packaged_state_dict(BACKBONE), strict=False)  # it lacks the last layers
    if missing:
        raise ValueError(f"packaged weights must have every tensor of the feature extractor, got none for {missing}.")
    return model


MODELS: dict[str, Callable[[], AnomalibModule]] = {
    "dn2": lambda: Dn2(weights="packaged", visualizer=False),
    "dn2_random": lambda: Dn2(weights="random", visualizer=False),
    "padim": lambda: on_packaged_weights(Padim, layers=["blocks.1", "blocks.2", "blocks.4"], n_features=100),
    "patchcore": lambda: on_packaged_weights(Patchcore, layers=["blocks.2", "blocks.4"], coreset_sampling_ratio=0.01),
    "dfm": lambda: on_packaged_weights(Dfm, layer="blocks.6"),
    "dfkde": lambda: on_packaged_weights(Dfkde, layers=["blocks.6"]),
}


def measure(name: str, category: str, seed: int, root: Path) -> dict[str, Any]:
    """Row of one model on one photograph."""
    torch.manual_seed(seed)
    model = MODELS[name]()
    data = Demo(root / f"seed_{seed}", category, image_seed=seed)
    data.prepare_data()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(default_root_dir=folder, limit_val_batches=0, **QUIET)
        (metrics,) = engine.train(model, datamodule=data)
    row = {"category": category, "image_seed": seed, "model": name, "auroc": metrics["image_AUROC"]}
    rates = {"false_alarm_rate": metrics.get("image_FalseAlarmRate"), "miss_rate": metrics.get("image_MissRate")}
    return {**row, **rates, "seconds": time.perf_counter() - started}


def main() -> None:
    """Run and save after every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("datasets/Demo_seeds"), help="folder of the demo images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the images")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    started = time.time()
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for category in CATEGORIES:
            for name in arguments.models:
                rows.append(measure(name, category, seed, arguments.root))
                print(rows[-1], flush=True)
                pd.DataFrame(rows).to_csv(RESULTS / "demo.csv", index=False, float_format="%.6g")
    report = {**provenance(), "seconds": round(time.time() - started), "weights": PACKAGED[BACKBONE].sha256}
    (RESULTS / "demo.json").write_text(json.dumps(report, indent=2) + "\n")
    table = pd.DataFrame(rows).pivot_table(index="model", columns="category", values="auroc", sort=False)
    print((100 * table).round(1).to_string())


if __name__ == "__main__":
    main()
