"""Scores of any model."""

from types import SimpleNamespace
from typing import Any

import torch

from panda_anomalib.benchmark.collecting import ScoreCollector
from panda_anomalib.benchmark.outcome import describe_threshold, rates


def _test(collector: ScoreCollector, *batches: Any) -> None:
    """As a trainer calls it: the post-processor comes after the callbacks given to the Engine."""
    trainer: Any = None
    for batch in batches:
        collector.on_test_batch_start(trainer, trainer, batch, 0)
        collector.on_test_batch_end(trainer, trainer, batch, batch, 0)
        if batch.pred_score is not None:
            batch.pred_label = batch.pred_score > 3
            batch.pred_score = (batch.pred_score / 6).clamp(0, 1)
    collector.on_test_epoch_end(trainer, trainer)


def _batch(paths: list[str], labels: list[int], scores: list[float] | None) -> Any:
    values = None if scores is None else torch.tensor(scores)
    return SimpleNamespace(image_path=paths, gt_label=torch.tensor(labels), pred_score=values, pred_label=None)


def test_raw_scores_are_kept_beside_those_of_the_post_processor() -> None:
    """Clamped to 1, the last two would be a tie; of each image there is one row, whatever its batch."""
    collector = ScoreCollector()
    _test(collector, _batch(["a", "b"], [0, 1], [1.0, 7.0]), _batch(["c"], [1], [9.0]))
    table = collector.table()
    assert table is not None
    assert table["image_path"].tolist() == ["a", "b", "c"]
    assert table["distance"].tolist() == [1.0, 7.0, 9.0]
    assert table["score"].max() == 1.0
    assert table["anomalous"].tolist() == [False, True, True]
    assert table["p_value"].isna().all()
    expected = {"num_test_normal": 1, "num_test_anomalous": 2, "image_FalseAlarmRate": 0.0, "image_MissRate": 0.0}
    assert rates(table) == expected


def test_a_model_without_scores_of_images_has_no_table() -> None:
    """There is nothing to be ranked."""
    collector = ScoreCollector()
    _test(collector, _batch(["a"], [0], None))
    assert collector.table() is None
    assert rates(None) == {}


def test_a_threshold_from_test_images_is_called_so() -> None:
    """Anomalib's models validate on what they are given."""
    model = SimpleNamespace(post_processor=SimpleNamespace(image_threshold=torch.tensor(3.0), enable_thresholding=True))
    for mode, source in (("same_as_test", "test images"), ("from_test", "validation images")):
        datamodule = SimpleNamespace(val_split_mode=SimpleNamespace(value=mode))
        assert describe_threshold(model, datamodule) == {"threshold": 3.0, "threshold_source": source}
    model.post_processor.image_threshold = torch.tensor(torch.nan)
    assert describe_threshold(model, datamodule) == {}
