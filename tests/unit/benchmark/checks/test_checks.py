"""Checks of the protocol: each finds what it is there for, and nothing in what is right."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmark_jobs import DN2, draw_photos, section, write_config
from PIL import Image

from panda_anomalib.benchmark import run_benchmark
from panda_anomalib.benchmark.checks.duplicates import check_duplicates
from panda_anomalib.benchmark.checks.scores import check_shuffled_labels, check_sign, check_sources
from panda_anomalib.benchmark.report import write_report


def _save_scores(folder: Path, job_id: str, labels: list[int], distances: list[float]) -> None:
    (folder / "jobs" / job_id).mkdir(parents=True)
    table = pd.DataFrame({"label": labels, "distance": distances})
    table.to_parquet(folder / "jobs" / job_id / "scores.parquet")


def test_shuffled_labels_give_a_half(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of perfect scores, too, and of ties; a draw that leaves the labels as they are does not."""
    labels = [0] * 40 + [1] * 60
    _save_scores(tmp_path, "a", labels, [*rng.normal(0, 1, 40), *rng.normal(9, 1, 60)])
    _save_scores(tmp_path, "b", labels, [0.0] * 100)
    _save_scores(tmp_path, "c", [1] * 100, [0.0] * 100)
    jobs = pd.DataFrame({"job_id": ["a", "b", "c", "none"]})
    check = check_shuffled_labels(jobs, tmp_path)
    assert check.status == "ok"
    assert check.value == pytest.approx(0.5, abs=0.05)
    assert "AUROC of 2 jobs" in check.text
    assert check_shuffled_labels(jobs[2:], tmp_path).status == "not run"

    class Unshuffled:
        def permutation(self, values: object) -> object:
            return values

    monkeypatch.setattr(np.random, "default_rng", lambda _: Unshuffled())
    assert check_shuffled_labels(jobs, tmp_path).status == "failed"


def test_a_wrong_sign_is_named_with_its_model() -> None:
    """Of the mean over seeds."""
    jobs = pd.DataFrame({"model": ["A", "A", "B"], "image_AUROC": [0.45, 0.6, 0.9]})
    assert check_sign(jobs).status == "ok"
    check = check_sign(jobs.assign(image_AUROC=[0.45, 0.5, 0.9]))
    assert (check.status, check.value) == ("warning", pytest.approx(0.475))
    assert "A (47.5 %)" in check.text
    assert check_sign(jobs[["model"]]).status == "not run"


def test_a_test_image_that_was_trained_on_fails() -> None:
    """By content, under whatever name; a file that could not be read is no other's twin."""
    jobs = pd.DataFrame({"model": ["A", "B"], "threshold_source": ["training images", ""]})
    assert check_sources(jobs, ["a", "b", ""], ["c", ""]).status == "ok"
    check = check_sources(jobs, ["a", "b"], ["b", "c"])
    assert (check.status, check.value) == ("failed", 1)
    optimistic = jobs.assign(threshold_source=["training images", "test images"])
    check = check_sources(optimistic, ["a"], ["b"])
    assert check.status == "warning"
    assert "by B:" in check.text


def test_a_copy_at_another_size_is_found_and_drawn(tmp_path: Path) -> None:
    """And nothing else: other crops of the photograph are other images."""
    photos = draw_photos(tmp_path / "photos", 12)
    train = [str(path) for path in sorted((photos / "coffee").iterdir())[:8]]
    test = [str(path) for path in sorted((photos / "coffee").iterdir())[8:]]
    assert check_duplicates(train, test, None, tmp_path, "checks/coffee").status == "ok"
    Image.open(train[5]).resize((90, 90)).save(tmp_path / "copy.jpg", quality=90)
    check = check_duplicates(train, [*test, str(tmp_path / "copy.jpg")], None, tmp_path, "checks/coffee")
    assert (check.status, check.value) == ("warning", 1)
    assert check.pictures == ["checks/coffee/1-train-05-test-copy.png"]
    left, right = np.hsplit(np.asarray(Image.open(tmp_path / check.pictures[0]), dtype=float), [130])
    assert np.abs(left[:, :128] - right[:, -128:]).mean() < 12
    assert check_duplicates(train[:1], test, None, tmp_path, "checks/coffee").status == "not run"


def test_a_benchmark_is_checked_and_its_report_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph of the training set in the test set is a failure that nobody can overlook."""
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        draw_photos(Path("split", part), 12 if part == "train" else 5)
    for number in range(5):  # the same crops, moved by a few pixels: no copies
        for name in ("coffee", "astronaut"):
            image = Image.open(f"split/train/{name}/{2 * number:02}.png")
            image.crop((9, 13, 150, 150)).save(f"split/test/{name}/{number:02}.png")
    shutil.copy("split/train/coffee/03.png", "split/test/coffee/99.png")
    config = write_config(Path("config.yaml"), section("split", {"class_path": "Dn2", "init_args": DN2}))
    folder, _ = run_benchmark(config)
    entries = json.loads((folder / "checks.json").read_text())
    assert {(entry["name"], entry["status"]) for entry in entries} >= {
        ("no test image used for a threshold", "failed"),
        ("near-duplicates of training images in the test set", "warning"),
        ("shuffled labels", "ok"),
    }
    assert {(entry["dataset"], entry["category"]) for entry in entries} == {("split", "coffee")}
    pictures = [picture for entry in entries for picture in entry["pictures"]]
    assert any("train-03-test-99" in picture for picture in pictures)
    assert all((folder / picture).is_file() for picture in pictures)
    assert "are in the training and in the test set, by hash: 1." in write_report([folder]).markdown.read_text()
    (folder / "checks.json").write_text("[]")
    run_benchmark(config)
    assert (folder / "checks.json").read_text() == "[]"  # nothing has run, nothing is checked again
