"""What the doctor prints, and its exit code."""

import json
from pathlib import Path

import pytest

from panda_anomalib.cli import main
from panda_anomalib.doctor import Check, report

CHECKS = """
from panda_anomalib.doctor import Finding

def fine():
    return Finding("ok", "all is well [1]")

def doubtful():
    return Finding("warning", "slow", "export FAST=1")

def broken():
    return Finding("error", "broken", "pip install [extra]")
"""


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the checks that the doctor makes."""
    (tmp_path / "few_checks.py").write_text(CHECKS)
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = ["fine", "doubtful"]
    monkeypatch.setattr(
        report, "all_checks", lambda _: [Check(name, f"few_checks:{name}", f"trying {name}") for name in names]
    )
    return names


def _doctor(*arguments: str) -> int:
    try:
        main(["doctor", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_warnings_are_no_failure(checks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Findings on standard output, what is being done on standard error."""
    assert _doctor() == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "ok       fine         all is well [1]"
    assert lines[1] == "warning  doubtful     slow"
    assert lines[2] == "                      mend: export FAST=1"
    assert lines[-1].startswith("It works: 1 ok, 1 warning (")
    assert shown.err.splitlines() == ["Trying fine ...", "Trying doubtful ..."]


def test_an_error_is_exit_code_1(checks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever else is well."""
    checks += ["broken", "broken"]
    assert _doctor() == 1
    shown = capsys.readouterr().out
    assert "mend: pip install [extra]" in shown
    assert shown.splitlines()[-1].startswith("It does not work: 1 ok, 1 warning, 2 errors (")


def test_json_for_bug_reports(checks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One document on standard output, and nothing else."""
    checks.append("broken")
    assert _doctor("--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["works"] is False
    assert document["versions"]["anomalib"].startswith("2.7")
    assert [(one["check"], one["status"], one["mend"]) for one in document["findings"]] == [
        ("fine", "ok", ""),
        ("doubtful", "warning", "export FAST=1"),
        ("broken", "error", "pip install [extra]"),
    ]


def test_limit_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    """Or every check would hang."""
    assert _doctor("--limit", "0") == 2
    assert "--limit must be a number of seconds above 0, got '0'" in capsys.readouterr().err
