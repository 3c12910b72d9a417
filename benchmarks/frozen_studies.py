"""DN2's studies on frozen embeddings: training images, impurity, K-means, sets of images, t-SNE.

    python benchmarks/frozen_studies.py --root datasets --set cifar10

Every image's embedding is computed once, as in ``one_class.py``, with which the cache is shared. Each study writes
``results/frozen_<study>_<set>_<backbone>.csv``, one row for each class, seed and setting, and its figure beside it.
Protocols (DN2 4.4, 4.5, 5.1 and Figs. 5, 6; where the paper is silent):

- ``num_train``: N normal training images, drawn by the seed.
- ``impurity``: 2 000 training images (or as many as there are), of which a share are training images of the other
  classes; cleaning leaves out the half with the largest leave-one-out distances, as the paper does.
- ``kmeans``: C means, sum of the distances to the two nearest ones; the seed is that of k-means++.
- ``sets``: a normal set has one image of each of the first M classes in random order, an anomalous one M images of
  these classes at random (drawn again where they hold each class once); 1 000 training sets, 1 000 + 1 000 test sets.
- ``groups``: a normal set has M images of one class, an anomalous one M images of all classes; no training.
- ``tsne``: 200 test images of each class, in two dimensions, for each of the first two classes as the normal one.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from one_class import RESULTS, embed
from provenance import provenance
from rich.progress import track
from sklearn.manifold import TSNE
from sklearn.metrics import roc_auc_score
from torch import Tensor

from panda_anomalib import Dn2
from panda_anomalib.backbones import EmbeddingNormalization
from panda_anomalib.scorers import Scorer, make_scorer

Row = dict[str, Any]
Readout = tuple[EmbeddingNormalization, str, dict[str, Any]]
READOUTS: dict[str, Readout] = {
    "papers'": (EmbeddingNormalization("none"), "knn", {"num_neighbors": 2}),
    "default": (EmbeddingNormalization("power_l2", power=0.5), "whitening", {}),
}
TRAINING_IMAGES = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
IMPURITIES = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5]
IMPURE_IMAGES, CLEANED = 2000, 0.5
SET_SIZES, GROUP_SIZES, SETS = range(2, 11), [10, 20, 30, 50], 1000


class Features:
    """Pooled embeddings of a data set of folders ``{train,test}/<class>``, by class."""

    def __init__(self, model: Dn2, folder: Path, cache: Path) -> None:
        paths = {part: {p.name: sorted(p.iterdir()) for p in sorted((folder / part).iterdir())} for part in _PARTS}
        every = [path for part in paths.values() for found in part.values() for path in found]
        by_path = embed(model, sorted(every), cache / f"{model.model.backbone.name}_{folder.name}.pt")["avg"]
        self.train, self.test = (
            {name: torch.stack([by_path[str(path)] for path in found]) for name, found in paths[part].items()}
            for part in _PARTS
        )
        self.classes = list(self.train)
        self.queries = torch.cat(list(self.test.values()))
        self.labels = np.repeat(self.classes, [len(rows) for rows in self.test.values()])

    def auroc(self, scorer: Scorer, normalize: Callable[[Tensor], Tensor], normal_class: str) -> float:
        """On the whole test set; in [0, 1]."""
        distances = torch.cat([scorer(normalize(rows)) for rows in self.queries.split(1000)])
        return float(roc_auc_score(self.labels != normal_class, distances.numpy()))


_PARTS = ("train", "test")


def num_train(features: Features, seeds: list[int]) -> Iterator[Row]:
    """AUROC by number of training images."""
    for normal_class in track(features.classes, description="training images"):
        rows = features.train[normal_class]
        for count in [n for n in TRAINING_IMAGES if n < len(rows)] + [len(rows)]:
            for seed in seeds if count < len(rows) else seeds[:1]:
                chosen = rows[np.random.default_rng(seed).permutation(len(rows))[:count]]
                for name, (normalize, scorer_name, arguments) in READOUTS.items():
                    scorer = make_scorer(scorer_name, **arguments)
                    scorer.fit(normalize(chosen), calibrate=False)
                    auroc = features.auroc(scorer, normalize, normal_class)
                    yield {"class": normal_class, "seed": seed, "method": name, "num_train": count, "auroc": auroc}


def impurity(features: Features, seeds: list[int]) -> Iterator[Row]:
    """AUROC by the share of anomalous training images, with cleaning and without."""
    for normal_class in track(features.classes, description="impurity"):
        normal = features.train[normal_class]
        others = torch.cat([rows for name, rows in features.train.items() if name != normal_class])
        total = min(IMPURE_IMAGES, len(normal))
        for share, seed in [(share, seed) for share in IMPURITIES for seed in seeds]:
            rng, foreign = np.random.default_rng(seed), round(share * total)
            mixed = [
                normal[rng.permutation(len(normal))[: total - foreign]],
                others[rng.permutation(len(others))[:foreign]],
            ]
            chosen = torch.cat(mixed)
            for name, (normalize, scorer_name, arguments) in READOUTS.items():
                embeddings, nearest = normalize(chosen), make_scorer("knn", num_neighbors=2)
                nearest.fit(embeddings)
                order = torch.argsort(nearest.calibration_distances(), stable=True)
                kept = order[: total - round(CLEANED * total)]
                for method, rows in ((name, embeddings), (f"{name}, cleaned", embeddings[kept.sort().values])):
                    scorer = make_scorer(scorer_name, **arguments)
                    scorer.fit(rows, calibrate=False)
                    auroc = features.auroc(scorer, normalize, normal_class)
                    left = int((kept >= total - foreign).sum()) if "cleaned" in method else foreign
                    key = {"class": normal_class, "seed": seed, "method": method, "impurity": share}
                    yield {**key, "auroc": auroc, "anomalous_left": left}


def kmeans(features: Features, seeds: list[int]) -> Iterator[Row]:
    """AUROC by number of means, beside the nearest neighbours themselves."""
    normalizations = {"papers'": EmbeddingNormalization("none"), "root + L2": READOUTS["default"][0]}
    for normal_class in track(features.classes, description="K-means"):
        for name, normalize in normalizations.items():
            rows = normalize(features.train[normal_class])
            for means, seed in [*((means, seed) for means in (1, 3, 5, 10) for seed in seeds), (0, seeds[0])]:
                arguments = {"num_means": means, "seed": seed} if means else {"num_neighbors": 2}
                scorer = make_scorer("kmeans" if means else "knn", **arguments)
                scorer.fit(rows, calibrate=False)
                auroc = features.auroc(scorer, normalize, normal_class)
                method = f"{name}, K-means" if means else f"{name}, kNN"
                yield {
                    "class": normal_class,
                    "seed": seed,
                    "method": method,
                    "means": means or len(rows),
                    "auroc": auroc,
                }


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "concatenated": lambda sets: sets.flatten(1),
    "max-pooled": lambda sets: sets.amax(1),
    "mean-pooled": lambda sets: sets.mean(1),
}


def sets(features: Features, seeds: list[int]) -> Iterator[Row]:
    """AUROC of sets by their size; sets with fewer classes have the smaller trace, so it is turned round here."""
    normalizations = {"papers'": EmbeddingNormalization("none"), "root + L2": READOUTS["default"][0]}
    largest = min(len(features.classes), max(SET_SIZES))
    for size, seed in track([(s, x) for s in SET_SIZES if s <= largest for x in seeds], description="sets"):
        rng, classes = np.random.default_rng(seed), features.classes[:size]
        normal = np.stack([rng.permutation(size) for _ in range(2 * SETS)])
        anomalous = np.stack([_not_each_once(rng, size) for _ in range(SETS)])
        train = _draw(features.train, classes, normal[:SETS], rng)
        test = torch.cat([_draw(features.test, classes, members, rng) for members in (normal[SETS:], anomalous)])
        labels = np.repeat([0, 1], SETS)
        for name, normalize in normalizations.items():
            known, new = normalize(train.flatten(0, 1)).view_as(train), normalize(test.flatten(0, 1)).view_as(test)
            for pooling, pool in POOLINGS.items():
                scorer = make_scorer("knn", num_neighbors=2)
                scorer.fit(pool(known), calibrate=False)
                auroc = roc_auc_score(labels, scorer(pool(new)).numpy())
                yield {"seed": seed, "method": f"{name}, {pooling}", "size": size, "auroc": auroc}
            auroc = roc_auc_score(labels, -_trace(new).numpy())
            yield {"seed": seed, "method": f"{name}, minus trace", "size": size, "auroc": auroc}


def groups(features: Features, seeds: list[int]) -> Iterator[Row]:
    """AUROC of the trace of the covariance: sets of one class against sets of all."""
    normalizations = {"papers'": EmbeddingNormalization("none"), "root + L2": READOUTS["default"][0]}
    count = len(features.classes)
    for size, seed in track([(s, x) for s in GROUP_SIZES for x in seeds], description="groups"):
        rng = np.random.default_rng(seed)
        normal = np.repeat(rng.integers(0, count, (SETS, 1)), size, axis=1)
        anomalous = rng.integers(0, count, (SETS, size))
        test = torch.cat([_draw(features.test, features.classes, members, rng) for members in (normal, anomalous)])
        for name, normalize in normalizations.items():
            traces = _trace(normalize(test.flatten(0, 1)).view_as(test))
            auroc = roc_auc_score(np.repeat([0, 1], SETS), traces.numpy())
            yield {"seed": seed, "method": f"{name}, trace", "size": size, "auroc": auroc}


def _not_each_once(rng: np.random.Generator, size: int) -> np.ndarray:
    while True:
        members = rng.integers(0, size, size)
        if len(set(members)) < size:
            return members


def _draw(by_class: dict[str, Tensor], classes: list[str], members: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Embeddings (sets, images, d) of the classes in ``members``; no image twice in a set."""
    picked = torch.empty(*members.shape, next(iter(by_class.values())).shape[1])
    for row, chosen in enumerate(members):
        for number in np.unique(chosen):
            places = np.flatnonzero(chosen == number)
            rows = by_class[classes[number]]
            picked[row, places] = rows[rng.choice(len(rows), len(places), replace=False)]
    return picked


