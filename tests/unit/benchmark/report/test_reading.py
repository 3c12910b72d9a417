"""Results of every state and version are read, or refused with what is wrong."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmark_results import job, scores, write_results

from panda_anomalib.benchmark.report.reading import read_results
from panda_anomalib.benchmark.report.scores import Scores, read_scores


def test_both_tables_say_the_same(tmp_path: Path) -> None:
    """The CSV alone gives what the Parquet file gives; classes and commits that look like numbers stay text."""
    rows = [job("Dn2", "mnist", "7", seed, image_AUROC=0.9) for seed in (0, 1)]
    write_results(tmp_path, [(row, None) for row in rows])
    from_parquet = read_results([tmp_path]).jobs
    (tmp_path / "results.parquet").unlink()
    from_csv = read_results([tmp_path]).jobs
    assert from_csv["category"].tolist() == ["7", "7"]
    assert from_csv["commit"].tolist() == ["1234567"] * 2
    pd.testing.assert_frame_equal(from_csv[sorted(from_csv)], from_parquet[sorted(from_csv)], check_dtype=False)


def test_failed_jobs_are_kept_apart(tmp_path: Path) -> None:
    """By status, and in tables without that column by the error."""
    rows = pd.DataFrame([job("Dn2", "wbc", "a", image_AUROC=0.9), job("Dfm", "wbc", "a", status="failed", error="no")])
    rows.to_csv(tmp_path / "results.csv")
    for table in (rows, rows.drop(columns="status")):
        table.to_csv(tmp_path / "results.csv", index=False)
        results = read_results([tmp_path])
        assert results.done["model"].tolist() == ["Dn2"]
        assert results.failed["error"].tolist() == ["no"]


def test_missing_columns_are_empty(tmp_path: Path) -> None:
    """A table of models and data sets alone is read: unknown numbers are NaN, the class is all, the seed is said."""
    pd.DataFrame({"model": ["Dn2"], "dataset": ["wbc"]}).to_csv(tmp_path / "results.csv", index=False)
    results = read_results([tmp_path])
    row = results.done.iloc[0]
    assert (row["category"], row["seed"], row["commit"]) == ("all", 0, "")
    assert np.isnan(row["image_AUROC"])
    assert results.checks is None
    assert any("do not say their seed" in remark for remark in results.remarks)


def test_damaged_table_falls_back(tmp_path: Path) -> None:
    """Half a Parquet file: the CSV is taken, then the rows of the jobs, and it is said; without any it is an error."""
    write_results(tmp_path, [(job("Dn2", "wbc", "a", image_AUROC=0.9), None)])
    (tmp_path / "results.parquet").write_bytes(b"PAR1 half")
    results = read_results([tmp_path])
    assert results.done["image_AUROC"].tolist() == [0.9]
    assert any("results.csv was taken" in remark for remark in results.remarks)
    (tmp_path / "results.csv").unlink()
    results = read_results([tmp_path])
    assert results.done["image_AUROC"].tolist() == [0.9]
    assert any("come from the 1 jobs" in remark for remark in results.remarks)
    next(tmp_path.glob("jobs/*/row.json")).write_text('{"model": ')
    with pytest.raises(ValueError, match=r"results must be a table, got: .*results\.parquet' cannot be read"):
        read_results([tmp_path])


def test_folder_without_results(tmp_path: Path) -> None:
    """Neither a missing folder nor an empty one is a benchmark."""
    with pytest.raises(FileNotFoundError, match=r"folder must be one that a benchmark has written, got '.*nowhere'"):
        read_results([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match="folder must hold the results of a benchmark"):
        read_results([tmp_path])


def test_table_of_something_else(tmp_path: Path) -> None:
    """Columns that tell neither model nor data set are named."""
    pd.DataFrame({"x": [1], "y": [2]}).to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(ValueError, match=r"columns model and dataset, got no model and no dataset in .*, but x, y"):
        read_results([tmp_path])


def test_table_of_anomalibs_benchmark(tmp_path: Path) -> None:
    """Class paths become names, and settings that differ become part of the label: no two rows are one model."""
    pd.DataFrame(
        {
            "model.class_path": ["panda_anomalib.Dn2", "panda_anomalib.Dn2", "Dfkde"],
            "model.init_args.scorer": ["knn", "center", None],
            "data.init_args.root": ["datasets/photos"] * 3,
            "data.init_args.category": ["mug"] * 3,
            "image_AUROC": [0.9, 0.8, 0.7],
            "job_duration": [1.0, 2.0, 3.0],
            "error": [None, None, "ValueError: no"],
            "seed": [1, 1, 1],
        }
    ).to_csv(tmp_path / "results.csv", index=False)
    results = read_results([tmp_path])
    assert results.jobs["model"].tolist() == ["Dn2 scorer=knn", "Dn2 scorer=center", "Dfkde"]
    assert results.done[["dataset", "category"]].to_numpy().tolist() == [["photos", "mug"]] * 2
    assert results.done["job_seconds"].tolist() == [1.0, 2.0]
    assert results.failed["model"].tolist() == ["Dfkde"]
    assert any("of another version; read as model.class_path for model" in remark for remark in results.remarks)


def test_newest_finished_job_counts(tmp_path: Path) -> None:
    """One row for each model, data set, class and seed: done before failed, later before earlier; surplus is said."""
    rows = [
        job("Dn2", "wbc", "a", image_AUROC=0.9, started="2026-01-02", job_id="x"),
        job("Dn2", "wbc", "a", image_AUROC=0.8, started="2026-01-01", job_id="y"),
        job("Dn2", "wbc", "a", status="failed", error="no", started="2026-01-03", job_id="z"),
    ]
    write_results(tmp_path, [(row, None) for row in rows])
    results = read_results([tmp_path])
    assert results.jobs["image_AUROC"].tolist() == [0.9]
    assert any(remark.startswith("2 older rows were left out") for remark in results.remarks)


def test_several_folders(tmp_path: Path) -> None:
    """Other jobs of one label get the folder's name; the very same job in two folders is one."""
    shared, other = job("Dn2", "wbc", "a", image_AUROC=0.9), job("Dfm", "wbc", "a", image_AUROC=0.8)
    write_results(tmp_path / "first", [(shared, None), (other, None)])
    write_results(tmp_path / "second", [(shared, None), (other | {"job_id": "different", "image_AUROC": 0.7}, None)])
    results = read_results([tmp_path / "first", tmp_path / "second", tmp_path / "first"])
    found = dict(zip(results.jobs["model"], results.jobs["image_AUROC"], strict=True))
    assert found == {"Dn2": 0.9, "Dfm (first)": 0.8, "Dfm (second)": 0.7}


