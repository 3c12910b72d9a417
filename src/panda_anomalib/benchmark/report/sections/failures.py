"""Jobs without a result."""

from panda_anomalib.benchmark.report.analysis import Analysis
from panda_anomalib.benchmark.report.blocks import Section, Table

__all__ = ["failures_section"]

_LONGEST = 500


def failures_section(analysis: Analysis) -> Section | None:
    """Every failed job with its error; None if all are done."""
    failed = analysis.results.failed
    if failed.empty:
        return None
    rows = [
        [str(job["model"]), str(job["dataset"]), str(job["category"]), str(job["seed"]), _reason(str(job["error"]))]
        for _, job in failed.iterrows()
    ]
    folders = ", ".join(dict.fromkeys(f"{folder}/errors.log" for folder in failed["folder"]))
    header = ["model", "data set", "class", "seed", "error"]
    return Section(
        "failures",
        "Failures",
        [Table(f"{len(failed)} of {len(analysis.results.jobs)} jobs", header, rows, f"Tracebacks: {folders}")],
    )


def _reason(error: str) -> str:
    text = " ".join(error.split()) or "no reason was recorded"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
