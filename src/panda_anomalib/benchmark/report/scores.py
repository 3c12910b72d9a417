"""The distances of one job's test images, as far as they can be used."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

__all__ = ["Scores", "read_scores"]


@dataclass(frozen=True)
class Scores:
    """Test images of one job, M of them, ordered by path.

    Attributes:
        paths: ``(M,)``, each once.
        labels: ``(M,)``, True for anomalous; there is at least one of each kind.
        distances: ``(M,)``, finite, higher is more anomalous.
        flagged: ``(M,)``, whether the model called the image anomalous; None if it did not say.
    """

    paths: NDArray[np.object_]
    labels: NDArray[np.bool_]
    distances: NDArray[np.float64]
    flagged: NDArray[np.bool_] | None

    @property
    def auroc(self) -> float:
        """Chance that an anomalous image is more distant than a normal one."""
        return float(roc_auc_score(self.labels, self.distances))

    @property
    def fingerprint(self) -> bytes:
        """The same for scores of the same images with the same labels."""
        digest = hashlib.sha256(self.labels.tobytes())
        digest.update("\0".join(self.paths).encode())
        return digest.digest()


def read_scores(folder: str, job_id: str) -> Scores | str:
    """Scores of a job, or in a few words why there are none that can be used."""
    if not re.fullmatch(r"\w[\w.-]*", job_id):  # it comes from a file, and becomes part of a path
        return "no scores were saved"
    path = Path(folder) / "jobs" / job_id / "scores.parquet"
    if not path.is_file():
        return "no scores were saved"
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError):
        return "scores.parquet is damaged"
    return _checked(table)


def _checked(table: pd.DataFrame) -> Scores | str:
    if missing := [name for name in ("image_path", "label", "distance") if name not in table]:
        return f"scores.parquet has no column {' and no '.join(missing)}"
    table = table[table["label"].isin([0, 1])].sort_values("image_path", kind="stable")
    if len(table) and table["image_path"].duplicated().any():
        return "scores.parquet lists an image twice"
    distances = table["distance"].to_numpy(np.float64)
    if bad := int((~np.isfinite(distances)).sum()):
        return f"{bad} of {len(table)} distances are not finite"
    labels = table["label"].to_numpy() == 1
    for kind, present in (("normal", ~labels), ("anomalous", labels)):
        if not present.any():
            return f"the test set has no {kind} image"
    has_verdicts = "anomalous" in table and bool(table["anomalous"].notna().all())
    flagged = table["anomalous"].to_numpy(bool) if has_verdicts else None
    return Scores(table["image_path"].to_numpy(object), labels, distances, flagged)
