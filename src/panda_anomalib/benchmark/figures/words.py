"""How columns are called in figures, and in which unit they are drawn."""

__all__ = ["axis_name", "is_share", "metric_name"]

_SETTINGS = {
    "num_train": "normal training images",
    "impurity": "share of anomalous training images",
    "num_means": "means",
    "num_neighbors": "nearest neighbours",
    "n_components": "components",
    "trainable_stages": "trained stages, counted from the last",
    "set_size": "images in a set",
    "dataset": "data set",
    "category": "class",
    "bank_mib": "memory bank in MiB",
    "peak_memory_mib": "peak memory in MiB",
    "fit_seconds": "seconds to fit",
    "test_seconds": "seconds to test",
    "job_seconds": "seconds of a job",
}
_METRICS = {
    "FalseAlarmRate": "false alarms",
    "MissRate": "misses",
    "F1Score": "F1",
    "F1Max": "largest F1",
    "FPR95": "false alarms where 95 % are found",
}


def axis_name(column: str) -> str:
    """Of a column of results."""
    last = column.rpartition(".")[2]
    return _SETTINGS.get(last, last.replace("_", " "))


def metric_name(column: str) -> str:
    """The same of a metric, with its unit."""
    if not is_share(column):
        return axis_name(column)
    level, _, name = column.partition("_")
    return f"{'pixel ' if level == 'pixel' else ''}{_METRICS.get(name, name)} in percent"


def is_share(column: str) -> bool:
    """Whether it is in [0, 1], and drawn in percent."""
    return column.startswith(("image_", "pixel_"))
