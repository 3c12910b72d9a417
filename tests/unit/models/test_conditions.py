"""Conditions of a fit: said where they differ, repeated where they can be."""

import os

import faiss
import pytest
import torch
from threadpoolctl import threadpool_info

from panda_anomalib.models.conditions import device_of, differences, fit_conditions, threads_of

CPU = torch.device("cpu")


def threads() -> list[int]:
    """Numbers of threads of PyTorch, faiss and the linear algebra of numpy."""
    blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return [torch.get_num_threads(), faiss.omp_get_max_threads(), max(blas)]


def test_differences_are_named() -> None:
    """Nothing to say where all is the same; otherwise both sides, also of what one side does not know."""
    conditions = fit_conditions("openvino", 32, CPU)
    assert conditions["batch_size"] == 32
    assert conditions["device"] == "cpu"
    assert differences(conditions, dict(conditions)) == ""
    other = {**conditions, "batch_size": 8, "openvino": "1.0"}
    assert differences(conditions, other) == (
        f"batch_size 32 then and 8 now, openvino {conditions['openvino']} then and 1.0 now"
    )
    assert "openvino 1.0 then and unknown now" in differences(other, fit_conditions("eager", 8, CPU))


def test_a_refit_has_the_threads_of_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """K-means sums in another order with another number of threads; afterwards all is as it was."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    before = threads()
    with threads_of({"torch_threads": 3, "faiss_threads": 3, "blas_threads": 2}):
        assert threads() == [3, 3, 2]
    assert threads() == before
    with threads_of({}):  # of an earlier version
        assert threads() == before
    with threads_of({"torch_threads": 64}):  # more than there are processors: slower, and not the same either
        assert threads() == before


def test_device_is_the_processor_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank that was made on a GPU can be changed without one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of({"device": "cuda"}) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of({"device": "cuda"}) == torch.device("cuda")
    assert device_of({"device": "cpu"}) == device_of({}) == CPU