@pytest.mark.parametrize("content", ["[{", '{"a": 1}', "[1]"])
def test_damaged_checks_are_said(tmp_path: Path, content: str) -> None:
    """Checks that cannot be read count as missing, never as passed."""
    write_results(tmp_path, [(job("Dn2", "wbc", "a"), None)])
    (tmp_path / "checks.json").write_text(content)
    results = read_results([tmp_path])
    assert results.checks is None
    assert any("checks.json" in remark for remark in results.remarks)


def test_scores_are_ordered_by_path(tmp_path: Path) -> None:
    """Labels, distances and verdicts go with their images."""
    table = scores([1.0, 2.0], [3.0], threshold=1.5).iloc[::-1]
    row = job("Dn2", "wbc", "a")
    write_results(tmp_path, [(row, table)])
    found = read_scores(str(tmp_path), row["job_id"])
    assert isinstance(found, Scores)
    assert found.paths.tolist() == ["test/0/00000.png", "test/0/00001.png", "test/1/00002.png"]
    assert found.labels.tolist() == [False, False, True]
    assert found.distances.tolist() == [1.0, 2.0, 3.0]
    assert found.flagged is not None
    assert found.flagged.tolist() == [False, True, True]
    assert found.auroc == 1.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.drop(columns="distance"), "scores.parquet has no column distance"),
        (lambda t: t.assign(distance=[1.0, np.nan, np.inf]), "2 of 3 distances are not finite"),
        (lambda t: t.assign(label=1), "the test set has no normal image"),
        (lambda t: t.assign(image_path="same.png"), "scores.parquet lists an image twice"),
    ],
)
def test_scores_that_cannot_be_used(tmp_path: Path, change: object, reason: str) -> None:
    """Each says why; none is guessed."""
    row = job("Dn2", "wbc", "a")
    write_results(tmp_path, [(row, change(scores([1.0, 2.0], [3.0])))])  # type: ignore[operator]
    assert read_scores(str(tmp_path), row["job_id"]) == reason


def test_scores_that_are_not_there(tmp_path: Path) -> None:
    """No file, half a file, and a job id that points elsewhere."""
    assert read_scores(str(tmp_path), "job") == "no scores were saved"
    (tmp_path / "jobs/job").mkdir(parents=True)
    (tmp_path / "jobs/job/scores.parquet").write_bytes(b"PAR1")
    assert read_scores(str(tmp_path), "job") == "scores.parquet is damaged"
    scores([1.0], [2.0]).to_parquet(tmp_path / "scores.parquet")
    assert read_scores(str(tmp_path), "..") == "no scores were saved"
    assert read_scores(str(tmp_path / "jobs"), "") == "no scores were saved"


def test_row_of_a_job_says_its_name(tmp_path: Path) -> None:
    """Rows of jobs are read where the table was never written; the folder is the job."""
    (tmp_path / "jobs/abc").mkdir(parents=True)
    (tmp_path / "jobs/abc/row.json").write_text(json.dumps({"model": "Dn2", "dataset": "wbc", "image_AUROC": 0.9}))
    assert read_results([tmp_path]).jobs["job_id"].tolist() == ["abc"]
