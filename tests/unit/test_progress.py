"""Progress of long passes."""

import io
import logging
import sys

import pytest

from panda_anomalib import progress
from panda_anomalib.progress import track


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Clock that stands where the test puts it: the only item."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    return clock


@pytest.mark.parametrize(("duration", "ends"), [(9.0, []), (12.3, ["Fisher: 3 done in 12 s."])])
def test_log_has_a_line_at_the_start_and_one_at_a_late_end(
    duration: float, ends: list[str], seconds: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """The items arrive unchanged; the end is worth a line only after ten seconds."""
    caplog.set_level(logging.INFO)
    items = track("abc", "Fisher")
    assert next(items) == "a"
    assert caplog.messages == ["Fisher: 0 of 3."]
    seconds[0] = duration
    assert list(items) == ["b", "c"]
    assert caplog.messages[1:] == ends


def test_log_goes_on_every_minute(seconds: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """Who reads the log of hours of work sees how far it is."""
    caplog.set_level(logging.INFO)
    for item in track(range(6), "Embeddings"):
        seconds[0] = 25.0 * (item + 1)
    assert caplog.messages[1:] == ["Embeddings: 3 of 6.", "Embeddings: 6 done in 150 s."]


def test_unknown_length(caplog: pytest.LogCaptureFixture) -> None:
    """A generator has no length; one that is given is used."""
    caplog.set_level(logging.INFO)
    assert list(track(iter("ab"), "Reading")) == ["a", "b"]
    assert list(track(iter("ab"), "Reading", total=2)) == ["a", "b"]
    assert caplog.messages == ["Reading: started.", "Reading: 0 of 2."]


def test_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Description and count are drawn on standard error, nothing is logged or printed, and a break ends the bar."""
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(track(range(4), "Memory bank")) == [0, 1, 2, 3]
    assert "Memory bank" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    for _ in track(range(4), "Broken off"):
        break
    shown, hidden = (terminal.getvalue().rindex(f"\x1b[?25{letter}") for letter in "hl")
    assert shown > hidden, "the cursor must come back"
    assert capsys.readouterr().out == ""
    assert caplog.messages == []


def test_other_processes_are_silent(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One of several processes speaks for all."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert list(track("ab", "Fisher")) == ["a", "b"]
    assert caplog.messages == []
