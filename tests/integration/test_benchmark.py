"""The executable's benchmark: good and bad jobs in one table, an exit code that says so, and a restart after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from benchmark_jobs import DN2, draw_photos, section, write_config

COMMAND = [sys.executable, "-m", "panda_anomalib", "benchmark", "--config", "config.yaml"]
OUT = Path("runs/benchmark/config")


def _run(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, check=False)


def _models(*numbers: int) -> dict[str, Any]:
    return {"grid": [{"class_path": "Dn2", "init_args": {**DN2, "num_neighbors": k}} for k in numbers]}


def test_one_failing_job(tmp_path: Path) -> None:
    """More neighbours than images between two good jobs, one of them anomalib's: two results, one reason, code 1."""
    draw_photos(tmp_path / "photos")
    dfkde = {"backbone": "resnet18", "pre_trained": False, "n_pca_components": 2, "visualizer": False}
    models = {"grid": [*_models(2, 100)["grid"], {"class_path": "Dfkde", "init_args": dfkde}]}
    write_config(tmp_path / "config.yaml", section("photos", models, val_split_mode="same_as_test"))
    result = _run(tmp_path)
    assert result.returncode == 1, result.stderr[-3000:]
    assert result.stderr.splitlines()[-1].startswith("error: 1 of 3 jobs failed")
    assert f"Next: panda-anomalib report {OUT}" in result.stdout
    table = pd.read_csv(tmp_path / OUT / "results.csv")
    assert table["model"].tolist() == ["Dn2 num_neighbors=2", "Dn2 num_neighbors=100", "Dfkde"]
    assert table["image_AUROC"].notna().tolist() == [True, False, True]
    assert "num_neighbors must be at most the number of normal images, 8" in table["error"][1]
    assert table["threshold_source"].fillna("").tolist() == ["training images", "", "test images"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "photos", "runs"]


def test_killed_and_started_again(tmp_path: Path) -> None:
    """What was done is not done again, nothing is lost, and the table is that of a run that nobody disturbed."""
    draw_photos(tmp_path / "photos")
    content = {**section("photos", _models(1, 2, 3, 4, 5, 6)), "share_embeddings": "off"}
    write_config(tmp_path / "config.yaml", content)
    process = subprocess.Popen(COMMAND, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done: dict[Path, int] = {}
    while len(done) < 2:
        assert process.poll() is None
        time.sleep(0.05)
        done = {path: path.stat().st_mtime_ns for path in (tmp_path / OUT).glob("jobs/*/row.json")}
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / OUT / "results.csv").exists() or len(pd.read_csv(tmp_path / OUT / "results.csv"))
    result = _run(tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in done} == done
    disturbed = pd.read_csv(tmp_path / OUT / "results.csv")
    assert disturbed["model.init_args.num_neighbors"].tolist() == [1, 2, 3, 4, 5, 6]
    result = subprocess.run([*COMMAND, "--output", "other"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    undisturbed = pd.read_csv(tmp_path / "other/results.csv")
    steady = [
        name
        for name in disturbed
        if not str(name).endswith("_seconds") and name not in ("started", "commit", "peak_memory_mib")
    ]
    pd.testing.assert_frame_equal(disturbed[steady], undisturbed[steady])
