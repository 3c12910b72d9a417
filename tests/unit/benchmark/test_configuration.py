"""What is wrong with a configuration is said before anything runs; what is right becomes jobs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from benchmark_jobs import DN2, draw_photos, section, write_config

from panda_anomalib.benchmark import read_configuration
from panda_anomalib.benchmark.jobs import Job

SECTION: dict[str, Any] = section("photos", {"class_path": "Dn2", "init_args": DN2})["benchmark"]


@pytest.fixture(autouse=True)
def _in_folder_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_photos(tmp_path / "photos", 4)
    monkeypatch.chdir(tmp_path)


def _jobs(content: object) -> list[Job]:
    return read_configuration(write_config(Path("config.yaml"), content)).jobs


def test_jobs_of_models_classes_and_seeds() -> None:
    """Each with its label, data set, class and seed, which is that of the split, too."""
    model = {"class_path": "Dn2", "init_args": {**DN2, "scorer": {"grid": ["knn", "center"]}}}
    content = section("photos", model, normal_class={"grid": "all"})
    content["benchmark"]["seed"] = {"grid": [3, 4]}
    jobs = _jobs(content)
    assert [(job.seed, job.label, job.dataset, job.category) for job in jobs] == [
        (seed, label, "photos", name)
        for seed in (3, 4)
        for label in ("Dn2 knn", "Dn2 center")
        for name in ("astronaut", "coffee")
    ]
    assert len({job.job_id for job in jobs}) == 8
    assert {job.data["init_args"]["seed"] for job in jobs if job.seed == 3} == {3}
    assert jobs[0].columns["model.init_args.scorer"] == "knn"


def test_the_id_of_a_job_is_that_of_what_it_does() -> None:
    """Another model beside it changes its label, and not its id: it is not run again."""
    (alone,) = _jobs({"accelerator": "cpu", "benchmark": SECTION})
    models = {"grid": [SECTION["model"], {"class_path": "Dn2", "init_args": {**DN2, "scorer": "center"}}]}
    first, second = _jobs({"accelerator": "cpu", "benchmark": {**SECTION, "model": models}})
    assert (alone.label, first.label) == ("Dn2", "Dn2")
    assert second.label == "Dn2 center"
    assert alone.job_id == first.job_id != second.job_id


@pytest.mark.parametrize(("arguments", "seed"), [({}, 3), ({"seed": 8}, 8)])
def test_split_takes_the_seed_of_the_job_unless_it_has_one(arguments: dict[str, Any], seed: int) -> None:
    """Otherwise models would be compared on different test images."""
    content = section("photos", SECTION["model"], **arguments)
    content["benchmark"]["seed"] = 3
    (job,) = _jobs(content)
    assert job.data["init_args"]["seed"] == seed


def test_gpu_is_cuda_and_each_accelerator_has_rows_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anomalib refuses the name that its own Engine takes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    jobs = _jobs({"accelerator": ["cpu", "gpu"], "benchmark": SECTION})
    assert [(job.accelerator, job.label) for job in jobs] == [("cpu", "Dn2 on cpu"), ("cuda", "Dn2 on cuda")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "x"}, "benchmark.seed must be a whole number from 0 to 4294967295, got 'x'"),
        ({"seed": True}, "benchmark.seed must be a whole number"),
        ({"seeds": 1}, "benchmark must have the keys seed, model, data and no other, got seed, model, data, seeds"),
        ({"model": "Dn2"}, "benchmark.model must have a class_path, such as Dn2 or Folder, got 'Dn2'"),
        ({"data": {"init_args": {}}}, "benchmark.data must have a class_path"),
        ({"model": {"class_path": "Dn2", "k": 2}}, "init_args only, got k; arguments belong below init_args"),
        ({"model": {"class_path": "Dn2", "init_args": 3}}, "benchmark.model.init_args must be arguments, got 3"),
        ({"model": {"class_path": "Dn3"}}, r"anomalib knows, got 'Dn3'; the nearest are Dn2.*config.yaml, line 5\)"),
        ({"model": {"class_path": "os.path"}}, "model must be a model that anomalib knows, got 'os.path'"),
        ({"model": {"class_path": "Padim", "init_args": {"backbon": "x"}}}, "of Padim, got 'backbon'; .*backbone"),
        ({"model": {"class_path": "Dn2", "init_args": {"scorer": "nearest"}}}, "scorer must be one of"),
        ({"data": {"class_path": "OneClasFolder"}}, "data must be a datamodule .*got 'OneClasFolder'.*OneClassFolder"),
        (
            {"data": {"class_path": "OneClassFolder", "init_args": {"root": "photos", "normal_class": "cofee"}}},
            r"got 'cofee'; did you mean one of 'coffee'.*config.yaml, line",
        ),
        ({"data": {"class_path": "OneClassFolder", "init_args": {"rot": "a"}}}, "got 'rot'; the nearest are root"),
        ({"data": {"class_path": "OneClassFolder"}}, "init_args of OneClassFolder must be complete, .*missing"),
        ({"model": {"grid": [{"class_path": "Padim"}, {"class_path": "Padim"}]}}, "jobs must differ, got two of Padim"),
    ],
)
def test_wrong_sections_are_refused(change: dict[str, Any], message: str) -> None:
    """Even where only the last of a grid is wrong."""
    good = SECTION["model"]
    if isinstance(model := change.get("model"), dict) and "class_path" in model and model["class_path"] != "Dn3":
        change = {"model": {"grid": [good, model]}}
    with pytest.raises(ValueError, match=message):
        _jobs({"accelerator": "cpu", "benchmark": {**SECTION, **change}})


def test_data_that_are_not_there_are_named() -> None:
    """With the place that was looked at."""
    with pytest.raises(FileNotFoundError, match="root must be an existing folder, got 'fotos'"):
        _jobs(section("fotos", SECTION["model"]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"accelerator": "cpu", "bench": SECTION}, "keys accelerator and benchmark and no other .*got accelerator, be"),
        ({"benchmark": SECTION}, "keys accelerator and benchmark and no other .*got benchmark"),
        ({"accelerator": "tpu", "benchmark": SECTION}, r"must be cpu or cuda \(gpu is the same\), got 'tpu'"),
        ({"accelerator": [], "benchmark": SECTION}, "accelerator must be cpu or cuda, or a list of them"),
        ({"accelerator": ["cpu", "gpu"], "benchmark": SECTION}, "got 'gpu' on a machine where torch finds no CUDA"),
        ({"accelerator": "cpu", "benchmark": None}, "benchmark must have the keys seed, model and data, got None"),
        ({"accelerator": "cpu", "benchmark": SECTION, "share_embeddings": "yes"}, "must be auto or off, got 'yes'"),
        ("accelerator: [cpu", "config must be a YAML file"),
        ("cpu", "config must have the keys accelerator and benchmark, got 'cpu'"),
    ],
)
def test_wrong_files_are_refused(config: object, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anomalib exits with 0 after each of these."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        _jobs(config)


def test_missing_configuration_is_named() -> None:
    """With what was given."""
    with pytest.raises(FileNotFoundError, match=r"config must be an existing file, got 'none\.yaml'"):
        read_configuration("none.yaml")


@pytest.mark.parametrize(("text", "shares"), [("auto", True), ("off", False)])
def test_options_of_the_file(text: str, shares: bool) -> None:
    """YAML reads a bare ``off`` as false."""
    content = (
        f"{yaml.safe_dump({'accelerator': 'cpu', 'benchmark': SECTION})}\noutput: there\nshare_embeddings: {text}\n"
    )
    configuration = read_configuration(write_config(Path("config.yaml"), content))
    assert configuration.output == Path("there")
    assert configuration.share_embeddings is shares
