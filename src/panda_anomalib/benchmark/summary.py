"""The last lines of a benchmark: means of each model on each data set, failures, what to do next."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from panda_anomalib.commands import PROGRAM

__all__ = ["print_summary"]

_MEANS = {
    "AUROC": ("image_AUROC", 100, ".2f"),
    "F1": ("image_F1Score", 100, ".2f"),
    "false alarms": ("image_FalseAlarmRate", 100, ".1f"),
    "misses": ("image_MissRate", 100, ".1f"),
    "fit s": ("fit_seconds", 1, ".2f"),
    "test s": ("test_seconds", 1, ".2f"),
}


def print_summary(table: pd.DataFrame, folder: Path) -> None:
    """Print one line for each model and data set, and where everything is.

    Args:
        table: One row per job.
        folder: Of the results.
    """
    shown = Table(title="Means over classes and seeds, in percent", title_justify="left", header_style="bold")
    shown.add_column("model", overflow="fold")
    shown.add_column("data set", overflow="fold")
    for name in ("jobs", *_MEANS):
        shown.add_column(name, justify="right")
    for (model, dataset), jobs in table.groupby(["model", "dataset"], sort=False):
        done = jobs[jobs["status"] == "done"]
        count = str(len(done)) if len(done) == len(jobs) else f"{len(done)} of {len(jobs)}"
        shown.add_row(str(model), str(dataset), count, *(_mean(done, *column) for column in _MEANS.values()))
    console = Console(highlight=False)
    console.print(shown)
    failed = table[table["status"] != "done"]
    console.soft_wrap = True
    for _, job in failed.head(5).iterrows():
        console.print(f"failed: {job['model']} on {job['dataset']} {job['category']}: {job['error']}", markup=False)
    if len(failed) > 5:
        console.print(f"... and {len(failed) - 5} more, see {folder / 'errors.log'}", markup=False)
    console.print(f"Results of {len(table)} jobs: {folder / 'results.csv'}", markup=False)
    console.print(f"Next: {PROGRAM} report {folder}", markup=False)


def _mean(jobs: pd.DataFrame, column: str, scale: float, form: str) -> str:
    values = pd.to_numeric(jobs[column], errors="coerce").dropna() if column in jobs else pd.Series(dtype=float)
    return f"{scale * values.mean():{form}}" if len(values) else ""
