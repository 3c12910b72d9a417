"""Realised false-alarm rate over 200 random splits of normal images, for several rates asked for.

    python benchmarks/one_class.py --root datasets --sets cifar10 fashion_mnist_1000 --configurations default knn2
    python benchmarks/false_alarms.py

Uses the embeddings that the first command left in the cache. In each split 200 normal images train and up to 1 000
others of the class are tested: exchangeable by construction, so the mean realised rate must not exceed the rate asked
for, beyond its standard error. Writes ``results/false_alarms.csv`` and ``.json``.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from provenance import provenance
from rich.progress import track

from panda_anomalib.backbones import EmbeddingNormalization
from panda_anomalib.calibration import conformal_threshold
from panda_anomalib.scorers import make_scorer

SPLITS, TRAINING, TESTED = 200, 200, 1000
CLASSES = {"cifar10": "horse", "fashion_mnist_1000": "7_sneaker"}
SCORERS = {"whitening": ("power_l2", {}), "knn": ("none", {}), "kmeans": ("none", {"num_means": 10})}


def main() -> None:
    """Run, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/panda_anomalib/embeddings")
    arguments = parser.parse_args()
    rows = []
    for set_name, normal_class in CLASSES.items():
        stored = torch.load(arguments.cache / f"default/tf_efficientnet_lite0_{set_name}.pt", weights_only=True)
        chosen = [i for i, path in enumerate(stored["paths"]) if Path(path).parent.name == normal_class]
        pooled = stored["avg"][chosen]
        for scorer_name, (normalization, options) in SCORERS.items():
            embeddings = EmbeddingNormalization(normalization)(pooled)
            for split in track(range(SPLITS), description=f"{set_name} {scorer_name}"):
                order = torch.from_numpy(np.random.default_rng(split).permutation(len(embeddings)))
                scorer = make_scorer(scorer_name, **options)
                scorer.fit(embeddings[order[:TRAINING]])
                distances = scorer(embeddings[order[TRAINING : TRAINING + TESTED]])
                for rate in (0.01, 0.05, 0.1):
                    threshold = conformal_threshold(scorer.calibration_distances(), rate)
                    realised = float((distances > threshold).float().mean())
                    key = {"set": set_name, "class": normal_class, "scorer": scorer_name, "rate": rate}
                    rows.append({**key, "split": split, "realised": realised})
    table = pd.DataFrame(rows)
    target = Path(__file__).parent / "results" / "false_alarms.csv"
    table.to_csv(target, index=False, float_format="%.6g")
    target.with_suffix(".json").write_text(json.dumps(provenance(), indent=2) + "\n")
    summary = table.groupby(["set", "scorer", "rate"])["realised"].agg(["mean", "sem", "std"])
    print(summary.round(4).to_string())


if __name__ == "__main__":
    main()
