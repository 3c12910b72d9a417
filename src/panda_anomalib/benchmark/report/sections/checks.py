"""Checks of the protocol itself."""

from pathlib import Path
from typing import Any

from panda_anomalib.benchmark.report.analysis import Analysis
from panda_anomalib.benchmark.report.anchors import anchor
from panda_anomalib.benchmark.report.blocks import Block, Cell, Picture, Pictures, Section, Table, Text
from panda_anomalib.benchmark.report.thumbnails import thumbnail

__all__ = ["checks_section"]

_STATES = ("failed", "warning", "not run", "ok")
_MOST_PICTURES = 12


def checks_section(analysis: Analysis) -> Section:
    """All checks, those that did not pass first, with their pictures."""
    checks = analysis.results.checks
    if not checks:
        text = "No checks of the protocol were recorded with these results (near-duplicates between training and test "
        text += "images, shuffled labels, thresholds from test images, sign of the score): nothing is known about them."
        return Section("checks", "Protocol checks", [Text(text)])
    ordered = sorted(checks, key=lambda check: _STATES.index(_state(check)))
    rows = [
        [
            Cell(str(check.get("name", "unnamed"))),
            Cell(str(check.get("dataset") or "all")),
            Cell(str(check.get("category") or "all")),
            Cell(_state(check), status={"not run": "warning"}.get(_state(check), _state(check))),
            Cell(_value(check.get("value"))),
            Cell(str(check.get("text") or "")),
        ]
        for check in ordered
    ]
    header = ["check", "data set", "class", "result", "value", "what it says"]
    blocks: list[Block] = [Table("Checks of the protocol", header, rows)]
    blocks += [
        strip
        for number, check in enumerate(ordered, start=1)
        if check.get("pictures") and (strip := _pictures(check, number))
    ]
    return Section("checks", "Protocol checks", blocks)


def _state(check: dict[str, Any]) -> str:
    state = str(check.get("status", "not run"))
    return state if state in _STATES else "not run"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _pictures(check: dict[str, Any], number: int) -> Pictures:
    named = [str(name) for name in check["pictures"]]
    root = Path(check["folder"])
    title = " ".join(str(check.get(key)) for key in ("name", "dataset", "category") if check.get(key))
    shown = [
        Picture(f"check-{number}-{anchor(Path(name).stem)}", *thumbnail(root / name, size=480), caption=Path(name).stem)
        for name in named[:_MOST_PICTURES]
    ]
    more = f" ({len(named) - len(shown)} more in the folder)" if len(named) > len(shown) else ""
    return Pictures(f"{title}{more}", shown)
