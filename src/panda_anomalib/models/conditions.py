"""What the last digits of a memory bank depend on beside the images: runtime, batch size, versions, threads."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import version

import faiss
import torch
from threadpoolctl import threadpool_info, threadpool_limits

__all__ = ["Conditions", "device_of", "differences", "fit_conditions", "threads_of"]

Conditions = dict[str, str | int]
"""Plain data: it is kept in checkpoints."""


def fit_conditions(runtime: str, batch_size: int | None, device: torch.device) -> Conditions:
    """Conditions of a fit in this process.

    Args:
        runtime: What executes the backbone.
        batch_size: Size of the batches that the backbone sees, if it is one size.
        device: Where it does.
    """
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    conditions: Conditions = {
        "runtime": runtime,
        "batch_size": batch_size or 0,
        "device": device.type,
        "processor": processor,
        "torch": version("torch"),
        **_threads(),
    }
    return {**conditions, "openvino": version("openvino")} if runtime.startswith("openvino") else conditions


def device_of(conditions: Mapping[str, str | int]) -> torch.device:
    """Device of a fit, where there is one of its kind here, else the CPU."""
    return torch.device("cuda" if conditions.get("device") == "cuda" and torch.cuda.is_available() else "cpu")


def differences(then: Mapping[str, str | int], now: Mapping[str, str | int]) -> str:
    """What is not as it was, in words; empty when all is."""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return ", ".join(f"{name} {then.get(name, 'unknown')} then and {now.get(name, 'unknown')} now" for name in names)


@contextlib.contextmanager
def threads_of(conditions: Mapping[str, str | int]) -> Iterator[None]:
    """Compute with as many threads as a fit did, where there are as many processors.

    K-means and PCA sum in an order that follows from the number of threads, and round accordingly.
    """
    own = _threads()
    wanted = {name: int(conditions.get(name, count)) for name, count in own.items()}
    if max(wanted.values()) > (os.cpu_count() or 1):
        yield
        return
    try:
        _set_threads(wanted)
        with threadpool_limits({"blas": wanted["blas_threads"]}):
            yield
    finally:
        _set_threads(own)


def _threads() -> dict[str, int]:
    blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {
        "torch_threads": torch.get_num_threads(),
        "faiss_threads": faiss.omp_get_max_threads(),
        "blas_threads": max(blas, default=1),
    }


def _set_threads(threads: Mapping[str, int]) -> None:
    torch.set_num_threads(threads["torch_threads"])
    faiss.omp_set_num_threads(threads["faiss_threads"])
