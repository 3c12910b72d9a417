"""What the doctor says, as lines or as JSON."""

import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

from panda_anomalib import __version__
from panda_anomalib.commands import PROGRAM
from panda_anomalib.doctor.checks import all_checks
from panda_anomalib.doctor.examination import examine
from panda_anomalib.doctor.findings import Check, Finding, build_of, version_of
from panda_anomalib.doctor.versions import SHOWN

__all__ = ["print_examination"]

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "TMPDIR", "TORCH_HOME")


def print_examination(results: str | Path, *, limit: float = 180.0, as_json: bool = False) -> int:
    """Make all checks and print what they find on standard output; what is being done, on standard error.

    Args:
        results: Folder of the results.
        limit: Seconds after which a check is stopped and reported as hanging.
        as_json: Print one JSON document at the end instead of a line for each finding.

    Returns:
        0 if there is no error (warnings are none), else 1.
    """
    lines, progress, findings = Console(soft_wrap=True, highlight=False), _Progress(), []
    start = time.monotonic()
    try:
        for finding in examine(all_checks(results), limit=limit, started=progress.show):
            progress.hide()
            findings.append(finding)
            if not as_json:
                lines.print(_line(finding))
    finally:
        progress.hide()
    seconds = time.monotonic() - start
    if as_json:
        sys.stdout.write(json.dumps(_document(findings, seconds), indent=2) + "\n")
    else:
        lines.print(_summary(findings, seconds))
    return 0 if _works(findings) else 1


def _works(findings: Sequence[Finding]) -> bool:
    return all(finding.status != "error" for finding in findings)


class _Progress:
    """What is being done, on standard error: a moving line on a terminal, a plain one elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._status: Status | None = None

    def show(self, check: Check) -> None:
        if not check.does:
            return
        text = f"{check.does[0].upper()}{check.does[1:]} ..."
        if self._console.is_terminal:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._console.print(text, markup=False)

    def hide(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _line(finding: Finding) -> Text:
    line = Text.assemble((f"{finding.status:<8}", _STYLES[finding.status]), f" {finding.check:<12} {finding.found}")
    if finding.mend:
        line.append(f"\n{'':<21} mend: ", "bold").append(finding.mend)
    return line


def _summary(findings: Sequence[Finding], seconds: float) -> Text:
    counts = {status: sum(finding.status == status for finding in findings) for status in _STYLES}
    words = {"ok": "ok", "warning": "warning", "error": "error", "skipped": "not checked"}
    told = ", ".join(
        f"{count} {words[status]}{'s' * (count > 1 and status in ('warning', 'error'))}"
        for status, count in counts.items()
        if count
    )
    verdict = ("It works", "green") if _works(findings) else ("It does not work", "bold red")
    return Text.assemble("\n", verdict, f": {told} ({seconds:.0f} s).")


def _document(findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    versions = {name: build_of(name) if name in ("torch", "torchvision") else version_of(name) for name in SHOWN}
    return {
        "program": PROGRAM,
        "version": __version__,
        "works": _works(findings),
        "seconds": round(seconds, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "findings": [{"check": finding.check, **dataclasses.asdict(finding)} for finding in findings],
    }
