"""Where a row comes from: commit, versions, machine, weights."""

import contextlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["provenance", "weights_sha256"]

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "anomalib", "panda_anomalib", "faiss-cpu", "openvino")
_PACKAGE = Path(__file__).parents[1]


@cache
def provenance() -> dict[str, str]:
    """Columns that all rows of a process share: ``commit``, ``versions`` and ``machine``, the last two as JSON."""
    return {
        "commit": _commit(),
        "versions": json.dumps({"python": platform.python_version(), **_versions()}),
        "machine": json.dumps(_machine()),
    }


def weights_sha256(model: Any) -> str:
    """Hash of the file that the backbone's weights came from; empty where the model does not say."""
    found = getattr(model, "provenance", None)
    return str(found.get("sha256", "")) if isinstance(found, dict) else ""


def _commit() -> str:
    """Commit of this package, with ``-dirty`` where it was changed since; empty outside a checkout of it."""
    top = _git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() / "src" / _PACKAGE.name != _PACKAGE.resolve():
        return ""  # installed, maybe into a folder of somebody else's checkout
    return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", "--", ".") else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_PACKAGE), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    except OSError:  # there is no git
        return ""


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):  # an extra that is not installed, or a source tree
            found[name] = version(name)
    return found


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.system(),
        "processor": _processor(),
        "cores": cores,
        "memory_gib": _memory(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
