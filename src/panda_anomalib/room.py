"""Room for what is computed once: in memory, or on disk in a file without a name."""

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from panda_anomalib.memory import available_memory

__all__ = ["CacheName", "check_cache", "private_memory", "reserve", "take_room"]

logger = logging.getLogger(__name__)

CacheName = Literal["auto", "memory", "disk", "off"]
StorageName = Literal["memory", "disk", "off"]

_DISK_SHARE = 0.9  # of what is free: the run's checkpoints and results often go to the same disk


def check_cache(cache: str, memory_budget: int | None) -> None:
    """Refuse arguments that ``take_room`` does not know.

    Raises:
        ValueError: If they are not accepted.
    """
    if cache not in get_args(CacheName):
        raise ValueError(f"cache must be one of {', '.join(get_args(CacheName))}, got {cache!r}.")
    if memory_budget is not None and memory_budget < 0:
        raise ValueError(f"memory_budget must be at least 0, got {memory_budget}.")


def private_memory(size: int) -> Tensor:
    """Bytes ``(size,)`` of this process."""
    return torch.empty(size, dtype=torch.uint8)


def take_room(
    size: int,
    what: str,
    cache: CacheName,
    *,
    otherwise: str,
    memory_budget: int | None = None,
    folder: Path | None = None,
    allocate: Callable[[int], Tensor] = private_memory,
) -> tuple[StorageName, Tensor | None]:
    """Take room for something where ``cache`` asks for it, and say where in one log line.

    Args:
        size: Bytes.
        what: What it is for, as the log should begin.
        cache: ``memory``, ``disk``, ``off``, or ``auto``: the first of these that has room.
        otherwise: What happens where nothing is kept, as a sentence.
        memory_budget: Bytes of memory to use at most; by default a quarter of what is available, shared by all
            processes of a training.
        folder: Where the file goes; by default the system's folder for temporary files.
        allocate: Gives memory.

    Returns:
        Which of them it is, and the bytes ``(size,)``, or None for ``off``.

    Raises:
        ValueError: If ``memory`` or ``disk`` is asked for and has no room.
    """
    text = f"{what}: {_mb(size)}"
    named = what[0].lower() + what[1:]
    if cache == "off":
        logger.info("%s, not kept (cache='off').", text)
        return "off", None
    folder = folder or Path(tempfile.gettempdir())
    memory, disk = _memory_room(memory_budget), int(shutil.disk_usage(folder).free * _DISK_SHARE)
    if cache != "disk" and size <= memory:
        room = allocate(size)
        logger.info("%s, kept in memory.", text)
        return "memory", room
    if cache == "memory":
        raise ValueError(
            f"memory_budget must be at least {_mb(size)} to keep the {named} (cache='memory'), got room for "
            f"{_mb(memory)}; raise it, or use cache='auto'."
        )
    if size <= disk and (mapped := reserve(folder, size)) is not None:
        logger.info("%s, kept on disk (a memory map in '%s').", text, folder)
        return "disk", mapped
    if cache == "disk":
        raise ValueError(
            f"folder must have room for {_mb(size)} to keep the {named} (cache='disk'), got room for {_mb(disk)} in "
            f"'{folder}'; free some, choose another folder, or use cache='auto'."
        )
    logger.info(
        "%s, not kept: there is room for %s in memory and %s in '%s'. %s",
        *(text, _mb(memory), _mb(disk), folder, otherwise),
    )
    return "off", None


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


def _memory_room(memory_budget: int | None) -> int:
    available = available_memory()
    if memory_budget is not None:
        return min(memory_budget, available)
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return available // 4 // (torch.distributed.get_world_size() if distributed else 1)


def _mb(size: int) -> str:
    return f"{size / 10**6:.4g} MB"
