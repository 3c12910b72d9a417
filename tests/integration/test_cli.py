"""The executable: what it imports, and that a seed makes a run repeatable."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file
from skimage import data

from panda_anomalib.adaptation.fisher_file import load_fisher
from panda_anomalib.cli import main


def _panda_anomalib(*arguments: str, cwd: Path, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, "-m", "panda_anomalib", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        ([], 2),
        (["train", "--model", "Dn2"], 2),
        (["fisher", "--images", "photos"], 2),
        (["doctor", "--help"], 0),
        (["app", "--help"], 0),
        (["app", "no_such_model"], 1),
    ],
)
def test_light_commands_import_nothing_heavy(arguments: list[str], code: int, tmp_path: Path) -> None:
    """Importing anomalib or torch takes many seconds."""
    result = _panda_anomalib(*arguments, cwd=tmp_path, python=("-X", "importtime"))
    assert result.returncode == code
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}
    assert "panda_anomalib" in imported
    assert not imported & {"anomalib", "torch", "lightning", "timm", "numpy", "pandas", "jsonargparse"}


def test_training_in_another_process_gives_the_same_scores_without_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are random: without the seed the distances differ. No warning that means nothing to a stranger."""
    for name, picture in (("coffee", data.coffee()), ("astronaut", data.astronaut())):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            crop = picture[25 * number : 25 * number + 160, 100:260]
            Image.fromarray(crop).save(tmp_path / "photos" / name / f"{number}.png")
    arguments = ["train", "--model", "Dn2", "--model.backbone", "test_resnet", "--model.weights", "random"]
    arguments += ["--model.visualizer", "false", "--model.runtime", "channels_last", "--trainer.accelerator", "cpu"]
    arguments += ["--data", "OneClassFolder", "--data.root", "photos", "--data.normal_class", "coffee"]
    arguments += ["--seed_everything", "5"]
    result = _panda_anomalib(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    for noise in ("install -v", "Warning", "litlogger"):
        assert noise not in result.stdout + result.stderr
    monkeypatch.chdir(tmp_path)
    main(arguments)
    folders = [tmp_path / f"results/Dn2/photos/coffee/v{number}/test/predictions.csv" for number in range(2)]
    first, second = (pd.read_csv(path) for path in folders)
    assert len(first) == 4
    np.testing.assert_allclose(first["distance"], second["distance"], rtol=1e-6)


def test_fisher_subcommand_writes_a_file_and_refuses_in_one_line(tmp_path: Path) -> None:
    """As a user would call it; the second time the file is there."""
    for label in range(2):
        (tmp_path / f"photos/{label}").mkdir(parents=True)
        Image.fromarray(data.coffee()[:160, 100:260]).save(tmp_path / f"photos/{label}/0.png")
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), tmp_path / "weights.safetensors")
    arguments = ["fisher", "--backbone", "test_resnet", "--weights", "weights.safetensors", "--images", "photos"]
    arguments += ["--output", "out/fisher.safetensors", "--mode", "minibatch", "--batch_size", "2", "--device", "cpu"]
    result = _panda_anomalib(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == ""
    file = load_fisher(tmp_path / "out/fisher.safetensors", backbone="test_resnet")
    assert file.weight == 2e4
    result = _panda_anomalib(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: output must not exist yet, got 'out/fisher.safetensors'")
    assert "Traceback" not in result.stderr
