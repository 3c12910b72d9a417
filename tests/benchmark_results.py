"""Results folders as the benchmark's runner writes them, drawn so that every number of a report is known."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Job = tuple[dict[str, Any], pd.DataFrame | None]


def job(model: str, dataset: str, category: str, seed: int = 0, **columns: Any) -> dict[str, Any]:
    """A row of a finished job; columns given by name replace the usual ones, dots written as two underscores."""
    key = f"{model}|{dataset}|{category}|{seed}|{columns.get('accelerator', 'cpu')}"
    return {
        "job_id": hashlib.sha256(key.encode()).hexdigest()[:12],
        "config_hash": "c0ffee",
        "status": "done",
        "error": "",
        "model": model,
        "model_class": model.split(maxsplit=1)[0],
        "dataset": dataset,
        "category": category,
        "seed": seed,
        "accelerator": "cpu",
        "threshold_source": "training images",
        "false_positive_rate": 0.05,
        "num_train": 100,
        "fit_seconds": 2.0,
        "test_seconds": 1.0,
        "job_seconds": 4.0,
        "peak_memory_mib": 900.0,
        "bank_mib": 5.0,
        "shared_embeddings": False,
        "started": f"2026-01-02T03:04:{seed:02}",
        "commit": "1234567",
        "weights_sha256": "abcdef",
        "versions": json.dumps({"python": "3.11.7", "torch": "2.10.0"}),
        "machine": json.dumps({"cores": 2, "gpu": None}),
        **{name.replace("__", "."): value for name, value in columns.items()},
    }


def scores(
    normal: NDArray[np.float64] | list[float],
    anomalous: NDArray[np.float64] | list[float],
    *,
    threshold: float | None = None,
    prefix: str = "test",
) -> pd.DataFrame:
    """Table of test images from their distances; with a threshold it has verdicts."""
    distances = np.concatenate([np.asarray(normal, float), np.asarray(anomalous, float)])
    labels = np.repeat([0, 1], [len(normal), len(anomalous)])
    paths = [f"{prefix}/{label}/{number:05}.png" for number, label in enumerate(labels)]
    table = pd.DataFrame({"image_path": paths, "label": labels, "distance": distances, "score": distances})
    return table if threshold is None else table.assign(anomalous=distances > threshold)


def measured(row: dict[str, Any], table: pd.DataFrame) -> Job:
    """The row with what an evaluator would have counted on these scores, unless it is set."""
    anomalous = table["label"] == 1
    pairs = table["distance"][anomalous].to_numpy()[:, None] - table["distance"][~anomalous].to_numpy()[None]
    counted: dict[str, Any] = {
        "image_AUROC": float((pairs > 0).mean() + (pairs == 0).mean() / 2),
        "num_test_normal": int((~anomalous).sum()),
        "num_test_anomalous": int(anomalous.sum()),
    }
    if "anomalous" in table:
        counted["image_FalseAlarmRate"] = float(table["anomalous"][~anomalous].mean())
        counted["image_MissRate"] = float(1 - table["anomalous"][anomalous].mean())
    return {**counted, **row}, table


def write_results(folder: Path, jobs: list[Job], checks: list[dict[str, Any]] | None = None) -> Path:
    """Write the folder of `panda_anomalib.benchmark.schema`; jobs without scores have none."""
    for row, table in jobs:
        place = folder / "jobs" / row["job_id"]
        place.mkdir(parents=True)
        (place / "row.json").write_text(json.dumps(row))
        if table is not None:
            table.to_parquet(place / "scores.parquet", index=False)
    rows = pd.DataFrame([row for row, _ in jobs])
    rows.to_csv(folder / "results.csv", index=False)
    rows.to_parquet(folder / "results.parquet", index=False)
    if checks is not None:
        (folder / "checks.json").write_text(json.dumps(checks))
    return folder


def typical_results(folder: Path, rng: np.random.Generator) -> Path:
    """Three models, two data sets of two classes, two seeds, one failed job, one threshold from test images, checks.

    Anomalous distances are normally distributed around a shift, normal ones around 0: AUROC is about
    ``Phi(shift / sqrt(2))``.
    """
    shifts = {"Dn2 knn": 2.5, "Dn2 center": 1.5, "Patchcore": 2.3}
    jobs: list[Job] = []
    for dataset, categories in {"cifar10": ["airplane", "cat"], "wbc": ["lymphocyte", "monocyte"]}.items():
        for category in categories:
            for seed in (0, 1):
                easy = rng.normal(size=200), rng.normal(size=300)
                for model, shift in shifts.items():
                    source = "test images" if model == "Patchcore" else "training images"
                    row = job(model, dataset, category, seed, threshold_source=source)
                    if (model, category, seed) == ("Patchcore", "monocyte", 1):
                        failed = {"status": "failed", "error": "RuntimeError: coreset is <empty> & 'odd'"}
                        jobs.append((row | failed, None))
                        continue
                    noise = rng.normal(scale=0.5, size=500)
                    table = scores(easy[0] + noise[:200], easy[1] + shift + noise[200:], threshold=1.8)
                    jobs.append(measured(row, table))
    checks = [
        {"name": "near-duplicates", "dataset": "wbc", "category": "monocyte", "status": "warning", "value": 3,
         "text": "3 test images are near-duplicates of training images.", "pictures": []},
        {"name": "shuffled labels", "dataset": "cifar10", "category": None, "status": "ok", "value": 0.503,
         "text": "AUROC of shuffled labels is 0.5.", "pictures": []},
    ]  # fmt: skip
    return write_results(folder, jobs, checks)
