"""Where results come from: command, commit, machine, versions."""

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "anomalib", "lightning", "openvino", "faiss-cpu", "scikit-learn")
HERE = Path(__file__).parent


def provenance() -> dict[str, Any]:
    """Facts about this run that its results are published with."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", ":(top)src")  # scripts are committed together with their results
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_public, sys.argv[1:])]),
        "commit": commit + ("-dirty" if changed else ""),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{_processor()}, {_cores()} cores",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(HERE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _public(argument: str) -> str:
    """Argument without the folders above a path: results are published, a machine's paths are not."""
    return Path(argument).name if "/" in argument else argument


def _processor() -> str:
    """Name of the processor, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
