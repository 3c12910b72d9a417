"""The file of a memory bank: whole or as it was, and changed by one process at a time."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import engine, one_class, seeded

from panda_anomalib import Dn2
from panda_anomalib.bank import add_images, remove_images, store
from panda_anomalib.bank.store import changing, read_model
from panda_anomalib.models.panda import Panda


@pytest.fixture(scope="module")
def fitted(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of 30 normal images."""
    run = engine(tmp_path_factory.mktemp("fitted"))
    run.fit(seeded(Dn2), datamodule=one_class(photographs))
    return Path(run.best_model_path)


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    """A copy of it in a folder of its own."""
    return Path(shutil.copy(fitted, tmp_path / "model.ckpt"))


def paths(model: Path) -> list[str]:
    """The images in its bank."""
    found: list[str] = torch.load(model, weights_only=True)["panda_anomalib"]["training_paths"]
    return found


class Killed(BaseException):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("failure", [Killed(), OSError(28, "No space left on device"), RuntimeError("unexpected pos")])
def test_half_a_file_never_takes_the_place(
    failure: BaseException, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file is there, whole, whatever ends the writing of the new one."""

    def write_half(_: Any, file: Any) -> None:
        file.write(b"half")
        raise failure

    before = model.read_bytes()
    monkeypatch.setattr(store.torch, "save", write_half)
    killed = isinstance(failure, Killed)
    message = None if killed else "could not be replaced and is as it was: .*(space|pos)"
    with pytest.raises(Killed if killed else RuntimeError, match=message):
        remove_images(model, paths(model)[:1])
    assert model.read_bytes() == before
    assert sorted(path.name for path in model.parent.iterdir()) == [".model.ckpt.lock", "model.ckpt"]


def test_what_a_killed_process_left_is_cleared(model: Path) -> None:
    """Half a new file of the process before; its lock was freed by its end."""
    left = model.with_name(".model.ckpt.new")
    left.write_bytes(b"half")
    remove_images(model, paths(model)[:1])
    assert not left.exists()
    assert len(paths(model)) == 29


def test_the_new_file_is_on_disk_before_it_takes_the_place(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Synced, replaced, then its folder synced: after a loss of power there is one whole file or the other."""
    events = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("sync"), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda self, other: (events.append("replace"), replace(self, other))[1])
    model.chmod(0o640)
    remove_images(model, paths(model)[:1])
    assert events == ["sync", "replace", "sync"]
    assert model.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(model: Path, tmp_path: Path) -> None:
    """The file behind it is replaced, as behind the folder ``latest``."""
    link = tmp_path / "link.ckpt"
    link.symlink_to(model)
    remove_images(link, paths(model)[:1])
    assert link.is_symlink()
    assert len(paths(model)) == 29


def test_a_file_written_meanwhile_is_not_overwritten(model: Path) -> None:
    """A training that ends while images are embedded heeds no lock."""

    def change() -> None:
        with changing(model) as own:
            model.write_bytes(theirs)
            own.write()

    theirs = model.read_bytes() + b"\0"
    with pytest.raises(RuntimeError, match=r"must stay as it was read .* does not heed the lock"):
        change()
    assert model.read_bytes() == theirs


_HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_process_waits_or_says_so(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another process has the lock: an error after the time to wait; done when it has ended, even by being killed."""
    lock = model.with_name(".model.ckpt.lock")
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        caplog.set_level(logging.INFO)
        with pytest.raises(RuntimeError, match=r"must not be in use, but another process .* for 0.1 s; try again"):
            remove_images(model, paths(model)[:1], wait=0.1)
        assert "Another process is changing" in caplog.text
        assert len(paths(model)) == 30
        other.kill()
    remove_images(model, paths(model)[:1], wait=0.1)
    assert len(paths(model)) == 29


def test_a_folder_that_cannot_be_written_is_named_first(model: Path) -> None:
    """Before any image is embedded; here something stands in the place of the lock, which stops root as well."""
    model.with_name(".model.ckpt.lock").mkdir()
    with pytest.raises(RuntimeError, match=r"folder of the model must be writable to replace it, got .*directory"):
        remove_images(model, paths(model)[:1])


def test_changes_at_once_are_all_made(model: Path, photographs: Path) -> None:
    """Each reads what the one before has written: nothing is lost."""
    new = sorted((photographs / "coffee").iterdir())[:3]
    gone = paths(model)[0]
    tasks = [threading.Thread(target=add_images, args=(model, [path])) for path in new]
    tasks.append(threading.Thread(target=remove_images, args=(model, [gone])))
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    assert set(paths(model)) >= {str(path) for path in new}
    assert gone not in paths(model)
    assert len(paths(model)) == 32


def test_reading_waits_for_nobody(model: Path) -> None:
    """Only changes are one at a time."""
    with changing(model):
        start = time.monotonic()
        assert read_model(model).digest == hashlib.sha256(model.read_bytes()).hexdigest()
    assert time.monotonic() - start < 60


def test_what_is_no_bank_is_refused(model: Path, tmp_path: Path) -> None:
    """Missing, truncated, damaged inside, foreign, not finished."""
    with pytest.raises(FileNotFoundError, match=r"must be an existing file, got '.*nothing\.ckpt'"):
        read_model(tmp_path / "nothing.ckpt")
    whole = model.read_bytes()
    other = tmp_path / "other.ckpt"
    other.write_bytes(whole[:-500])
    with pytest.raises(ValueError, match="damaged or another kind of file"):
        read_model(other)
    torch.save({"state_dict": {}}, other)
    with pytest.raises(
        ValueError, match=r"must be a checkpoint of Dn2, Dn2Set, Panda, .* of a model that is not of panda_ano"
    ):
        read_model(other)
    checkpoint = torch.load(model, weights_only=True)
    checkpoint["panda_anomalib"]["model"] = "Dn3"
    torch.save(checkpoint, other)
    with pytest.raises(ValueError, match="of a Dn3"):
        read_model(other)
    at = whole.index(b"panda_anomalib")
    other.write_bytes(whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :])
    with pytest.raises(ValueError, match=r"cannot be read .* it is damaged, take another copy"):
        read_model(other)


def test_unfinished_training_has_no_bank(photographs: Path, tmp_path: Path) -> None:
    """A checkpoint from the middle of a training."""
    run = engine(tmp_path)
    run.fit(seeded(Panda, minibatches=1, learning_rate=0.01), datamodule=one_class(photographs))
    checkpoint = torch.load(run.best_model_path, weights_only=True)
    checkpoint["state_dict"]["model.scorer.calibration"] = torch.empty(0)
    torch.save(checkpoint, tmp_path / "half.ckpt")
    with pytest.raises(ValueError, match=r"model must have a memory bank, got .* of a training that was not finished"):
        read_model(tmp_path / "half.ckpt")
