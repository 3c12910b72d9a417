"""The runner: failures lose nothing, a restart repeats nothing."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from benchmark_jobs import DN2, draw_photos, section, write_config
from filelock import FileLock

from panda_anomalib.benchmark import execution, run_benchmark
from panda_anomalib.benchmark.jobs import Job
from panda_anomalib.benchmark.outcome import Outcome
from panda_anomalib.benchmark.report.reading import read_results

MODELS = {"grid": [{"class_path": "Dn2", "init_args": {**DN2, "num_neighbors": k}} for k in (1, 2, 3)]}
OUT = Path("runs/benchmark/config")


@pytest.fixture(autouse=True)
def _in_folder_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_photos(tmp_path / "photos", 4)
    monkeypatch.chdir(tmp_path)


def _run(models: Any = MODELS, **options: Any) -> pd.DataFrame:
    config = write_config(Path("config.yaml"), {**section("photos", models), "share_embeddings": "off"})
    return run_benchmark(config, **options).table


def _scores() -> pd.DataFrame:
    return pd.DataFrame({"image_path": ["a", "b"], "label": [0, 1], "distance": [0.0, 1.0]})


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Jobs that do not train, the second of which fails at first; which ran."""
    calls: list[int] = []

    def fake_run(job: Job) -> Outcome:
        k = job.model["init_args"]["num_neighbors"]
        rows = [path.read_text() for path in OUT.glob("jobs/*/row.json")]
        assert all(any(f'num_neighbors": {done}' in row for row in rows) for done in calls if done != k)
        calls.append(k)
        if k == 2 and calls.count(2) == 1:
            raise LookupError("no such\nmodel")
        metric = "image_PRO" if k == 3 else "image_AUROC"
        return Outcome({"status": "done", "error": "", "job_seconds": 1.5, metric: 0.75}, _scores())

    monkeypatch.setattr(execution, "run_alone", fake_run)
    return calls


def test_a_failing_job_is_a_row_and_the_others_go_on(ran: list[int]) -> None:
    """Each row is on disk before the next job starts; columns are united; the failure is told and kept."""
    table = _run()
    assert ran == [1, 2, 3]
    for read in (table, pd.read_csv(OUT / "results.csv"), pd.read_parquet(OUT / "results.parquet")):
        assert read["model"].tolist() == [f"Dn2 num_neighbors={k}" for k in (1, 2, 3)]
        assert read["status"].tolist() == ["done", "failed", "done"]
        assert read["image_AUROC"].fillna(-1).tolist() == [0.75, -1, -1]
        assert read["image_PRO"].fillna(-1).tolist() == [-1, -1, 0.75]
        assert read["error"].fillna("").tolist() == ["", "LookupError: no such model", ""]
    assert "in fake_run" in (OUT / "errors.log").read_text()


def test_a_restart_tries_what_failed_and_repeats_nothing_else(ran: list[int]) -> None:
    """Also with more models, whose labels are those of the present file."""
    _run()
    more = {"grid": [*MODELS["grid"], {"class_path": "Dn2", "init_args": {**DN2, "num_neighbors": 4}}]}
    table = _run(more)
    assert ran == [1, 2, 3, 2, 4]
    assert table["status"].tolist() == ["done"] * 4
    one = {"class_path": "Dn2", "init_args": {**DN2, "num_neighbors": 1}}
    assert _run(one)["model"].tolist() == ["Dn2"]
    assert ran == [1, 2, 3, 2, 4]


def test_an_interruption_loses_the_job_at_work_only(ran: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables hold the others, and the next start begins with that job."""
    whole = execution.run_alone

    def interrupted(job: Job) -> Outcome:
        if job.model["init_args"]["num_neighbors"] == 3:
            raise KeyboardInterrupt
        return whole(job)

    monkeypatch.setattr(execution, "run_alone", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run()
    assert pd.read_csv(OUT / "results.csv")["status"].tolist() == ["done", "failed"]
    monkeypatch.setattr(execution, "run_alone", whole)
    assert _run()["status"].tolist() == ["done"] * 3
    assert ran == [1, 2, 2, 3]


def test_an_interrupted_write_keeps_the_table(ran: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last whole table stays when writing the next one stops half-way, as it does on a full disk."""
    first = {"class_path": "Dn2", "init_args": {**DN2, "num_neighbors": 1}}
    _run(first)
    before = (OUT / "results.csv").read_text()

    def half(_: pd.DataFrame, path: Path, **options: Any) -> None:
        Path(path).write_text("model.cl")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises(OSError, match="No space left"):
        _run()
    assert (OUT / "results.csv").read_text() == before
    assert not list(OUT.glob(".*.csv"))


def test_a_damaged_row_is_run_again(ran: list[int]) -> None:
    """It never was one that this program wrote half."""
    first = {"class_path": "Dn2", "init_args": {**DN2, "num_neighbors": 1}}
    _run(first)
    (path,) = OUT.glob("jobs/*/row.json")
    path.write_text('{"status": "do')
    _run(first)
    assert ran == [1, 1]


def test_one_runner_at_a_time(ran: list[int]) -> None:
    """The second would write rows over those of the first."""
    Path("out").mkdir()
    with (
        FileLock("out/.lock"),
        pytest.raises(RuntimeError, match="output must be free, got 'out', which another benchmark is writing to"),
    ):
        _run(output="out")
    assert ran == []


@pytest.mark.filterwarnings(r"ignore:`LightningModule\.configure_optimizers` returned `None`")  # a bank needs none
@pytest.mark.filterwarnings(r"ignore:Found \d+ module\(s\) in eval mode at the start of training")  # frozen on purpose
def test_a_real_job_fills_the_schema() -> None:
    """Two photographs that no network confuses; the report reads all of it."""
    _run({"class_path": "Dn2", "init_args": DN2}, output="out")
    results = read_results([Path("out")])
    assert results.remarks == []
    (row,) = results.jobs.to_dict("records")
    assert (row["model"], row["dataset"], row["category"], row["seed"]) == ("Dn2", "photos", "coffee", 0)
    assert row["image_AUROC"] == 1.0
    assert (row["num_train"], row["num_test_normal"], row["num_test_anomalous"]) == (3, 1, 1)
    assert (row["threshold_source"], row["false_positive_rate"]) == ("training images", 0.05)
    assert 0 < row["fit_seconds"] + row["test_seconds"] <= row["job_seconds"]
    assert row["bank_mib"] > 0
    assert json.loads(row["versions"])["anomalib"].startswith("2.7")
    scores = pd.read_parquet(f"out/jobs/{row['job_id']}/scores.parquet")
    assert scores["label"].tolist() == [1, 0]
    assert [Path(path).parts[1] for path in scores["image_path"]] == ["astronaut", "coffee"]
    assert scores["anomalous"].tolist() == (scores["distance"] > row["threshold"]).tolist()
    assert (scores["score"] < 1).all()
    assert not Path("results").exists()
