"""The trials find nothing where nothing is wrong, and what is broken where it is."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from panda_anomalib.doctor import trials
from panda_anomalib.doctor.trials import check_fit, check_runtimes, check_search
from panda_anomalib.scorers import WhiteningScorer, index


def test_search_agrees() -> None:
    """Positions and distances."""
    assert check_search().status == "ok"


@pytest.mark.parametrize(("spoil", "text"), [("order", "of 320 neighbours"), ("lengths", "differ in distances")])
def test_an_index_that_finds_others(spoil: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours, or distances alone."""
    right = index.build_index

    class Wrong:
        def __init__(self, kind: Any, bank: torch.Tensor) -> None:
            self.index = right(kind, bank.flip(0) if spoil == "order" else bank)

        def search(self, queries: Any, count: int) -> Any:
            squared, positions = self.index.search(queries, count)
            return (squared, positions) if spoil == "order" else (squared * 1.01, positions)

    monkeypatch.setattr(index, "build_index", Wrong)
    finding = check_search()
    assert finding.status == "error"
    assert text in finding.found
    assert "faiss-cpu" in finding.mend


def test_runtimes_that_work_are_listed() -> None:
    """Eager always does."""
    finding = check_runtimes()[-1]
    assert finding.status == "ok"
    assert finding.found.startswith("eager, channels_last")


def test_a_broken_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` would take it: an error, and the way around it is to install it again."""
    (tmp_path / "openvino.py").write_text("raise OSError('libopenvino.so: cannot open shared object file')\n")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    broken, others = check_runtimes()
    assert broken.status == "error"
    assert broken.found == "openvino does not work: OSError: libopenvino.so: cannot open shared object file"
    assert broken.mend.endswith("openvino")
    assert "openvino" not in others.found


def test_a_runtime_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with eager PyTorch."""
    from panda_anomalib.backbones import runtimes

    right = runtimes.make_runtime
    wrong = lambda name, network: lambda x: right(name, network)(x) + (name == "channels_last")  # noqa: E731
    monkeypatch.setattr(runtimes, "make_runtime", wrong)
    assert check_runtimes()[0].found == "channels_last does not work: embeddings differ by 1"


def test_without_openvino_and_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """No error, but said with what helps."""
    monkeypatch.setattr(trials.importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    monkeypatch.setenv("CXX", "no-such-compiler")
    (finding,) = check_runtimes()
    assert finding.status == "ok"
    assert finding.found.startswith("eager, channels_last; not usable: openvino (")
    assert "install" in finding.found
    assert finding.found.endswith("compile (no C++ compiler no-such-compiler: apt install g++)")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_a_compiler_without_pythons_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile needs them; the compiler's own words are told."""
    script = tmp_path / "g++"
    script.write_text("#!/bin/sh\necho '<stdin>:1:10: fatal error: Python.h: No such file' >&2\nexit 1\n")
    script.chmod(stat.S_IRWXU)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "compile (g++: <stdin>:1:10: fatal error: Python.h: No such file: apt install g++ python3-dev)" in (
        check_runtimes()[-1].found
    )


def test_fit_tells_drawn_anomalies() -> None:
    """With the packaged weights."""
    finding = check_fit()
    assert finding.status == "ok", finding.found
    assert finding.found.startswith("DN2: 8 of 8 drawn anomalies found, on ")


def test_fit_without_packaged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random ones do for stripes, but it is said."""

    def fail(_: str) -> None:
        raise FileNotFoundError("no weights")

    monkeypatch.setattr("panda_anomalib.backbones.packaged.packaged_state_dict", fail)
    finding = check_fit()
    assert finding.status == "warning"
    assert "random weights" in finding.found


def test_fit_whose_verdicts_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scorer for which all images are alike."""
    explain = WhiteningScorer.explain

    def same(self: WhiteningScorer, embeddings: torch.Tensor, num_neighbors: int) -> Any:
        distances, neighbors = explain(self, embeddings, num_neighbors)
        return torch.zeros_like(distances), neighbors

    monkeypatch.setattr(WhiteningScorer, "explain", same)
    finding = check_fit()
    assert finding.status == "error"
    assert finding.found.startswith("DN2 with packaged weights: 0 of 8 drawn anomalies found")
