"""Memory at hand."""

from pathlib import Path

import pytest

from panda_anomalib import memory
from panda_anomalib.memory import available_memory


def test_container_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit less what is in use, of which the inactive file cache can be had back."""
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    unlimited = available_memory()
    assert unlimited > 10**6
    for name, text in (("max", "900000\n"), ("current", "600000\n"), ("stat", "anon 1\ninactive_file 50000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert available_memory() == 350_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 350_000
