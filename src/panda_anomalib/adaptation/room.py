"""Disk space that is taken before it is used."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["reserve"]


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
