"""Checks of the machine, on machines that lack something."""

import os
import shutil
import sys
import tempfile
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from panda_anomalib.doctor import machine
from panda_anomalib.doctor.machine import check_devices, check_folders, check_memory, check_processor

Usage = namedtuple("Usage", ["total", "used", "free"])
_GIB = 2**30


def test_this_machine_is_described() -> None:
    """Whatever it is."""
    for finding in (check_processor(), check_memory()[0], check_devices()[0]):
        assert finding.found
        assert finding.status in ("ok", "warning")


def test_more_threads_than_the_container_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By affinity, and by the container's share of time; the command names what would do."""
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    finding = check_processor()
    assert (finding.status, finding.found) == ("ok", "64 cores, 8 of them for this process; torch starts 8 threads")
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    finding = check_processor()
    assert finding.status == "warning"
    assert "time of 2.5 (container's limit)" in finding.found
    assert finding.mend == "export OMP_NUM_THREADS=2"
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert check_processor().status == "ok"


def test_processor_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not imported for this: it may be what crashes."""
    monkeypatch.delitem(sys.modules, "torch")
    assert "torch" not in check_processor().found
    assert "torch" not in sys.modules


@pytest.mark.parametrize(("available", "status"), [(_GIB // 2, "error"), (2 * _GIB, "warning"), (8 * _GIB, "ok")])
def test_little_memory(available: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error where nothing can run, a warning where large networks cannot."""
    monkeypatch.setattr(machine, "available_memory", lambda: available)
    assert check_memory()[0].status == status


def test_a_container_without_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker gives 64 MiB, in which loading processes die of signal SIGBUS."""
    monkeypatch.setattr(machine, "_SHARED", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 64 * 2**20))
    finding = check_memory()[-1]
    assert (finding.status, finding.found) == ("warning", f"{tmp_path} has 64 MiB for batches of images")
    assert finding.mend == "docker run --shm-size=1g, or --data.num_workers 0"


def test_a_device_that_does_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a card that this torch has no kernels for: Lightning would choose it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    card = SimpleNamespace(name="Old Card", total_memory=8 * _GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)

    def fail(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available\nand more")

    monkeypatch.setattr(torch, "ones", fail)
    (finding,) = check_devices()
    assert finding.status == "error"
    assert finding.found == "cuda:0 (Old Card, 8 GiB) does not compute: CUDA error: no kernel image is available"
    assert finding.mend.startswith("--trainer.accelerator cpu")
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(8, 8))
    assert check_devices()[0].found.endswith("computes wrongly: 0.0 instead of 512")


@pytest.mark.parametrize(
    ("built_for", "hidden", "status", "text"),
    [
        (None, None, "warning", "is built without CUDA"),
        ("13.0", None, "warning", "not usable"),
        ("13.0", "", "ok", "CUDA_VISIBLE_DEVICES hides it"),
    ],
)
def test_a_card_that_torch_does_not_see(
    built_for: str | None, hidden: str | None, status: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said, with what would help; unless the user has hidden it."""
    monkeypatch.setattr(machine, "_nvidia_card", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    (finding,) = check_devices()
    assert finding.status == status
    assert text in finding.found
    assert bool(finding.mend) is (status == "warning")


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of all kinds, which can be written."""
    for name in ("HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A folder in which nobody can make a file, not even root."""
    folder = tmp_path / "read_only"
    folder.mkdir(mode=0o500)
    return Path("/proc") if os.access(folder, os.W_OK) else folder


def test_folders_that_can_be_written(caches: Path) -> None:
    """Those that are not there yet are not made."""
    (finding,) = check_folders(str(caches / "deep/results"))
    assert finding.status == "ok"
    assert str(caches / "deep/results") in finding.found
    assert list(caches.iterdir()) == []


def test_results_that_cannot_be_written(caches: Path, unwritable: Path) -> None:
    """An error, with the option that names another folder; also where a file stands in the way."""
    (finding,) = check_folders(str(unwritable / "results"))
    assert finding.status == "error"
    assert finding.found.startswith(f"results cannot be written to {unwritable / 'results'}: ")
    assert finding.mend == "--default_root_dir FOLDER"
    (caches / "file").touch()
    (finding,) = check_folders(str(caches / "file"))
    assert finding.found.endswith(": Not a directory")


def test_caches_that_cannot_be_written_are_a_warning(
    caches: Path, unwritable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are for downloads only."""
    monkeypatch.setenv("HF_HOME", str(unwritable / "hub"))
    (finding,) = check_folders(str(caches))
    assert (finding.status, finding.mend) == ("warning", "export HF_HOME=FOLDER")


def test_no_folder_for_temporary_files(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python itself gives up then."""

    def fail() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    (finding,) = check_folders(str(caches))
    assert (finding.status, finding.mend) == ("error", "export TMPDIR=FOLDER")


@pytest.mark.parametrize(("free", "statuses"), [(_GIB // 2, {"warning"}), (_GIB // 20, {"error", "warning"})])
def test_little_room_on_the_disk(free: int, statuses: set[str], caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caches can do without."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free))
    findings = check_folders(str(caches))
    assert {finding.status for finding in findings} == statuses
    assert all(f"{free / 2**20:.0f} MiB free" in finding.found for finding in findings)
