"""Which errors are told in one line."""

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from panda_anomalib.atomic import check_writable, write_atomically
from panda_anomalib.failures import describe_failure


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files of this process can have 4096 bytes: as on a disk that is full, the rest cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _caught(action: object) -> Exception:
    try:
        action()  # type: ignore[operator]
    except (OSError, RuntimeError, ValueError) as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("way", ["bytes", "torch"])
def test_a_full_disk_is_named_and_leaves_nothing(way: str, tmp_path: Path) -> None:
    """Python, and torch, which has an error of its own; the file that was there is as it was."""
    path = tmp_path / "file.pt"
    path.write_bytes(b"before")
    write = Path.write_bytes if way == "bytes" else lambda file, data: torch.save(torch.tensor(list(data)), file)
    message = describe_failure(_caught(lambda: write_atomically(path, lambda file: write(file, bytes(10000)))))
    assert message is not None
    assert message.startswith("disk must have room, got none while writing")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"before"]


def test_what_the_system_refuses_is_the_users(tmp_path: Path) -> None:
    """Whoever's code meets it; a temporary name is not shown."""
    message = describe_failure(_caught(lambda: (tmp_path / "no/file").write_text("")))
    assert message == (
        f"file or folder must be accessible, got No such file or directory '{tmp_path}/no/file'; check path and "
        "permissions."
    )
    hidden = OSError(errno.EACCES, "Permission denied", str(tmp_path / f".{'0a' * 16}.ckpt"))
    assert f"got Permission denied '{tmp_path}';" in str(describe_failure(hidden))


def test_errors_of_code_are_not(tmp_path: Path) -> None:
    """They deserve a traceback."""
    assert describe_failure(_caught(lambda: int("seven"))) is None
    assert describe_failure(_caught(lambda: os.read(-1, 1))) is None  # a bad file descriptor


def test_a_folder_for_results_is_tried_and_not_made(tmp_path: Path) -> None:
    """Permission bits say nothing to root: where a file stands in the way, everybody fails."""
    (tmp_path / "file").touch()
    check_writable(tmp_path / "deep/results", "output")
    with pytest.raises(OSError, match=r"^output must be a folder one can write to, got '.*/file/results' \(Not a dir"):
        check_writable(tmp_path / "file/results", "output")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
