"""Metrics on raw distances: what anomalib's get wrong must be right here."""

import logging

import numpy as np
import pytest
import reference
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC as HostAUROC  # noqa: N811 - two classes of one name
from torch import Tensor

from panda_anomalib.evaluation import (
    AUPR,
    AUROC,
    FPR95,
    F1Max,
    F1Score,
    FalseAlarmRate,
    MissRate,
    image_evaluator,
)


def batch(distances: Tensor, labels: Tensor, *, threshold: float = 10.0, start: int = 0) -> ImageBatch:
    """Batch as the model and the post-processor leave it."""
    result = ImageBatch(
        image=torch.zeros(len(distances), 3, 2, 2),
        gt_label=labels,
        pred_label=distances > threshold,
        image_path=[f"{start + i}.png" for i in range(len(distances))],
    )
    result.distance = distances
    return result


def compute(metric_class: type, *batches: ImageBatch) -> float:
    """Value of a metric after some batches."""
    field = "pred_label" if metric_class in (F1Score, FalseAlarmRate, MissRate) else "distance"
    metric = metric_class(fields=[field, "gt_label", "image_path"], prefix="image_")
    for each in batches:
        metric.update(each)
    return float(metric.compute())


def test_auroc_of_raw_distances_needs_no_sigmoid() -> None:
    """Anomalib's AUROC calls this perfect separation 0.5, because a sigmoid makes all four scores 1.0."""
    distances, labels = torch.tensor([20.0, 21.0, 30.0, 31.0]), torch.tensor([0, 0, 1, 1])
    host = HostAUROC(fields=["pred_score", "gt_label"])
    host_batch = ImageBatch(image=torch.zeros(4, 3, 2, 2), gt_label=labels, pred_score=distances)
    host.update(host_batch)
    assert host.compute() == 0.5, "anomalib mended its AUROC: our own may go"
    assert compute(AUROC, batch(distances, labels)) == 1.0
    assert compute(AUPR, batch(distances, labels)) == 1.0


def test_auroc_equals_reference_over_batches(rng: np.random.Generator) -> None:
    """With ties, in batches on both sides of 1, where torchmetrics treats batches differently."""
    distances = torch.from_numpy(np.round(rng.gamma(2, size=200), 1).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 2, 200))
    batches = [
        batch(d, y, start=64 * i) for i, (d, y) in enumerate(zip(distances.split(64), labels.split(64), strict=False))
    ]
    assert compute(AUROC, *batches) == pytest.approx(reference.auroc(distances.numpy(), labels.numpy()), abs=1e-12)


def test_values_by_hand() -> None:
    """Ten images, threshold 10: 1 of 5 normals flagged, 2 of 5 anomalous missed."""
    distances = torch.tensor([1.0, 2.0, 3.0, 4.0, 11.0, 5.0, 9.0, 12.0, 13.0, 14.0])
    labels = torch.tensor([0] * 5 + [1] * 5)
    each = batch(distances, labels)
    assert compute(FalseAlarmRate, each) == pytest.approx(0.2)
    assert compute(MissRate, each) == pytest.approx(0.4)
    assert compute(F1Score, each) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert compute(FPR95, each) == pytest.approx(0.2)  # all five found from 5.0 on: 11.0 is flagged with them
    assert compute(F1Max, each) == pytest.approx(2 * 5 / (2 * 5 + 1))  # flagging from 5.0 on
    assert compute(AUROC, each) == pytest.approx(1 - 2 / 25)


@pytest.mark.parametrize(
    ("metric_class", "without_normal", "without_anomalous"),
    [
        (AUROC, True, True),
        (AUPR, True, True),
        (F1Max, True, True),
        (FPR95, True, True),
        (F1Score, True, True),
        (FalseAlarmRate, True, False),
        (MissRate, False, True),
    ],
)
def test_undefined_is_not_zero(
    metric_class: type, without_normal: bool, without_anomalous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """NaN and a sentence where a class is missing; a value where the metric does not need it."""
    for label, undefined, word in ((1, without_normal, "no normal"), (0, without_anomalous, "no anomalous")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            value = compute(metric_class, batch(torch.tensor([1.0, 20.0]), torch.tensor([label, label])))
        assert np.isnan(value) == undefined
        assert (word in caplog.text) == undefined


def test_distances_that_are_not_finite() -> None:
    """Torchmetrics would return 1.0 with a NaN among the scores."""
    with pytest.raises(ValueError, match="values must be finite"):
        compute(AUROC, batch(torch.tensor([1.0, torch.nan]), torch.tensor([0, 1])))


def test_evaluator_names_for_validation_and_test() -> None:
    """Names as anomalib makes them; validation has its own metrics, so that something can be monitored."""
    evaluator = image_evaluator()
    names = ["AUROC", "AUPR", "F1Max", "FPR95", "F1Score", "FalseAlarmRate", "MissRate"]
    assert [metric.name for metric in evaluator.test_metrics] == [f"image_{name}" for name in names]
    assert [metric.name for metric in evaluator.val_metrics] == [f"image_{name}" for name in names]
    assert not set(evaluator.test_metrics) & set(evaluator.val_metrics)
