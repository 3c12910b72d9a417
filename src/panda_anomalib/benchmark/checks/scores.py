"""Checks on the scores of finished jobs: shuffled labels, the sign, where thresholds came from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from panda_anomalib.benchmark.checks.check import Check
from panda_anomalib.benchmark.schema import OPTIMISTIC_SOURCE

__all__ = ["SOURCES", "check_shuffled_labels", "check_sign", "check_sources"]

SOURCES = "no test image used for a threshold"
"""Name of the check of thresholds."""

_SHUFFLES = 50
_MOST_DEVIATION = 4.5  # standard errors: of thousands of jobs one passes it by chance


def check_shuffled_labels(jobs: pd.DataFrame, folder: Path) -> Check:
    """AUROC with the labels of the test images shuffled is 0.5, as far as the draw allows.

    Anything else means that the number follows from more than scores and labels: from the order of the images, or
    from a metric that is wrong.

    Args:
        jobs: Finished jobs of one class.
        folder: Of the results.
    """
    name = "shuffled labels"
    found = [_shuffled(folder / "jobs" / str(job_id) / "scores.parquet") for job_id in jobs["job_id"]]
    judged = [one for one in found if one is not None]
    if not judged:
        return Check(name, "not run", None, "No job has scores of both normal and anomalous images.")
    mean, deviation = max(judged, key=lambda one: abs(one[1]))
    text = f"AUROC of {len(judged)} jobs over {_SHUFFLES} shuffles of the labels each: {mean:.3f} where it is farthest "
    text += f"from 0.5, {abs(deviation):.1f} standard errors."
    return Check(name, "ok" if abs(deviation) < _MOST_DEVIATION else "failed", mean, text)


def check_sign(jobs: pd.DataFrame) -> Check:
    """Anomalous images score higher than normal ones, whatever the model.

    Args:
        jobs: Finished jobs of one class.
    """
    name = "sign of the score"
    known = jobs[jobs["image_AUROC"].notna()] if "image_AUROC" in jobs else jobs[:0]
    if known.empty:
        return Check(name, "not run", None, "No job has an AUROC.")
    means = known.groupby("model", sort=False)["image_AUROC"].mean()
    below = [f"{model} ({100 * mean:.1f} %)" for model, mean in means.items() if mean <= 0.5]
    lowest = float(means.min())
    if below:
        return Check(name, "warning", lowest, f"Normal images score higher than anomalous ones: {', '.join(below)}.")
    return Check(name, "ok", lowest, f"Anomalous images score higher with all {len(means)} models.")


def check_sources(jobs: pd.DataFrame, train: Sequence[str], test: Sequence[str]) -> Check:
    """No image that a threshold was set with is one that it is measured on.

    Args:
        jobs: Finished jobs of one class.
        train: SHA-256 of the training images; empty of one that could not be read.
        test: The same of the test images.
    """
    both = len({digest for digest in train if digest} & {digest for digest in test if digest})
    sources = jobs["threshold_source"] if "threshold_source" in jobs else pd.Series("", index=jobs.index)
    seen = list(dict.fromkeys(jobs.loc[sources == OPTIMISTIC_SOURCE, "model"]))
    if both:
        text = f"Files with the same bytes are in the training and in the test set, by hash: {both}."
        return Check(SOURCES, "failed", both, text)
    if seen:
        text = f"Thresholds were set on the test images by {', '.join(seen)}: read their F1, false alarms and misses "
        return Check(SOURCES, "warning", len(seen), text + "as upper bounds. AUROC is not touched.")
    return Check(
        SOURCES, "ok", 0, f"None of {len(test)} test images is among the {len(train)} training images, by hash."
    )


def _shuffled(path: Path) -> tuple[float, float] | None:
    """Mean AUROC over shuffles, and its distance from 0.5 in standard errors."""
    if not path.is_file():
        return None
    table = pd.read_parquet(path, columns=["label", "distance"])
    labels = table["label"].to_numpy() == 1
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives or not np.isfinite(table["distance"]).all():
        return None
    ranks: NDArray[np.float64] = rankdata(table["distance"])
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(labels) for _ in range(_SHUFFLES)]
    sums = np.array([ranks[one].sum() for one in drawn])
    mean = float(np.mean((sums - positives * (positives + 1) / 2) / (positives * negatives)))
    error = np.sqrt((positives + negatives + 1) / (12 * positives * negatives) / _SHUFFLES)
    return mean, float((mean - 0.5) / error)
