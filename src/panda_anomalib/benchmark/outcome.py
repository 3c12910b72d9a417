"""What a job has led to, and the columns that follow from the scores of its test images."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

__all__ = ["Outcome", "describe_threshold", "rates"]


@dataclass(frozen=True)
class Outcome:
    """Result of one job.

    Attributes:
        columns: What was measured, by the names of `panda_anomalib.benchmark.schema`.
        scores: One row per test image; None where the model gives images no score.
        traceback: Why it failed; None if it did not.
    """

    columns: dict[str, Any]
    scores: pd.DataFrame | None = None
    traceback: str | None = None

    @classmethod
    def failure(cls, error: str, traceback: str, seconds: float) -> "Outcome":
        """Of a job that raised."""
        return cls({"status": "failed", "error": error, "job_seconds": seconds}, None, traceback)


def rates(scores: pd.DataFrame | None) -> dict[str, float]:
    """Counts of test images, realised false alarms and misses where there are verdicts."""
    if scores is None:
        return {}
    normal, anomalous = scores["label"] == 0, scores["label"] == 1
    found: dict[str, float] = {"num_test_normal": int(normal.sum()), "num_test_anomalous": int(anomalous.sum())}
    if scores["anomalous"].notna().all():
        flagged = scores["anomalous"].astype(bool)
        if normal.any():
            found["image_FalseAlarmRate"] = float(flagged[normal].mean())
        if anomalous.any():
            found["image_MissRate"] = float((~flagged[anomalous]).mean())
    return found


def describe_threshold(model: Any, datamodule: Any) -> dict[str, Any]:
    """Threshold in use and where it came from; empty where the model has none."""
    part: Any = getattr(model, "post_processor", None)
    if hasattr(part, "num_calibration"):  # ours
        return {
            "threshold": float(part.threshold),
            "threshold_source": "training images",
            "false_positive_rate": part.false_positive_rate,
        }
    threshold = float(getattr(part, "image_threshold", float("nan")))
    if threshold != threshold or not getattr(part, "enable_thresholding", True):  # noqa: PLR0124 - not a number
        return {}
    mode = str(getattr(getattr(datamodule, "val_split_mode", None), "value", ""))
    source = "test images" if mode == "same_as_test" else "validation images"
    return {"threshold": threshold, "threshold_source": source}
