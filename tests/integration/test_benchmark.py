"""The executable's benchmark: good and bad jobs in one table, and an exit code that says so."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml
from PIL import Image
from skimage import data


def test_one_failing_job(tmp_path: Path) -> None:
    """An unknown model between two good ones, one of them anomalib's: two results, one reason, exit code 1."""
    for name, picture in (("coffee", data.coffee()), ("astronaut", data.astronaut())):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            crop = picture[25 * number : 25 * number + 160, 100:260]
            Image.fromarray(crop).save(tmp_path / "photos" / name / f"{number}.png")
    dn2 = {"backbone": "test_resnet", "weights": "random", "visualizer": False, "runtime": "channels_last"}
    dfkde = {"backbone": "resnet18", "pre_trained": False, "n_pca_components": 2, "visualizer": False}
    models = [
        {"class_path": "Dn2", "init_args": dn2},
        {"class_path": "Dn3"},
        {"class_path": "Dfkde", "init_args": dfkde},
    ]
    place = {"root": "photos", "normal_class": "coffee", "val_split_mode": "same_as_test"}
    section = {"seed": 1, "model": {"grid": models}, "data": {"class_path": "OneClassFolder", "init_args": place}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"accelerator": "cpu", "benchmark": section}))
    command = [sys.executable, "-m", "panda_anomalib", "benchmark", "--config", "config.yaml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr[-3000:]
    assert result.stderr.splitlines()[-1].startswith("error: 1 of 3 jobs failed")
    (path,) = (tmp_path / "runs/benchmark").glob("*/results.csv")
    table = pd.read_csv(path)
    assert table["model.class_path"].tolist() == ["Dn2", "Dn3", "Dfkde"]
    assert table["image_AUROC"].notna().tolist() == [True, False, True]
    assert "Dn3" in table["error"][1]
    assert table["error"].notna().tolist() == [False, True, False]
    assert not (tmp_path / "results").exists()
