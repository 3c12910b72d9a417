"""Files with the same bytes."""

from pathlib import Path

import pytest

from panda_anomalib.data.copies import first_with_same_bytes


def test_first_of_each_kind_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By bytes, not by size or name; a path that comes twice is its own copy; single sizes are not even read."""
    for name, content in {"a": "one", "b": "two", "c": "one", "d": "three!", "e": "two"}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "link").symlink_to(tmp_path / "d")
    paths = [tmp_path / name for name in ("a", "b", "c", "d", "e", "a")]
    assert first_with_same_bytes([*paths, tmp_path / "link"]) == [0, 1, 0, 3, 1, 0, 3]
    read: list[str] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or original(path))
    first_with_same_bytes(paths)
    assert "d" not in read
    assert first_with_same_bytes([]) == []
