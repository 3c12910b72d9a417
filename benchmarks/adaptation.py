"""AUROC over the minibatches of adaptation, by variant and readout, beside numbers that need no label.

    python benchmarks/adaptation.py --root datasets/cifar10 --normal_class horse --variants early_stopping

Each variant is fitted as by the command line; every so many minibatches the embeddings of the training images and of
the test images are scored in several ways. Test labels are for the table only: nothing is stopped or chosen by them
here. ``results/adaptation_<set>_<class>.csv`` gets a row for each variant, minibatch and readout as soon as it is
known; rows of the variants named are replaced. ``--train`` and ``--test`` take a seeded part of the images, which the
rows tell.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from anomalib.engine import Engine
from lightning.pytorch import Callback
from provenance import provenance
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.data import Subset

from panda_anomalib import OneClassFolder, Panda, PandaEwc, PandaJoint, PandaOe
from panda_anomalib.adaptation.collapse import effective_rank, held_out_ratio, neighbor_preservation, total_variance
from panda_anomalib.adaptation.synthetic import KINDS, SyntheticOutliers
from panda_anomalib.backbones import EmbeddingNormalization
from panda_anomalib.scorers import make_scorer
from panda_anomalib.scorers.logit import LogitScorer

RESULTS = Path(__file__).parent / "results"
READOUTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    f"{scorer}_{kind}": (kind, scorer, {}) for kind in ("none", "l2", "power_l2") for scorer in ("knn", "center")
} | {"default": ("power_l2", "whitening", {})}
MSC: dict[str, Any] = {
    "objective": "mean_shifted_contrastive",
    "objective_normalization": "l2",
    "momentum": 0.0,
    "gradient_clip": None,
}
CLIPPED: dict[str, Any] = {"learning_rate": 1e-2, "gradient_clip": 1.0}
SYNTHETIC = 200  # held-out normal images of which altered copies are made
VARIANTS: dict[str, tuple[type, dict[str, Any]]] = {
    "early_stopping": (Panda, {}),
    "early_stopping_l2": (Panda, {"objective_normalization": "l2"}),
    "early_stopping_root": (Panda, {"objective_normalization": "power_l2"}),
    "early_stopping_last_stage": (Panda, {"trainable_stages": 1}),
    "ewc": (PandaEwc, {"minibatches": 2355}),
    "ewc_sampled": (PandaEwc, {"minibatches": 2355}),
    "l2_anchor": (PandaEwc, {"anchor": "l2", "minibatches": 2355}),
    "contrastive_1e-3": (Panda, {**MSC, "learning_rate": 1e-3}),
    "contrastive_1e-2": (Panda, {**MSC, "learning_rate": 1e-2}),
    "contrastive_root_1e-3": (Panda, {**MSC, "objective_normalization": "power_l2", "learning_rate": 1e-3}),
    "contrastive_root_1e-2": (Panda, {**MSC, "objective_normalization": "power_l2", "learning_rate": 1e-2}),
    "contrastive_root_1e-1": (Panda, {**MSC, "objective_normalization": "power_l2", "learning_rate": 1e-1}),
    "contrastive_root_last_stage": (
        Panda,
        {**MSC, "objective_normalization": "power_l2", "learning_rate": 1e-2, "trainable_stages": 1},
    ),
    "outlier_exposure": (PandaOe, {}),
    "outlier_exposure_fast": (PandaOe, CLIPPED),
    "outlier_exposure_foreign": (PandaOe, CLIPPED),  # with --outliers of another kind
    "outlier_exposure_root": (PandaOe, {**CLIPPED, "learning_rate": 0.1, "objective_normalization": "power_l2"}),
    "outlier_exposure_as_they_are": (PandaOe, {**CLIPPED, "match_resolution": False}),
    "joint": (PandaJoint, {}),
    # steps a hundred times the paper's: 100 minibatches go as far as its 10 000
    "collapse": (Panda, {"gradient_clip": 0.1}),
    "collapse_ewc": (PandaEwc, {"gradient_clip": 0.1}),
}


class Part(OneClassFolder):
    """A seeded part of the training images."""

    train_images: int | None = None

    def _setup(self, _stage: str | None = None) -> None:
        super()._setup(_stage)
        samples = self.train_data.samples
        chosen = np.random.default_rng(0).permutation(len(samples))[: self.train_images]
        self.train_data.samples = samples.iloc[np.sort(chosen)].reset_index(drop=True)


class Watch(Callback):
    """Scores training and test images at the minibatches asked for."""

    kept: ClassVar[dict[Any, Any]] = {}

    def __init__(self, at: list[int], images: int | None, save: Any) -> None:
        self.at = set(at)
        self.images = images
        self.save = save
        self.distances: dict[str, list[Tensor]] = {}  # by readout, in units of the typical distance
        self.first: Tensor | None = None
        self.started = time.perf_counter()
        self.paused = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Before the first minibatch."""
        dataset = trainer.datamodule.test_data
        labels = dataset.samples["label_index"].to_numpy()
        order = np.random.default_rng(0).permutation(len(labels))[: self.images]
        chosen = np.sort(order)
        self.labels = labels[chosen]
        self.test = self.stems(pl_module, Subset(dataset, chosen.tolist()), "test")
        normals = pl_module._at_hand().dataset
        altered = pl_module.held_out[:SYNTHETIC].tolist()
        self.altered = {kind: self.stems(pl_module, SyntheticOutliers(normals, altered, kind), kind) for kind in KINDS}
        self.started = time.perf_counter()
        self.measure(pl_module, 0)

    def stems(self, model: Any, dataset: Any, name: str) -> Any:
        """Stem outputs, which no variant changes."""
        if (key := (name, model.hparams["trainable_stages"])) not in self.kept:
            outputs = model.stem_outputs(dataset, name, cache="memory")
            outputs.fill()
            self.kept[key] = outputs
        return self.kept[key]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """After each minibatch."""
        done = trainer.fit_loop.epoch_loop.batch_progress.total.processed
        if done in self.at:
            self.measure(pl_module, done)

    def measure(self, model: Any, minibatch: int) -> None:
        """A row for each readout."""
        begun = time.perf_counter()
        train = model.embed_normals(torch.arange(len(model._paths)))
        test, *altered = (
            model._embed_parts(outputs, torch.arange(len(outputs)).split(32))
            for outputs in (self.test, *self.altered.values())
        )
        out = torch.isin(torch.arange(len(train)), model.held_out)
        self.first = train if self.first is None else self.first
        facts = {
            "minibatch": minibatch,
            "train": len(train),
            "test": len(test),
            "seconds": begun - self.started - self.paused,
            "variance": total_variance(train),
            "effective_rank": effective_rank(train),
            "neighbors_kept": neighbor_preservation(self.first, train),
            "held_out_ratio": held_out_ratio(train[~out], train[out]),
        }
        for name, (kind, scorer_name, arguments) in READOUTS.items():
            scorer = make_scorer(scorer_name, **arguments)
            normalize = EmbeddingNormalization(kind)
            scorer.fit(normalize(train), calibrate=False)
            distances = torch.cat([scorer(normalize(rows)) for rows in test.split(1000)])
            scorer.fit(normalize(train[~out]), calibrate=False)
            held_out = scorer(normalize(train[out]))
            seen = self.distances.setdefault(name, [])
            seen.append(distances / held_out.mean())
            ensemble = {  # PANDA-SES, with the snapshots so far
                f"ses_{start}": roc_auc_score(self.labels, torch.stack(seen[first:]).amax(dim=0).numpy())
                for start, first in (("pretrained", 0), ("adapted", 1))
                if len(seen) > first
            }
            synthetic = criterion(held_out, [scorer(normalize(rows)) for rows in altered])
            auroc = roc_auc_score(self.labels, distances.numpy())
            self.save({**facts, "readout": name, "auroc": auroc, **ensemble, **synthetic})
        if isinstance(model.model.scorer, LogitScorer):
            with torch.no_grad():
                logits = [
                    model.objective.head(model.objective.normalization(rows))[:, 0]
                    for rows in (test, train[out], *altered)
                ]
            auroc = roc_auc_score(self.labels, logits[0].numpy())
            self.save({**facts, "readout": "logit", "auroc": auroc, **criterion(logits[1], logits[2:])})
        self.paused += time.perf_counter() - begun


