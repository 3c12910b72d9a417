"""Where the numbers come from, and how to read them."""

import json

import pandas as pd

from panda_anomalib.benchmark.report.analysis import Analysis
from panda_anomalib.benchmark.report.blocks import Block, Items, Section, Table

__all__ = ["provenance_section"]

_COLUMNS = {
    "commit": "commit",
    "config_hash": "hash of the configuration",
    "weights_sha256": "SHA-256 of the weights",
    "accelerator": "accelerator",
    "versions": "versions",
    "machine": "machine",
}
_METHODS = (
    "AUROC is computed from the raw distances of all test images where they were saved, else it is the evaluator's.",
    "Intervals of AUROC: 1000 bootstrap resamples of the test images, normal and anomalous ones drawn separately, the "
    "same for all models and seeds of a class; percentiles 2.5 and 97.5. They speak of other test images, not of other "
    "trainings, and have no width at an AUROC of 100.",
    "DeLong's test compares two models on the same test images; it takes the trained models as they are.",
    "Published numbers come from papers with other networks and budgets; they are never bold and in no test.",
)


def provenance_section(analysis: Analysis) -> Section:
    """Versions, machines, hashes, and the methods of this page."""
    jobs = analysis.results.jobs
    rows = [[label, _values(jobs[column])] for column, label in _COLUMNS.items()]
    times = sorted(jobs.loc[jobs["started"] != "", "started"])
    if times:
        rows.insert(0, ["jobs started", times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"])
    rows.append(["folders", ", ".join(jobs["folder"].unique())])
    blocks: list[Block] = [
        Table("What the jobs recorded", ["what", "value"], rows),
        Items(_METHODS),
    ]
    return Section("provenance", "Provenance and methods", blocks)


def _values(values: "pd.Series[str]") -> str:
    known = [_plain(value) for value in values.unique() if value]
    lacking = f" ({(values == '').sum()} jobs do not say)" if known and (values == "").any() else ""
    return " | ".join(known) + lacking if known else "not recorded"


def _plain(text: str) -> str:
    """JSON objects as ``name value`` pairs; everything else as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return ", ".join(f"{name} {entry}" for name, entry in value.items()) if isinstance(value, dict) else text
