"""Disk space that is taken before it is used; `take_room` is tested where it is used (test_stem_cache)."""

import errno
import os
from pathlib import Path

import pytest

from panda_anomalib.room import reserve


def test_reserved_room_can_be_written(tmp_path: Path) -> None:
    """Every byte of it, without a file to be seen."""
    mapped = reserve(tmp_path, 5000)
    assert mapped is not None
    assert mapped.shape == (5000,)
    mapped.fill_(7)
    assert int(mapped.sum()) == 35_000
    assert list(tmp_path.iterdir()) == []


def test_without_fallocate_the_room_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    mapped = reserve(tmp_path, 5000)
    assert mapped is not None
    assert mapped.shape == (5000,)
    assert int(mapped.sum()) == 0


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_full_disk_is_none_and_other_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is a reason to do without; a broken one is not."""

    def fail(number: int) -> None:
        def fallocate(*_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "posix_fallocate", fallocate)

    for number in (errno.ENOSPC, errno.EDQUOT):
        fail(number)
        assert reserve(tmp_path, 5000) is None
    fail(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        reserve(tmp_path, 5000)
