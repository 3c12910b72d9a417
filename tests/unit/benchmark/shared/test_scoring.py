"""A job on shared embeddings is the job run alone, in every number."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from benchmark_jobs import DN2, draw_photos, section, write_config

from panda_anomalib.benchmark import run_benchmark
from panda_anomalib.benchmark.shared import extraction, planning
from panda_anomalib.benchmark.shared.embedding_file import EmbeddingFile

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`LightningModule\.configure_optimizers` returned `None`"),  # a bank needs none
    pytest.mark.filterwarnings(r"ignore:Found \d+ module\(s\) in eval mode at the start of training"),  # frozen
]
OWN = {"fit_seconds", "test_seconds", "job_seconds", "extract_seconds", "peak_memory_mib", "started", "same_as"}
SCORERS: list[dict[str, Any]] = [
    {"scorer": "knn", "normalization": "none", "num_neighbors": 1},
    {"scorer": "knn"},
    {"scorer": "kmeans", "scorer_args": {"num_means": 3}},
    {"scorer": "center", "normalization": "l2"},
    {"scorer": "whitening"},
    {"scorer": "knn", "cleaning": 0.2},
]


@pytest.fixture(autouse=True)
def _in_folder_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_photos(tmp_path / "photos", 30)
    monkeypatch.chdir(tmp_path)


def _run(name: str, models: list[dict[str, Any]], seeds: list[int], **data: Any) -> pd.DataFrame:
    listed = [{"class_path": "Dn2", "init_args": {**DN2, **arguments}} for arguments in models]
    content = section("photos", {"grid": listed}, **data)
    content["benchmark"]["seed"] = {"grid": seeds}
    config = write_config(Path("config.yaml"), {**content, "share_embeddings": "off" if name == "alone" else "auto"})
    return run_benchmark(config, output=name).table


def _scores(folder: str, job_id: str) -> pd.DataFrame:
    return pd.read_parquet(f"{folder}/jobs/{job_id}/scores.parquet")


def test_every_scorer_gives_what_it_gives_alone() -> None:
    """Bit for bit: metrics, threshold, bank, and the scores of each image."""
    together, alone = _run("together", SCORERS, [0]), _run("alone", SCORERS, [0])
    assert together["error"].tolist() == [""] * len(SCORERS)
    assert together["shared_embeddings"].all()
    assert not alone["shared_embeddings"].any()
    columns = [name for name in alone if name not in {*OWN, "config_hash", "shared_embeddings"}]
    pd.testing.assert_frame_equal(together[columns], alone[columns], check_exact=True)
    for job_id in alone["job_id"]:
        pd.testing.assert_frame_equal(_scores("together", job_id), _scores("alone", job_id), check_exact=True)
    assert (together["extract_seconds"] < together["fit_seconds"] + together["test_seconds"]).all()
    assert len(list(Path("together/embeddings").iterdir())) == 1


def test_each_image_is_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By all classes, scorers and seeds, whose splits differ; not again by a restart; again once its file changes."""
    embedded: list[int] = []
    whole = extraction.extract

    def counted(model: Any, sources: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        embedded.append(len(sources))
        whole(model, sources, *args, **kwargs)

    monkeypatch.setattr(planning, "extract", counted)
    arguments: dict[str, Any] = {"weights": "packaged", "backbone": "tf_efficientnet_lite0"}
    models = [{**arguments, "scorer": name, "resize": 64, "crop": 64} for name in ("knn", "center")]
    _run("together", models, [0, 1], normal_class={"grid": ["coffee", "astronaut"]})
    assert embedded == [60]
    more = [*models, {**models[0], "num_neighbors": 3}]
    assert len(_run("together", more, [0, 1], normal_class={"grid": ["coffee", "astronaut"]})) == 12
    assert embedded == [60]
    shutil.copy("photos/coffee/07.png", "photos/coffee/08.png")
    shutil.rmtree("together/jobs")
    _run("together", models, [0, 1], normal_class={"grid": ["coffee", "astronaut"]})
    assert embedded == [60, 1]


def test_a_seed_that_draws_nothing_is_not_computed_again() -> None:
    """The split is that of folders: the second seed has the numbers of the first, and says so."""
    for part in ("train", "test"):
        for name in ("coffee", "astronaut"):
            Path("split", part).mkdir(parents=True, exist_ok=True)
            shutil.copytree(f"photos/{name}", f"split/{part}/{name}")
    arguments = {"weights": "packaged", "backbone": "tf_efficientnet_lite0", "resize": 64, "crop": 64}
    table = _run("together", [arguments], [0, 1], root="split")
    assert table["seed"].tolist() == [0, 1]
    assert table["same_as"].fillna("").tolist() == ["", table["job_id"][0]]
    assert table["image_AUROC"].nunique() == 1
    first, second = (_scores("together", job_id) for job_id in table["job_id"])
    pd.testing.assert_frame_equal(first, second)


def test_random_weights_are_those_of_the_seed() -> None:
    """Each seed has a network of its own, as when it runs alone."""
    together, alone = (_run(name, [{"scorer": "knn"}], [0, 1]) for name in ("together", "alone"))
    assert together["threshold"].nunique() == 2
    assert together["threshold"].tolist() == alone["threshold"].tolist()
    assert len(list(Path("together/embeddings").iterdir())) == 2


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # of verdicts, which there are none of
def test_what_changes_images_or_fails_runs_alone() -> None:
    """Too many neighbours fail one job; a post-processor of anomalib's is no business of a shared pass."""
    table = _run("together", [{"num_neighbors": 1000}, {"post_processor": False}, {"scorer": "center"}], [0])
    assert table["status"].tolist() == ["failed", "done", "done"], table["error"].tolist()
    assert "num_neighbors must be at most the number of normal images, 24" in table["error"][0]
    assert table["shared_embeddings"].tolist()[1:] == [False, True]


def test_a_pass_that_was_killed_goes_on(tmp_path: Path) -> None:
    """Half a row and half a line are cut off; whole ones are kept."""
    rows = torch.arange(12.0).reshape(4, 3)
    file = EmbeddingFile(tmp_path / "kind", {"backbone": "a"})
    file.add(["1 1 /a", "1 1 /b c", "1 1 /d", "1 1 /e"], rows, 2.0, {"sha256": "f"})
    with (tmp_path / "kind/rows.f32").open("ab") as partial:
        partial.write(b"12345")
    lines = (tmp_path / "kind/images.txt").read_text()
    (tmp_path / "kind/images.txt").write_text(lines[:-3])
    again = EmbeddingFile(tmp_path / "kind", {"backbone": "a"})
    assert list(again.positions) == ["1 1 /a", "1 1 /b c", "1 1 /d"]
    again.add(["1 1 /e"], rows[3:] + 1, 1.0, {"sha256": "f"})
    last = EmbeddingFile(tmp_path / "kind", {})
    assert torch.equal(last.rows.read(last.find(["1 1 /e", "1 1 /a"])), torch.stack([rows[3] + 1, rows[0]]))
    assert last.rows.provenance == {"sha256": "f"}
    assert json.loads((tmp_path / "kind/about.json").read_text())["seconds"] == 3.0
