"""The pipeline: wrong configurations run nothing, failures lose nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from panda_anomalib.benchmark import Benchmark, BenchmarkJob

SECTION: dict[str, Any] = {
    "seed": 0,
    "model": {"grid": [{"class_path": name} for name in ("First", "Second", "Third")]},
    "data": {"class_path": "Folder", "init_args": {"root": "photos"}},
}


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _run(config: object) -> pd.DataFrame:
    Path("config.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return Benchmark().run(SimpleNamespace(config=Path("config.yaml")))


def _tables() -> list[pd.DataFrame]:
    return [pd.read_csv(path) for path in sorted(Path("runs/benchmark").glob("*/results.csv"))]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Jobs that do not train: the second fails, the third has another metric. Models on disk as each job starts."""
    on_disk: list[list[str]] = []

    def fake_run(job: BenchmarkJob) -> dict[str, Any]:
        on_disk.append([name for table in _tables() for name in table["model.class_path"]])
        name = job.config["model"]["class_path"]
        if name == "Second":
            raise LookupError("no such\nmodel")
        metric = {"First": "image_AUROC", "Third": "image_PRO"}[name]
        return {**job.columns, "job_duration": 1.5, metric: 0.75}

    monkeypatch.setattr(BenchmarkJob, "run", fake_run)
    return on_disk


def test_a_failing_job_is_a_row_and_the_others_go_on(seen: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    """Each row is on disk before the next job starts; columns are united; the failure is told and kept."""
    with pytest.raises(RuntimeError, match=r"1 of 3 jobs failed; see the column error of runs.*results\.csv"):
        _run({"accelerator": "cpu", "benchmark": SECTION})
    assert seen == [[], ["First"], ["First", "Second"]]
    (table,) = _tables()
    assert table["model.class_path"].tolist() == ["First", "Second", "Third"]
    assert table["image_AUROC"].fillna(-1).tolist() == [0.75, -1, -1]
    assert table["image_PRO"].fillna(-1).tolist() == [-1, -1, 0.75]
    assert table["error"].fillna("").tolist() == ["", "LookupError: no such model", ""]
    assert table.columns[-1] == "error"
    (log,) = Path("runs/benchmark").glob("*/errors.log")
    assert "in fake_run" in log.read_text()
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("First", "Second", "Third", "0.75"))


def test_two_runs_in_one_second_have_two_folders(seen: list[list[str]]) -> None:
    """Anomalib's second run overwrites the first."""
    config = {"accelerator": "cpu", "benchmark": {**SECTION, "model": {"class_path": "First"}}}
    for _ in range(3):
        _run(config)
    assert len(_tables()) == len(seen) == 3


def test_gpu_is_cuda(seen: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Anomalib refuses the name that its own Engine takes. Several accelerators share one table."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    table = _run({"accelerator": ["cpu", "gpu"], "benchmark": {**SECTION, "model": {"class_path": "First"}}})
    assert table["accelerator"].tolist() == ["cpu", "cuda"]
    assert len(_tables()) == 1
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"accelerator": "cpu", "bench": SECTION},
            "keys accelerator and benchmark and no other, got accelerator, bench",
        ),
        ({"benchmark": SECTION}, "keys accelerator and benchmark and no other, got benchmark"),
        (
            {"accelerator": "tpu", "benchmark": SECTION},
            r"accelerator must be cpu or cuda \(gpu is the same\), got 'tpu'",
        ),
        ({"accelerator": [], "benchmark": SECTION}, "accelerator must be cpu or cuda, or a list of them"),
        ({"accelerator": ["cpu", "gpu"], "benchmark": SECTION}, "got 'gpu' on a machine where torch finds no CUDA"),
        ({"accelerator": "cpu", "benchmark": None}, "benchmark must have the keys seed, model and data, got None"),
        (
            {"accelerator": "cpu", "benchmark": {k: SECTION[k] for k in ("model", "data")}},
            "keys seed, model, data and no other, got data, model",
        ),
        ("accelerator: [cpu", "config must be a YAML file"),
        ("cpu", "config must have the keys accelerator and benchmark, got 'cpu'"),
    ],
)
def test_wrong_configurations_run_nothing(
    config: object, message: str, seen: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anomalib exits with 0 after each of these."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        _run(config)
    assert seen == []
    assert not Path("runs").exists()


def test_missing_configuration_is_named() -> None:
    """With what was given."""
    with pytest.raises(FileNotFoundError, match=r"config must be an existing file, got 'none\.yaml'"):
        Benchmark().run(SimpleNamespace(config="none.yaml"))


def test_an_interrupted_write_keeps_the_table(seen: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last whole table stays when writing the next one stops half-way."""
    whole = pd.DataFrame.to_csv
    config = {
        "accelerator": "cpu",
        "benchmark": {**SECTION, "seed": {"grid": [0, 1]}, "model": {"class_path": "First"}},
    }

    def half(table: pd.DataFrame, path: Path, **options: Any) -> None:
        if len(table) == 2:
            Path(path).write_text("model.cl")
            raise KeyboardInterrupt
        whole(table, path, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises(KeyboardInterrupt):
        _run(config)
    assert len(seen) == 2
    (table,) = _tables()
    assert table["seed"].tolist() == [0]
