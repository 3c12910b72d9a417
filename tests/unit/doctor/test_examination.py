"""One check cannot stop the others: crashes, hangs and exceptions are findings like others."""

import os
import sys
import time
from pathlib import Path

import pytest

from panda_anomalib.doctor import Check, Finding, examine

CHECKS = """
import ctypes, os, subprocess, sys, time
from panda_anomalib.doctor import Finding

def fine(text="fine"):
    print("noise on standard output")
    return Finding("ok", text)

def several():
    return [Finding("ok", "first"), Finding("warning", "second", "mend it")]

def raises():
    raise KeyError("what was\\nsought")

def broken():
    return Finding("error", "broken")

def crash():
    ctypes.string_at(0)

def leave():
    os._exit(7)

def hang(pid_file):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(pid_file, "w") as file:
        file.write(str(child.pid))
    wait_for_godot()
    return Finding("ok", "he came")

def wait_for_godot():
    time.sleep(20)
"""


@pytest.fixture(autouse=True)
def _checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drawn_checks.py").write_text(CHECKS)
    monkeypatch.syspath_prepend(tmp_path)


def _check(name: str, **arguments: object) -> Check:
    return Check(name, f"drawn_checks:{name}", arguments=arguments)


def _found(*checks: Check, limit: float = 60) -> list[Finding]:
    return list(examine(checks, limit=limit))


def test_findings_come_in_order_and_under_the_checks_name() -> None:
    """Also several of one check, and with arguments; what a check prints is no answer."""
    found = _found(_check("fine", text="äöü"), _check("several"))
    assert [(one.check, one.status, one.found, one.mend) for one in found] == [
        ("fine", "ok", "äöü", ""),
        ("several", "ok", "first", ""),
        ("several", "warning", "second", "mend it"),
    ]


def test_an_exception_is_told_in_one_line_with_its_place_and_what_helps() -> None:
    """And the next check is made."""
    raising = Check("raises", "drawn_checks:raises", mend="install it")
    missing = Check("missing", "no_such_package.checks:any")
    first, second, third = _found(raising, missing, _check("fine"))
    assert (first.status, first.mend) == ("error", "install it")
    assert first.found == "KeyError: 'what was\\nsought' (in drawn_checks.py, line 13)"
    assert second.found.startswith("ModuleNotFoundError: No module named 'no_such_package'")
    assert third.found == "fine"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_crash_is_told_with_its_place() -> None:
    """Of the process: with the line of Python where it has one; the next check gets a new process."""
    crashed, left, after = _found(
        Check("crash", "drawn_checks:crash", mend="install it"), _check("leave"), _check("fine")
    )
    assert crashed.status == "error"
    assert crashed.found.startswith("crashed: signal SIGSEGV, in string_at (")
    assert crashed.mend.startswith("install it (else ")
    assert left.found == "crashed: the process ended with code 7"
    assert "bug report" in left.mend
    assert after.found == "fine"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_check_that_hangs_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    """It says where it hung, and leaves no process behind."""
    pid_file = tmp_path / "pid"
    hung, after = _found(_check("hang", pid_file=str(pid_file)), _check("fine"), limit=5)
    assert hung.status == "error"
    assert hung.found.startswith("stopped: no answer within 5 s, in wait_for_godot (")
    assert after.found == "fine"
    _wait_until_gone(int(pid_file.read_text()))


def test_what_needs_a_failed_check_is_not_made() -> None:
    """Nor what needs that; other checks are, and a warning is no failure."""
    found = _found(
        _check("broken"),
        Check("second", "drawn_checks:raises", needs=("broken",)),
        Check("third", "drawn_checks:raises", needs=("several", "second")),
        _check("several"),
        Check("fine", "drawn_checks:fine", needs=("several",)),
    )
    assert [one.status for one in found] == ["error", "skipped", "skipped", "ok", "warning", "ok"]
    assert found[1].found == "not checked: it needs broken, which failed"
    assert found[2].found == "not checked: it needs second, which failed"


def test_leaving_early_ends_the_process(tmp_path: Path) -> None:
    """As Ctrl-C does."""
    (tmp_path / "drawn_checks.py").write_text(f"{CHECKS}\ndef pid():\n    return Finding('ok', str(os.getpid()))\n")
    findings = examine([_check("pid"), _check("fine")])
    pid = int(next(findings).found)
    os.kill(pid, 0)
    findings.close()
    _wait_until_gone(pid)


def _wait_until_gone(pid: int) -> None:
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if (Path("/proc") / str(pid) / "stat").exists() and " Z " in (Path("/proc") / str(pid) / "stat").read_text():
            return  # dead, and waiting for the first process of the system to take note of it
        time.sleep(0.05)
    pytest.fail(f"process {pid} is still there")
