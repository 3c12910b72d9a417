"""How much memory there is; imports nothing heavy, because the doctor asks where torch cannot be imported."""

import os
from pathlib import Path

__all__ = ["CONTROL_GROUP", "available_memory"]

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where Linux keeps the limits of the container that this process runs in."""


def available_memory() -> int:
    """Bytes of memory that this process can still use, as far as the system tells."""
    try:
        available = _read_bytes(Path("/proc/meminfo"), "MemAvailable:") * 1024
    except OSError:  # not Linux: half of what is installed, where that can be asked
        sysconf = getattr(os, "sysconf", None)
        return sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES") // 2 if sysconf else 4 * 2**30
    try:  # a container's limit, which /proc/meminfo does not know
        limit, used = (int((CONTROL_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        reclaimable = _read_bytes(CONTROL_GROUP / "memory.stat", "inactive_file")
    except (OSError, ValueError):  # no such file, or the word "max": no limit
        return available
    return min(available, max(limit - used + reclaimable, 0))


def _read_bytes(path: Path, name: str) -> int:
    """Number behind a name at the start of a line."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    raise OSError(f"{path} has no line {name}")
