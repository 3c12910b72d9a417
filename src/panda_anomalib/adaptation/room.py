"""How much memory there is, and disk space that is taken before it is used."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["available_memory", "reserve"]

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes of memory that this process can still use, as far as the system tells."""
    try:
        available = _read_bytes(Path("/proc/meminfo"), "MemAvailable:") * 1024
    except OSError:  # not Linux: half of what is installed, where that can be asked
        sysconf = getattr(os, "sysconf", None)
        return sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES") // 2 if sysconf else 4 * 2**30
    try:  # a container's limit, which /proc/meminfo does not know
        limit, used = (int((_CONTROL_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        reclaimable = _read_bytes(_CONTROL_GROUP / "memory.stat", "inactive_file")
    except (OSError, ValueError):  # no such file, or the word "max": no limit
        return available
    return min(available, max(limit - used + reclaimable, 0))


def _read_bytes(path: Path, name: str) -> int:
    """Number behind a name at the start of a line."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    raise OSError(f"{path} has no line {name}")


def reserve(folder: Path, size: int) -> Tensor | None:
    """Bytes ``(size,)`` of a file without a name, which vanishes with its last user however that ends.

    The room is taken before it is used: writing to a map on a full disk would kill the process.

    Returns:
        Memory map, or None where the disk or the user's quota is full.

    Raises:
        OSError: If no file can be written in the folder at all.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                for start in range(0, size, 2**24):
                    file.write(bytes(min(2**24, size - start)))
                file.flush()
            return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,)))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        return None
