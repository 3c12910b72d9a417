"""Grids, checks of the configuration, and what one job does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from skimage import data

from panda_anomalib.benchmark import jobs
from panda_anomalib.benchmark.jobs import BenchmarkJob, BenchmarkJobGenerator, expand_grid

CONFIG: dict[str, Any] = {"seed": 3, "model": {"class_path": "Dn2"}, "data": {"class_path": "OneClassFolder"}}


def test_grid_makes_every_combination_the_first_slowest() -> None:
    """Also of grids inside grids; a key that only contains the letters is no grid."""
    value = {
        "grid_size": [5, 6],
        "model": {"grid": [{"class_path": "A", "k": {"grid": [1, 2]}}, {"class_path": "B"}]},
        "seed": {"grid": [0, 1]},
    }
    expanded = list(expand_grid(value))
    assert all(config["grid_size"] == [5, 6] for config in expanded)
    assert [(c["model"]["class_path"], c["model"].get("k"), c["seed"]) for c in expanded] == [
        ("A", 1, 0), ("A", 1, 1), ("A", 2, 0), ("A", 2, 1), ("B", None, 0), ("B", None, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("grid", [{"grid": 3}, {"grid": []}, {"grid": [1], "other": 2}])
def test_grid_of_another_shape_is_refused(grid: dict[str, Any]) -> None:
    """Not taken for a list of one."""
    with pytest.raises(ValueError, match="grid must be a list of values and stand alone"):
        list(expand_grid({"seed": grid}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "x"}, "benchmark.seed must be a whole number from 0 to 4294967295, got 'x'"),
        ({"seed": True}, "benchmark.seed must be a whole number"),
        ({"seeds": 1}, "benchmark must have the keys seed, model, data and no other, got seed, model, data, seeds"),
        ({"model": "Dn2"}, "benchmark.model must have a class_path, such as Dn2 or Folder, got 'Dn2'"),
        ({"data": {"init_args": {}}}, "benchmark.data must have a class_path"),
        ({"model": {"class_path": "Dn2", "k": 2}}, "init_args only, got k; arguments belong below init_args"),
    ],
)
def test_wrong_sections_are_refused_before_the_first_job(change: dict[str, Any], message: str) -> None:
    """No job comes out, not even the first of a grid whose last is wrong."""
    with pytest.raises(ValueError, match=message):
        next(BenchmarkJobGenerator("cpu").generate_jobs({**CONFIG, **change}))


def test_description_and_columns() -> None:
    """What the progress shows, and the columns of a row whose job failed."""
    config = {**CONFIG, "data": {"class_path": "anomalib.data.MVTecAD", "init_args": {"category": "bottle"}}}
    (job,) = BenchmarkJobGenerator("cpu").generate_jobs(config)
    assert job.description == "Dn2 on MVTecAD bottle, seed 3, cpu"
    assert job.columns == {
        "accelerator": "cpu",
        "seed": 3,
        "model.class_path": "Dn2",
        "data.class_path": "anomalib.data.MVTecAD",
        "data.init_args.seed": 3,
        "data.init_args.category": "bottle",
    }


def test_seed_is_set_before_the_model_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anomalib seeds afterwards: the initial weights differ from run to run."""
    seeds: list[int] = []

    def build(_: object) -> None:
        seeds.append(torch.initial_seed())
        raise LookupError("seen enough")

    monkeypatch.setattr(jobs, "get_model", build)
    torch.manual_seed(99)
    with pytest.raises(LookupError):
        BenchmarkJob("cpu", CONFIG).run()
    assert seeds == [3]


def test_an_unknown_model_is_named_with_its_neighbours() -> None:
    """Anomalib's error has no message."""
    with pytest.raises(ValueError, match=r"model must be a model that anomalib knows, got 'Dn3'; the nearest are Dn2"):
        BenchmarkJob("cpu", {**CONFIG, "model": {"class_path": "Dn3"}}).run()


@pytest.mark.parametrize(("init_args", "seed"), [({}, 3), ({"seed": 8}, 8)])
def test_split_takes_the_seed_of_the_job_unless_it_has_one(init_args: dict[str, Any], seed: int) -> None:
    """Otherwise models would be compared on different test images."""
    job = BenchmarkJob("cpu", {**CONFIG, "data": {"class_path": "Folder", "init_args": init_args}})
    assert job.columns["data.init_args.seed"] == seed


@pytest.mark.filterwarnings(r"ignore:`LightningModule\.configure_optimizers` returned `None`")  # a bank needs none
@pytest.mark.filterwarnings(r"ignore:Found \d+ module\(s\) in eval mode at the start of training")  # frozen on purpose
def test_a_job_gives_metrics_durations_and_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One real job, on two photographs that no network confuses; nothing is left on disk."""
    root = tmp_path / "photos"
    for name, picture in (("coffee", data.coffee()), ("astronaut", data.astronaut())):
        (root / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(picture[25 * number : 25 * number + 160, 100:260]).save(root / name / f"{number}.png")
    arguments = {"backbone": "test_resnet", "weights": "random", "visualizer": False, "runtime": "channels_last"}
    config = {
        "seed": 3,
        "model": {"class_path": "Dn2", "init_args": arguments},
        "data": {"class_path": "OneClassFolder", "init_args": {"root": str(root), "normal_class": "coffee"}},
    }
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    row = BenchmarkJob("cpu", config).run()
    assert list(work.iterdir()) == []
    assert row["model.init_args.backbone"] == "test_resnet"
    assert row["image_AUROC"] == 1.0
    assert 0 < row["fit_duration"] + row["test_duration"] < row["job_duration"]
