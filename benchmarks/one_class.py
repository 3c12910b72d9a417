"""AUROC of readouts and scorers on one-class data sets: every image's embedding is computed once.

    python benchmarks/one_class.py --root datasets --sets cifar10 fashion_mnist_1000 wbc mvtec_screw_512

For each normal class the scorers are fitted on its training images and score the whole test set, as the command line
does; ``results/one_class_<backbone>.csv`` gets one row for each set, class, seed and configuration, the ``.json``
beside it where it came from. Nothing is chosen here: the configurations are listed below.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from provenance import provenance
from rich.progress import track
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader

from panda_anomalib import Dn2
from panda_anomalib.backbones import EmbeddingNormalization, make_runtime
from panda_anomalib.backbones.runtimes import choose_runtime
from panda_anomalib.calibration import Calibration
from panda_anomalib.data import PredictImages
from panda_anomalib.data.splits import split_one_class
from panda_anomalib.scorers import make_scorer

RESULTS = Path(__file__).parent / "results"
SETS: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "fashion_mnist_1000": {},
    "wbc": {"classes": ["neutrophil", "lymphocyte", "monocyte", "eosinophil"], "seeds": range(5)},
    "mvtec_screw_512": {"normal": ["good"]},
}
POOLINGS = ["avg", "max", "gem"]

Configuration = tuple[list[str], dict[str, Any], str, dict[str, Any]]
NONE, L2, ROOT = {"kind": "none"}, {"kind": "l2"}, {"kind": "power_l2", "power": 0.5}
CONFIGURATIONS: dict[str, Configuration] = {
    # the scorers of the independent reference
    "knn2": (["avg"], NONE, "knn", {"num_neighbors": 2}),
    "knn2_norm": (["avg"], L2, "knn", {"num_neighbors": 2}),
    "center": (["avg"], NONE, "center", {}),
    "center_norm": (["avg"], L2, "center", {}),
    "km1": (["avg"], NONE, "kmeans", {"num_means": 1}),
    "km3": (["avg"], NONE, "kmeans", {"num_means": 3}),
    "km5": (["avg"], NONE, "kmeans", {"num_means": 5}),
    "km10": (["avg"], NONE, "kmeans", {"num_means": 10}),
    "km10_norm": (["avg"], L2, "kmeans", {"num_means": 10}),
    "white64_knn": (["avg"], NONE, "whitening", {"shrinkage": 0.0, "n_components": 64}),
    "white128_knn": (["avg"], NONE, "whitening", {"shrinkage": 0.0, "n_components": 128}),
    "white256_knn": (["avg"], NONE, "whitening", {"shrinkage": 0.0, "n_components": 256}),
    "white256_center": (["avg"], NONE, "whitening", {"shrinkage": 0.0, "n_components": 256, "score": "center"}),
    # other readouts
    "root_knn1": (["avg"], ROOT, "knn", {"num_neighbors": 1}),
    "root_knn2": (["avg"], ROOT, "knn", {"num_neighbors": 2}),
    "root_knn5": (["avg"], ROOT, "knn", {"num_neighbors": 5}),
    "gem_root_knn2": (["gem"], ROOT, "knn", {"num_neighbors": 2}),
    "max_root_knn2": (["max"], ROOT, "knn", {"num_neighbors": 2}),
    "avgmax_root_knn2": (["avg", "max"], ROOT, "knn", {"num_neighbors": 2}),
    "default": (["avg"], ROOT, "whitening", {}),
    "default_knn3": (["avg"], ROOT, "whitening", {"num_neighbors": 3}),
    "gem_root_white_knn2": (["gem"], ROOT, "whitening", {}),
}
CALIBRATED = {"default", "root_knn2", "knn2"}  # thresholds are looked at for these; elsewhere they cost ten fits


class _AllPoolings(nn.Module):
    """The network once, its last feature map pooled in each way, one behind the other."""

    def __init__(self, model: Dn2) -> None:
        super().__init__()
        self.backbone = model.model.backbone
        self.backbone.poolings = POOLINGS

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)


def embed(model: Dn2, paths: list[Path], cache: Path) -> dict[str, dict[str, Tensor]]:
    """Embeddings by pooling and path, from the cache if they are there."""
    if cache.is_file():
        stored = torch.load(cache, weights_only=True)
        if {str(path) for path in paths} <= set(stored["paths"]):
            return {kind: dict(zip(stored["paths"], stored[kind], strict=True)) for kind in POOLINGS}
    images = PredictImages(paths)
    model.pre_processor.install(images)
    normalize = model.pre_processor.transform.transforms[-1]
    model.model.backbone.load_weights()
    runtime = make_runtime(choose_runtime("auto", torch.device("cpu"), len(paths)), _AllPoolings(model))
    loader = DataLoader(images, batch_size=32, num_workers=2, collate_fn=images.collate_fn)
    whole, done = torch.empty(0), 0  # one piece: thousands of small ones keep the memory between them from being reused
    with torch.no_grad():
        for batch in track(loader, description=cache.stem):
            rows = runtime(normalize(batch.image))
            whole = whole if done else torch.empty(len(images), rows.shape[1])
            whole[done : done + len(rows)] = rows
            done += len(rows)
    embeddings = dict(zip(POOLINGS, whole.chunk(len(POOLINGS), dim=1), strict=True))
    cache.parent.mkdir(parents=True, exist_ok=True)
    names = [str(path) for path in images.paths]
    torch.save({"paths": names, **embeddings}, cache)
    return {kind: dict(zip(names, rows, strict=True)) for kind, rows in embeddings.items()}


def evaluate(train: dict[str, Tensor], test: dict[str, Tensor], labels: np.ndarray, name: str) -> dict[str, float]:
    """Metrics of one configuration on pooled embeddings by pooling."""
    poolings, normalization, scorer_name, arguments = CONFIGURATIONS[name]
    normalize = EmbeddingNormalization(**normalization, num_parts=len(poolings))
    scorer = make_scorer(scorer_name, **arguments)
    calibrate = name in CALIBRATED
    scorer.fit(normalize(torch.cat([train[kind] for kind in poolings], dim=1)), calibrate=calibrate)
    distances = torch.cat(
        [scorer(normalize(rows)) for rows in torch.cat([test[kind] for kind in poolings], dim=1).split(1000)]
    )
    auroc = {"auroc": roc_auc_score(labels, distances.numpy())}
    if not calibrate:
        return auroc
    calibration = Calibration(0.05)
    calibration.fit(scorer.calibration_distances())
    flagged = (distances > calibration.threshold).numpy()
    return {
        **auroc,
        "false_alarm_rate": flagged[labels == 0].mean(),
        "miss_rate": 1 - flagged[labels == 1].mean(),
    }


def run(
    set_name: str, root: Path, model: Dn2, cache: Path, names: list[str], *, train_images: int | None
) -> Iterator[list[dict[str, Any]]]:
    """Rows of one data set, class by class."""
    protocol = SETS[set_name]
    folder = root / set_name
    classes = protocol.get("classes")
    layout = folder / "test" if (folder / "test").is_dir() else folder
    normal_classes = protocol.get("normal") or classes or sorted(p.name for p in layout.iterdir() if p.is_dir())

    def split(normal_class: str, seed: int) -> Any:
        found = split_one_class(
            folder, [normal_class], classes=classes, train_dir="train", test_dir="test", test_split_ratio=0.2, seed=seed
        )
        paths = found.train[normal_class]
        order = np.random.default_rng(seed).permutation(len(paths))[:train_images]
        return found._replace(train={normal_class: [paths[i] for i in np.sort(order)]})

    jobs = list(itertools.product(normal_classes, protocol.get("seeds", [0])))
    splits = {job: split(*job) for job in jobs}
    paths = {path for s in splits.values() for part in (s.train, s.test) for path in itertools.chain(*part.values())}
    embeddings = embed(model, sorted(paths), cache / f"{model.model.backbone.name}_{set_name}.pt")
    for normal_class, seed in track(jobs, description=f"{set_name}: scorers"):
        chosen = splits[normal_class, seed]
        images = [(path, name != normal_class) for name, found in chosen.test.items() for path in found]
        labels = np.array([label for _, label in images])
        train = {
            kind: torch.stack([by_path[str(p)] for p in chosen.train[normal_class]])
            for kind, by_path in embeddings.items()
        }
        test = {kind: torch.stack([by_path[str(p)] for p, _ in images]) for kind, by_path in embeddings.items()}
        rows = []
        for name in names:
            if (CONFIGURATIONS[name][3].get("n_components") or 0) >= len(chosen.train[normal_class]):
                continue  # more components than such a small class has
            start = time.perf_counter()
            metrics = evaluate(train, test, labels, name)
            counts = {
                "train": len(chosen.train[normal_class]),
                "test": len(images),
                "seconds": time.perf_counter() - start,
            }
            key = {"set": set_name, "class": normal_class, "seed": seed, "configuration": name}
            rows.append({**key, **metrics, **counts})
        yield rows


def main() -> None:
    """Run and save after every data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("datasets"), help="folder of the unpacked data sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--resize", type=int, help="shorter side instead of the weights' own")
    parser.add_argument("--crop", type=int, help="centre crop instead of the weights' own")
    parser.add_argument("--configurations", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--train_images", type=int, help="so many training images of each class, drawn by the seed")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/panda_anomalib/embeddings")
    arguments = parser.parse_args()
    started = time.time()
    model = Dn2(backbone=arguments.backbone, resize=arguments.resize, crop=arguments.crop)
    size = f"_{arguments.crop}" if arguments.crop else ""
    part = f"_train{arguments.train_images}" if arguments.train_images else ""
    target = RESULTS / f"one_class_{arguments.backbone}{size}{part}.csv"
    rows: list[dict[str, Any]] = []
    RESULTS.mkdir(exist_ok=True)
    for set_name in arguments.sets:
        cache = arguments.cache / (size or "default")
        for found in run(
            set_name, arguments.root, model, cache, arguments.configurations, train_images=arguments.train_images
        ):
            rows += found
            pd.DataFrame(rows).to_csv(
                target, index=False, float_format="%.6g"
            )  # nothing is lost when a later one fails
        model.model.backbone.load_weights()  # for the provenance, when all embeddings came from the cache
        report = {**provenance(), "seconds": round(time.time() - started), "weights": model.model.backbone.provenance}
        target.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
        table = pd.DataFrame(rows)
        means = table[table["set"] == set_name].groupby("configuration", sort=False)["auroc"].mean()
        print(set_name, (100 * means).round(2).to_string(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