def criterion(held_out: Tensor, altered: list[Tensor]) -> dict[str, float]:
    """AUROC of held-out normal images against each kind of altered copies, from their distances."""
    return {
        f"auroc_{kind}": roc_auc_score([0] * len(held_out) + [1] * len(rows), torch.cat([held_out, rows]).numpy())
        for kind, rows in zip(KINDS, altered, strict=True)
    }


def main() -> None:
    """Run the variants one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of one data set")
    parser.add_argument("--normal_class", required=True)
    parser.add_argument("--classes", nargs="+", help="only these, where the set has more")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["early_stopping"])
    parser.add_argument("--at", type=int, nargs="+", default=[60, 120, 250, 500, 1000, 1500, 2000, 2355])
    parser.add_argument("--train", type=int, help="number of training images, by default all")
    parser.add_argument("--test", type=int, help="number of test images, by default all")
    parser.add_argument("--outliers", type=Path)
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--fisher", type=Path)
    parser.add_argument("--name", help="of the results, by default that of the set and class")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name = arguments.name or f"{arguments.root.name}_{arguments.normal_class}"
    target = RESULTS / f"adaptation_{name}.csv"
    kept = pd.read_csv(target) if target.is_file() else pd.DataFrame()
    for variant in arguments.variants:
        kind, settings = VARIANTS[variant]
        if len(kept):
            kept = kept[kept["variant"] != variant]
        rows: list[dict[str, Any]] = []

        def save(row: dict[str, Any], variant: str = variant, rows: list[Any] = rows, kept: Any = kept) -> None:
            rows.append({"class": arguments.normal_class, "variant": variant, **row})
            pd.concat([kept, pd.DataFrame(rows)]).to_csv(target, index=False, float_format="%.6g")

        extra: dict[str, Any] = {"minibatches": max(arguments.at), "backbone": arguments.backbone, "visualizer": False}
        if kind is PandaOe:
            extra["outliers"] = str(arguments.outliers)
        if kind is PandaJoint:
            extra["labelled"] = str(arguments.labelled)
        if kind is PandaEwc and variant != "ewc_sampled" and arguments.fisher:
            extra["fisher"] = str(arguments.fisher)
        data = Part(root=arguments.root, normal_class=arguments.normal_class, classes=arguments.classes, num_workers=2)
        data.train_images = arguments.train
        with tempfile.TemporaryDirectory() as folder:
            engine = Engine(
                default_root_dir=folder,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                accelerator="cpu",
                callbacks=[Watch(arguments.at, arguments.test, save)],
            )
            engine.fit(kind(**{**settings, **extra}), datamodule=data)
        kept = pd.read_csv(target)
        facts = {
            variant: {**settings, "backbone": arguments.backbone}
            for variant in kept["variant"].unique()
            for settings in [VARIANTS[variant][1]]
        }
        report = {**provenance(), "variants": facts}
        target.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
        table = kept[kept["variant"] == variant].pivot(index="minibatch", columns="readout", values="auroc")
        print(variant, (100 * table).round(2).to_string(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
