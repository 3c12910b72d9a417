"""Tables of other versions under the names of `panda_anomalib.benchmark.schema`."""

from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["with_present_names"]

# The present name, then what else it has been called: by anomalib's benchmark, and by benchmarks/one_class.py.
_NAMES = {
    "model": ("model.class_path", "configuration"),
    "model_class": ("model.class_path",),
    "dataset": ("data.init_args.root", "data.class_path", "set"),
    "category": ("data.init_args.category", "data.init_args.normal_class", "class"),
    "image_AUROC": ("auroc",),
    "image_FalseAlarmRate": ("false_alarm_rate",),
    "image_MissRate": ("miss_rate",),
    "num_train": ("train",),
    "job_seconds": ("job_duration", "seconds"),
    "fit_seconds": ("fit_duration",),
    "test_seconds": ("test_duration",),
}


def with_present_names(rows: pd.DataFrame, folder: Path, remarks: list[str]) -> pd.DataFrame:
    """Copy of the rows; a column that has its present name is never touched.

    Raises:
        ValueError: If the rows do not say which model was measured on which data set.
    """
    table = rows.copy()
    table.columns = [str(name) for name in table.columns]
    taken = []
    for present, others in _NAMES.items():
        found = next((name for name in others if name in table), None)
        if present not in table and found is not None:
            table[present] = table[found].map(_last_part) if found.startswith(("model.", "data.")) else table[found]
            taken.append(f"{found} for {present}")
    if missing := [name for name in ("model", "dataset") if name not in table]:
        raise ValueError(
            f"results must have the columns model and dataset, got no {' and no '.join(missing)} in '{folder}', but "
            f"{', '.join(table.columns[:8])}, ...; was the table written by panda-anomalib benchmark?"
        )
    if "model.class_path for model" in taken:
        table["model"] = _labels(table)
    if taken:
        remarks.append(f"'{folder}' is of another version; read as {', '.join(taken)}.")
    return table


def _labels(table: pd.DataFrame) -> "pd.Series[str]":
    """Name of the class, with the settings in which rows of that class differ."""
    settings = [name for name in table if str(name).startswith("model.init_args.")]
    labels = table["model"].astype(str)
    for _, rows in table.groupby("model"):
        for name in settings:
            if rows[name].astype(str).nunique() > 1:
                labels[rows.index] += f" {str(name).rpartition('.')[2]}=" + rows[name].astype(str)
    return labels


def _last_part(value: Any) -> Any:
    """``Dn2`` of ``panda_anomalib.Dn2``, and ``photos`` of ``datasets/photos``."""
    return value.rstrip("/").rpartition("/")[2].rpartition(".")[2] if isinstance(value, str) else value