def _trace(embeddings: Tensor) -> Tensor:
    """Trace of the covariance of each set, (sets,)."""
    return embeddings.var(dim=1).sum(dim=1)


STUDIES: dict[str, tuple[Callable[[Features, list[int]], Iterator[Row]], str]] = {
    "num_train": (num_train, "num_train"),
    "kmeans": (kmeans, "means"),
    "sets": (sets, "size"),
    "groups": (groups, "size"),
    "impurity": (impurity, "impurity"),
}
AXES = {"num_train": "normal training images", "means": "means (last point: all images)", "size": "images in a set"}
AXES["impurity"] = "share of anomalous training images"


def draw_curves(table: pd.DataFrame, x: str, path: Path) -> None:
    """Mean over the classes, with the range over the seeds."""
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for method, own in table.groupby("method", sort=False):
        by_seed = own.groupby([x, "seed"])["auroc"].mean().groupby(x)
        mean, low, high = (100 * by_seed.agg(how) for how in ("mean", "min", "max"))
        (line,) = axis.plot(mean.index, mean, "o-", markersize=3, label=str(method))
        axis.fill_between(mean.index, low, high, color=line.get_color(), alpha=0.2)
    axis.set(xlabel=AXES[x], ylabel="AUROC in percent", xscale="log" if x in {"num_train", "means"} else "linear")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_tsne(features: Features, path: Path) -> None:
    """Test images in two dimensions: the first two classes, each as the normal one, as DN2's Fig. 6."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    chosen = np.concatenate([np.flatnonzero(features.labels == name)[:200] for name in features.classes])
    points = TSNE(random_state=0, init="pca").fit_transform(features.queries[chosen].numpy())
    for axis, normal_class in zip(axes, features.classes[:2], strict=True):
        normal = features.labels[chosen] == normal_class
        for mask, color, text in ((~normal, "#2B5FAB", "other classes"), (normal, "#E0A800", normal_class)):
            axis.scatter(*points[mask].T, s=6, color=color, label=text, alpha=0.7)
        axis.set(xticks=[], yticks=[], title=f"normal: {normal_class}")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run each study and save it when it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("datasets"), help="folder of the unpacked data sets")
    parser.add_argument("--set", default="cifar10", help="data set of folders {train,test}/<class>")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--studies", nargs="+", choices=[*STUDIES, "tsne"], default=[*STUDIES, "tsne"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/panda_anomalib/embeddings/default")
    arguments = parser.parse_args()
    mpl.use("agg")
    model = Dn2(backbone=arguments.backbone)
    features = Features(model, arguments.root / arguments.set, arguments.cache)
    model.model.backbone.load_weights()  # for the provenance, when all embeddings came from the cache
    for study in arguments.studies:
        started, target = time.time(), RESULTS / f"frozen_{study}_{arguments.set}_{arguments.backbone}.csv"
        if study == "tsne":
            draw_tsne(features, target.with_suffix(".png"))
        else:
            run, x = STUDIES[study]
            table = pd.DataFrame(run(features, arguments.seeds))
            table.to_csv(target, index=False, float_format="%.6g")
            draw_curves(table, x, target.with_suffix(".png"))
            print(
                study,
                (100 * table.pivot_table(index="method", columns=x, values="auroc", sort=False)).round(2).to_string(),
                sep="\n",
                flush=True,
            )
        report = {**provenance(), "seconds": round(time.time() - started), "weights": model.model.backbone.provenance}
        target.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
