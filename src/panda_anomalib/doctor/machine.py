"""Checks of the machine: processor, memory, devices, folders."""

import math
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from panda_anomalib.atomic import try_folder
from panda_anomalib.doctor.findings import Finding, install_command
from panda_anomalib.memory import CONTROL_GROUP, available_memory

__all__ = ["check_devices", "check_folders", "check_memory", "check_processor"]

_GIB = 2**30
_SHARED = Path("/dev/shm")  # noqa: S108 - where loading processes leave their batches
_SHARED_LEAST = 256 * 2**20  # four processes, two batches of 32 images of 224 x 224 each


def check_processor() -> Finding:
    """Cores of the machine, those this process may use, and the threads it starts."""
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    found, least = f"{cores} cores", float(usable)
    if usable != cores:
        found += f", {usable} of them for this process"
    if (quota := _cpu_quota()) is not None:
        found, least = f"{found}, time of {quota:g} (container's limit)", min(least, quota)
    torch: Any = sys.modules.get("torch")  # not imported here: it may crash, which its own check tells
    if torch is None:
        return Finding("ok", found)
    threads = torch.get_num_threads()
    found += f"; torch starts {threads} thread{'s' * (threads != 1)}"
    if "OMP_NUM_THREADS" in os.environ:
        found += f" (OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']})"
    if threads > (wanted := max(math.floor(least), 1)):
        mend = f"export OMP_NUM_THREADS={wanted}"
        return Finding("warning", f"{found}, more than can run at a time: everything is slower", mend)
    return Finding("ok", found)


def _cpu_quota() -> float | None:
    """Cores' worth of time that a container's limit grants; None without a limit."""
    try:
        quota, period = (CONTROL_GROUP / "cpu.max").read_text().split()
        return round(int(quota) / int(period), 2)
    except (OSError, ValueError):  # no such file, or the word "max"
        return None


def check_memory() -> list[Finding]:
    """Memory at hand, and the part of it through which loading processes pass images."""
    available = available_memory()
    found = f"{available / _GIB:.1f} GiB available"
    findings = []
    if available < _GIB:
        findings.append(Finding("error", f"{found}; even small networks need 1 GiB", "close other programs"))
    elif available < 3 * _GIB:
        mend = "close other programs, or use the default backbone and --data.num_workers 0"
        findings.append(Finding("warning", f"{found}; large networks need more", mend))
    else:
        findings.append(Finding("ok", found))
    if _SHARED.is_dir() and (free := shutil.disk_usage(_SHARED).free) < _SHARED_LEAST:
        mend = "docker run --shm-size=1g, or --data.num_workers 0"
        findings.append(Finding("warning", f"{_SHARED} has {free / 2**20:.0f} MiB for batches of images", mend))
    return findings


def check_devices() -> list[Finding]:
    """Accelerators, each of them tried; a graphics card that torch does not see is named."""
    import torch

    names: list[tuple[str, str]] = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            names.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / _GIB:.0f} GiB"))
    if torch.backends.mps.is_available():
        names.append(("mps", "Apple's GPU"))
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        names.append(("xpu", torch.xpu.get_device_name(0)))
    findings = [_try_device(device, name) for device, name in names]
    if not any(device.startswith("cuda") for device, _ in names) and (card := _nvidia_card()) is not None:
        if torch.version.cuda is None:
            mend = install_command("torch", "torchvision", again=True) + " (both from an index of CUDA builds)"
            findings.append(Finding("warning", f"{card}, but torch {torch.__version__} is built without CUDA", mend))
        else:
            hidden = " (CUDA_VISIBLE_DEVICES hides it)" if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") else ""
            mend = f"update the driver to one for CUDA {torch.version.cuda}, or install an older build of torch"
            findings.append(
                Finding("ok" if hidden else "warning", f"{card}, not usable{hidden}", "" if hidden else mend)
            )
    return findings or [Finding("ok", "CPU only")]


def _try_device(device: str, name: str) -> Finding:
    import torch

    try:
        total = float(torch.ones(8, 8, device=device).matmul(torch.ones(8, 8, device=device)).sum())
    except (AssertionError, RuntimeError) as error:
        mend = "--trainer.accelerator cpu, or an installation of torch that supports this device"
        return Finding("error", f"{device} ({name}) does not compute: {str(error).strip().splitlines()[0]}", mend)
    if total != 512:
        return Finding(
            "error", f"{device} ({name}) computes wrongly: {total} instead of 512", "--trainer.accelerator cpu"
        )
    return Finding("ok", f"{device} ({name}) computes")


def _nvidia_card() -> str | None:
    return "a graphics card of NVIDIA is there" if Path("/dev/nvidia0").exists() else None


def check_folders(results: str) -> list[Finding]:
    """Whether the folders of results, weights and temporary files can be written to, and have room."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folders = {
        "results": (Path(results), "--default_root_dir FOLDER"),
        "weights from the hub": (Path(os.environ.get("HF_HOME", cache / "huggingface")), "export HF_HOME=FOLDER"),
        "torch's weights": (Path(os.environ.get("TORCH_HOME", cache / "torch")), "export TORCH_HOME=FOLDER"),
    }
    findings = [finding for name, (folder, mend) in folders.items() if (finding := _try_folder(name, folder, mend))]
    try:
        if finding := _try_folder("temporary files", Path(tempfile.gettempdir()), "export TMPDIR=FOLDER"):
            findings.append(finding)
    except FileNotFoundError as error:
        findings.append(Finding("error", f"no folder for temporary files: {error}", "export TMPDIR=FOLDER"))
    if findings:
        return findings
    free = shutil.disk_usage(_nearest(Path(results))).free
    where = f"results ({Path(results).absolute()}), caches and temporary files"
    return [Finding("ok", f"{where} can be written, {free / _GIB:.0f} GiB free")]


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _try_folder(name: str, folder: Path, mend: str) -> Finding | None:
    needed = name in ("results", "temporary files")  # the caches are for downloads only
    try:
        free = shutil.disk_usage(try_folder(folder)).free
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding(
            "error" if needed else "warning", f"{name} cannot be written to {folder.absolute()}: {reason}", mend
        )
    if free < _GIB:
        low = needed and free < _GIB // 10
        return Finding(
            "error" if low else "warning", f"{name} in {folder.absolute()}: {free / 2**20:.0f} MiB free", mend
        )
    return None
