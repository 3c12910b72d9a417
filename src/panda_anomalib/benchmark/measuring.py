"""What a job needs beside time: memory while it runs, and room for what it has learnt."""

import contextlib
import re
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

__all__ = ["PeakMemory", "state_mib"]

_MIB = 2**20
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Most memory that this process held between entering and leaving, where the system can tell.

    Attributes:
        mib: Of the GPU where the job ran on one, else of the process; None where only an earlier peak is known.
    """

    def __init__(self, accelerator: str) -> None:
        self._cuda = accelerator == "cuda"
        self.mib: float | None = None

    def __enter__(self) -> Self:
        """Forget earlier peaks."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            self._before = _earlier_peak()
        return self

    def __exit__(self, *_: object) -> None:
        """Read the peak."""
        if self._cuda:
            self.mib = torch.cuda.max_memory_allocated() / _MIB
            return
        peak = _peak()
        self.mib = peak / _MIB if self._before is None or peak > self._before else None


def state_mib(model: nn.Module) -> float:
    """Size of weights and buffers; what it gains in a fit of a frozen network is the size of the bank."""
    values: list[Any] = list(model.state_dict().values())
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, torch.Tensor)) / _MIB


def _earlier_peak() -> int | None:
    """Forget the peak so far and return None, or return it where it cannot be forgotten."""
    with contextlib.suppress(OSError):
        _RESET.write_text("5")
        return None
    return _peak()


def _peak() -> int:
    with contextlib.suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), flags=re.MULTILINE):
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
