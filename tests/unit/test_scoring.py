"""A loaded model gives the verdicts that ``predict`` gives."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from runs import engine, one_class, seeded

from panda_anomalib import Dn2, Engine, PandaOe, PandaSes
from panda_anomalib.data.files import find_images
from panda_anomalib.models.detector import Detector
from panda_anomalib.models.loading import load_model
from panda_anomalib.scoring import ImageInspector, find_checkpoint

FAST = {"minibatches": 4, "learning_rate": 0.05, "gradient_clip": 0.1, "visualizer": True}


def _fit(kind: type, photographs: Path, folder: Path, **arguments: Any) -> Path:
    run = engine(folder)
    run.fit(seeded(kind, **arguments), datamodule=one_class(photographs))
    return Path(run.trainer.checkpoint_callback.best_model_path)


@pytest.fixture(scope="module")
def checkpoint(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a small model of astronauts."""
    return _fit(Dn2, photographs, tmp_path_factory.mktemp("dn2"), visualizer=True)


@pytest.mark.parametrize("kind", [Dn2, PandaOe, PandaSes])
def test_verdicts_are_those_of_predict(kind: type, photographs: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Every column of the table, whatever the model: distances, logits, and the farthest of several snapshots."""
    given: dict[str, Any] = {"outliers": photographs / "coffee", "scorer": "logit"} if kind is PandaOe else {}
    given |= {"every_n_minibatches": 2} if kind is PandaSes else {}
    if kind is not Dn2:
        checkpoint = _fit(kind, photographs, tmp_path / "fit", **FAST, **given)
    inspector = ImageInspector(checkpoint, runtime="eager")
    assert isinstance(inspector.model, kind)
    assert inspector.quantity == ("logit" if kind is PandaOe else "distance")
    Engine(default_root_dir=tmp_path, logger=False, enable_progress_bar=False, accelerator="cpu").predict(
        load_model(checkpoint), data_path=photographs / "coffee"
    )
    table = pd.read_parquet(next(tmp_path.glob("**/predictions.parquet")))
    assert len(table) == 12
    for expected in table.to_dict("records"):
        row = inspector.inspect(expected["path"])
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, float):
                assert math.isclose(row[name], value, rel_tol=1e-4), name
            else:
                assert row[name] == value or (row[name] is None and pd.isna(value)), name
        assert row["predicted_label"] == (row["distance"] > inspector.threshold)
    assert "neighbor_5" in row


def test_one_image_does_not_change_the_next(checkpoint: Path, photographs: Path) -> None:
    """Whatever order they come in."""
    inspector = ImageInspector(checkpoint, runtime="eager")
    paths = find_images(photographs / "coffee")[:4]
    first = [inspector.inspect(path)["distance"] for path in paths]
    again = [inspector.inspect(path)["distance"] for path in reversed(paths)]
    np.testing.assert_array_equal(first, again[::-1])


def test_the_first_image_does_not_wait_for_the_runtime(
    checkpoint: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Converting or compiling the network takes seconds, and is done before."""
    runs = []

    def make_runtime(self: Detector, name: str) -> Any:
        def run(images: torch.Tensor) -> torch.Tensor:
            runs.append(len(images))
            return self.backbone(images)

        return run

    monkeypatch.setattr(Detector, "make_runtime", make_runtime)
    inspector = ImageInspector(checkpoint)
    assert runs == [1]
    inspector.inspect(photographs / "coffee/00.png")
    assert runs == [1, 1]


def test_what_is_no_image_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """By its name, by its content, and when it is not there."""
    inspector = ImageInspector(checkpoint, runtime="eager")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(ValueError, match=r"file must be an image \(\.jpg .*\), got '.*notes\.txt'; convert it\."):
        inspector.inspect(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"broken\.png' cannot be read"):
        inspector.inspect(tmp_path / "broken.png")
    with pytest.raises(FileNotFoundError):
        inspector.inspect(tmp_path / "gone.png")


def test_a_run_folder_stands_for_its_newest_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    """Also a folder of several runs; without any the message says so."""
    assert find_checkpoint(checkpoint) == checkpoint
    assert find_checkpoint(checkpoint.parents[2]) == checkpoint
    newer = tmp_path / "v1/weights/lightning/model.ckpt"
    older = tmp_path / "v0/weights/lightning/model.ckpt"
    for path, seconds in ((newer, 2000), (older, 1000)):
        path.parent.mkdir(parents=True)
        shutil.copyfile(checkpoint, path)
        os.utime(path, (seconds, seconds))
    assert find_checkpoint(tmp_path) == newer
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="got none in"):
        find_checkpoint(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="must be an existing file"):
        find_checkpoint(tmp_path / "missing.ckpt")


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    """By the name of the model, where there is one."""
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"model must be a checkpoint of Dn2, .*, got one of another model"):
        load_model(tmp_path / "other.ckpt")


def test_components_of_others_are_refused(photographs: Path, tmp_path: Path) -> None:
    """Without a post-processor there is no threshold."""
    path = _fit(Dn2, photographs, tmp_path, post_processor=False, evaluator=False)
    with pytest.raises(ValueError, match="model must have panda_anomalib's own Calibration, got NoneType"):
        ImageInspector(path)
