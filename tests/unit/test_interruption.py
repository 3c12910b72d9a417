"""Ctrl-C at the worst moment, when a file has been written and is about to take its place."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmark_results import typical_results

from panda_anomalib.cli import main
from panda_anomalib.data import OneClassFolder
from panda_anomalib.engine import Engine
from panda_anomalib.models import Dn2

MODEL = ["--model", "Dn2", "--model.backbone", "test_resnet", "--model.weights", "random"]
MODEL += ["--model.visualizer", "false", "--model.runtime", "channels_last", "--trainer.accelerator", "cpu"]
DATA = ["--data", "OneClassFolder", "--data.normal_class", "astronaut", "--data.num_workers", "0"]


@pytest.fixture(scope="module")
def results(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results folder with one run of Dn2, ``results/Dn2/.../v0``, and one report."""
    root = tmp_path_factory.mktemp("interrupted")
    model = Dn2(backbone="test_resnet", weights="random", runtime="channels_last", visualizer=False)
    engine = Engine(default_root_dir=root / "results", accelerator="cpu", enable_progress_bar=False, logger=False)
    engine.fit(model, datamodule=OneClassFolder(photographs, "astronaut", num_workers=0))
    typical_results(root / "benchmark", np.random.default_rng(0))
    main(["report", str(root / "benchmark")])
    return root


@pytest.fixture
def folder(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in."""
    shutil.copytree(results, tmp_path / "here", symlinks=True)
    latest = next((tmp_path / "here").rglob("latest"))
    latest.unlink()
    latest.symlink_to("v0")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def interrupt_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of files; Ctrl-C comes before one of them takes its place."""
    names: list[str] = []
    handler, replace = signal.getsignal(signal.SIGINT), Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if Path(target).name in names:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)  # the exception comes in it
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    yield names
    signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored


def _contents(folder: Path) -> dict[str, bytes | Path]:
    found = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {str(path): path.readlink() if path.is_symlink() else path.read_bytes() for path in found}


@pytest.mark.parametrize(
    ("command", "name", "left"),
    [
        (["fit", *MODEL, *DATA], "config.yaml", set()),
        (["fit", *MODEL, *DATA], "model.ckpt", set()),
        (["train", *MODEL, *DATA], "predictions.csv", {"config.yaml", "model.ckpt"}),
        (["detect", "--normal", "{images}/astronaut", "--images", "{images}/coffee"], "model.ckpt", set()),
        (["bank", "remove", "{model}", "{images}/astronaut/03.png"], "model.ckpt", {".model.ckpt.lock"}),
        (["report", "benchmark"], "report.html", set()),
        (
            ["fisher", "--images", "{images}", "--labels", "sampled", "--output", "f.safetensors"],
            "f.safetensors",
            set(),
        ),
    ],
    ids=["configuration", "checkpoint", "table", "detect", "bank", "report", "fisher"],
)
def test_nothing_is_half_or_gone(
    *,
    command: list[str],
    name: str,
    left: set[str],
    folder: Path,
    photographs: Path,
    interrupt_before: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 130, one line, what was there is as it was, and no temporary file is left."""
    model = next(folder.rglob("v0/weights/lightning/model.ckpt"))
    arguments = [word.format(images=photographs, model=model) for word in command]
    arguments += ["--data.root", str(photographs)] if "--data" in command else []
    arguments += ["--num_images", "3"] if command[0] == "fisher" else []
    before = _contents(folder)
    interrupt_before.append(name)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 130
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == "interrupted; no file is left half-written, and what was there before is as it was."
    after = _contents(folder)
    assert {path: after.get(path) for path in before if not path.endswith("latest")} == {
        path: content for path, content in before.items() if not path.endswith("latest")
    }
    assert {Path(path).name for path in after.keys() - before.keys()} == left
    if name in {"config.yaml", "model.ckpt"}:
        assert next(folder.rglob("latest")).resolve().name == "v0"
