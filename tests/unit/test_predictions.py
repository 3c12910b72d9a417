"""Tables and metrics files, written by real Lightning runs of a model whose answers are given."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch
from torch.utils.data import DataLoader

from panda_anomalib.predictions import PredictionTable, PredictionWriter, stage_folder, write_atomically

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # inside Lightning 2.6 with torch 2.15

# Values that lose digits as soon as somebody rounds them.
DISTANCES = [0.1, 1 / 3, 12345.678, 3.0000002]
THRESHOLD = 2.0


def make_batch(start: int, stop: int, labels: list[int] | None, *, neighbors: bool = True) -> ImageBatch:
    """Batch as it leaves the post-processor."""
    paths = [f"/data/{index}.png" for index in range(start, stop)]
    batch = ImageBatch(image=torch.zeros(stop - start, 3, 2, 2), image_path=paths)
    batch.gt_label = None if labels is None else torch.tensor(labels[start:stop])
    batch.distance = torch.tensor(DISTANCES[start:stop])
    batch.pred_score = batch.distance / (batch.distance + THRESHOLD)
    batch.pred_label = batch.distance > THRESHOLD
    batch.p_value = 1 / (1 + batch.distance)
    batch.neighbor_distances = batch.distance[:, None] * torch.tensor([1.0, 1.1]) if neighbors else None
    batch.neighbor_indices = torch.tensor([[2, 0]] * (stop - start)) if neighbors else None
    return batch


class GivenModel(pl.LightningModule):
    """Gives back the batches it gets; fails at batch ``fails_at``; logs ``metrics`` in test."""

    training_paths = ("/train/a.png", "/train/b.png", "/train/c.png")
    name = "Dn2"

    def __init__(self, *, fails_at: int | None = None, metrics: dict[str, float] | None = None) -> None:
        super().__init__()
        self.post_processor = SimpleNamespace(
            threshold=torch.tensor(THRESHOLD), false_positive_rate=0.05, num_calibration=99
        )
        self.fails_at, self.metrics = fails_at, metrics or {}

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """The answers are in the batch."""
        if batch_idx == self.fails_at:
            raise RuntimeError("the disk caught fire")
        return batch

    predict_step = test_step

    def on_test_epoch_end(self) -> None:
        """As the evaluator does."""
        self.log_dict(self.metrics)


def make_trainer(root: Path, *callbacks: pl.Callback) -> pl.Trainer:
    """Trainer that writes nothing itself."""
    flags = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return pl.Trainer(default_root_dir=root, accelerator="cpu", callbacks=list(callbacks), **flags)


def run(root: Path, stage: str, *, labels: list[int] | None = None, neighbors: bool = True, **model: Any) -> None:
    """Test or predict two batches, of three images and of one."""
    batches = [make_batch(0, 3, labels, neighbors=neighbors), make_batch(3, 4, labels, neighbors=neighbors)]
    trainer = make_trainer(root, PredictionWriter())
    getattr(trainer, stage)(GivenModel(**model), DataLoader(batches, batch_size=None))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_hold_the_numbers_bit_by_bit(tmp_path: Path, kind: str) -> None:
    """What went in comes out of both files, in order, to the last bit of float32."""
    run(tmp_path, "test", labels=[0, 0, 1, 1])
    file = tmp_path / "test" / f"predictions.{kind}"
    table = pd.read_csv(file, dtype=str) if kind == "csv" else pd.read_parquet(file)
    expected = make_batch(0, 4, [0, 0, 1, 1])
    columns = {
        "distance": expected.distance,
        "score": expected.pred_score,
        "p_value": expected.p_value,
        "neighbor_1_distance": expected.neighbor_distances[:, 0],
        "neighbor_2_distance": expected.neighbor_distances[:, 1],
    }
    for name, values in columns.items():
        np.testing.assert_array_equal(table[name].to_numpy(np.float32), values.numpy(), err_msg=name)
    assert table["path"].tolist() == [f"/data/{index}.png" for index in range(4)]
    assert table["label"].astype(int).tolist() == [0, 0, 1, 1]
    assert table["predicted_label"].astype(int).tolist() == [0, 0, 1, 1]
    assert table["neighbor_1"].tolist() == ["/train/c.png"] * 4
    assert table["neighbor_2"].tolist() == ["/train/a.png"] * 4


def test_unknown_labels_are_empty_and_absent_neighbors_have_no_columns(tmp_path: Path, capsys: Any) -> None:
    """A predict run of the centre scorer: six columns, nothing invented, no metrics; one line says what happened."""
    run(tmp_path, "predict", neighbors=False)
    lines = (tmp_path / "predict" / "predictions.csv").read_text().splitlines()
    assert lines[0] == "path,label,distance,score,p_value,predicted_label"
    assert lines[1].startswith("/data/0.png,,0.1,")
    assert sorted(path.name for path in (tmp_path / "predict").iterdir()) == ["predictions.csv", "predictions.parquet"]
    assert f"4 images, 2 flagged as anomalous. Everything is in {tmp_path / 'predict'}" in capsys.readouterr().out


def test_metrics_file_and_summary(tmp_path: Path, capsys: Any) -> None:
    """By hand: image 0 (anomalous) is missed, 1 (normal) right, 2 (normal) a false alarm, 3 (anomalous) found."""
    run(tmp_path, "test", labels=[1, 0, 0, 1], metrics={"image_AUROC": 0.25, "image_F1": float("nan"), "loss": 1.0})
    report = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert report["metrics"] == {"image_AUROC": 0.25, "image_F1": None}
    assert list(report["undefined"]) == ["image_F1"]
    counts = {name: report[name] for name in ("images", "normal", "anomalous", "flagged", "false_alarms", "missed")}
    assert counts == {"images": 4, "normal": 2, "anomalous": 2, "flagged": 2, "false_alarms": 1, "missed": 1}
    assert (report["threshold"], report["false_positive_rate"], report["num_calibration"]) == (2.0, 0.05, 99)
    assert report["model"] == "Dn2"
    assert report["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    out = capsys.readouterr().out
    assert "1 of 2 normal images" in out
    assert "1 of 2 anomalous images" in out
    assert "2, for 5 % false alarms (99 normal images)" in out
    assert f"Everything is in {tmp_path / 'test'}\n" in out


def test_one_class_test_set_says_undefined(tmp_path: Path, capsys: Any) -> None:
    """NaN is not a number in JSON, and null alone would not say why."""
    run(tmp_path, "test", labels=[0, 0, 0, 0], metrics={"image_AUROC": float("nan")})
    report = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert report["metrics"] == {"image_AUROC": None}
    assert report["undefined"] == {"image_AUROC": "undefined: no anomalous image in the test set"}
    out = capsys.readouterr().out
    assert "undefined (no anomalous image in the test set)" in out
    assert "2 of 4 normal images" in out


def test_exception_leaves_what_was_collected(tmp_path: Path) -> None:
    """The first batch of three is kept when the second one fails, and nothing looks complete."""
    with pytest.raises(RuntimeError, match="caught fire"):
        run(tmp_path, "predict", fails_at=1)
    assert [path.name for path in (tmp_path / "predict").iterdir()] == ["predictions.partial.csv"]
    assert len(pd.read_csv(tmp_path / "predict" / "predictions.partial.csv")) == 3


def test_unwritable_results_folder_fails_before_the_first_batch(tmp_path: Path) -> None:
    """A file stands where the folder should be; the model, failing at its first batch, is never asked."""
    root = tmp_path / "results"
    root.write_text("not a folder")
    with pytest.raises(OSError, match="default_root_dir must be a folder one can write to"):
        run(root, "test", labels=[0, 0, 1, 1], fails_at=0)


def test_each_run_gets_its_own_folder(tmp_path: Path) -> None:
    """One trainer, three runs: nothing is overwritten; an empty folder is used, one with a foreign file is not."""
    (tmp_path / "test").mkdir()
    (tmp_path / "test-2").mkdir()
    (tmp_path / "test-2" / "mine.txt").write_text("keep")
    trainer, model = make_trainer(tmp_path, PredictionWriter()), GivenModel()
    for _ in range(2):
        trainer.test(model, DataLoader([make_batch(0, 4, [0, 0, 1, 1])], batch_size=None), verbose=False)
    trainer.predict(model, DataLoader([make_batch(0, 4, None)], batch_size=None))
    written = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("predictions.csv"))
    assert written == ["predict", "test", "test-3"]
    assert [path.name for path in (tmp_path / "test-2").iterdir()] == ["mine.txt"]


def test_stage_folder_outside_test_and_predict(tmp_path: Path) -> None:
    """A trainer that does nothing has no stage to name a folder after."""
    with pytest.raises(RuntimeError, match="trainer must be testing or predicting, got None"):
        stage_folder(make_trainer(tmp_path))


def test_processes_are_joined_in_dataset_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes share three images; the sampler gave image 0 to both to fill up. Order is 0, 1, 2, once each."""

    def deal(*indices: int) -> PredictionTable:
        table = PredictionTable()
        for index in indices:
            table.add(make_batch(index, index + 1, None), GivenModel.training_paths)
        return table

    tables = [deal(0, 2), deal(1, 0)]

    def gather(groups: list[Any], mine: Any) -> None:
        assert mine is tables[0]._parts
        groups[:] = [table._parts for table in tables]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert tables[0].frame(gather=True)["path"].tolist() == [f"/data/{index}.png" for index in range(3)]
    assert len(tables[0].frame(gather=False)) == 2


def test_same_path_twice_is_kept_in_one_process() -> None:
    """Only padding is dropped; a list that names an image twice is answered twice."""
    table = PredictionTable()
    for _ in range(2):
        table.add(make_batch(0, 1, None), GivenModel.training_paths)
    assert len(table.frame(gather=True)) == 2


def test_batch_without_paths_is_refused() -> None:
    """Rows without names would be useless."""
    batch = make_batch(0, 1, None)
    batch.image_path = None
    with pytest.raises(ValueError, match="image_path must list the files"):
        PredictionTable().add(batch, GivenModel.training_paths)


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """An interrupted write leaves neither half a file nor litter."""
    target = tmp_path / "metrics.json"
    target.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert target.read_text() == "old"
