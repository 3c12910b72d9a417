"""The monitor on a small module whose embeddings the tests control."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers.logger import Logger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from panda_anomalib.callbacks.collapse_figure import draw_collapse
from panda_anomalib.callbacks.collapse_monitor import CollapseMonitor

_DIMENSIONS = 6
pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")


def _images(seed: int, count: int, *, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, _DIMENSIONS, generator=torch.Generator().manual_seed(seed))


class _Compact(LightningModule):
    """Compactness on one linear layer: the optimum is the collapsed solution."""

    def __init__(self, *, learning_rate: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(_DIMENSIONS, _DIMENSIONS)
        nn.init.eye_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.dropout = nn.Dropout(0.2)
        self.learning_rate = learning_rate
        self.images = {
            "train": _images(0, 64),
            "val_normal": _images(1, 20),
            "test_normal": _images(2, 30),
            "test_anomalous": _images(3, 30, scale=2.0),
        }
        self.asked: list[tuple[int, bool]] = []

    def adaptation_probe(self, *, num_images: int, include_test: bool) -> dict[str, Tensor]:
        torch.rand(3)  # as a data loader does
        self.asked.append((num_images, include_test))
        groups = [name for name in self.images if include_test or not name.startswith("test")]
        return {name: self.layer(self.images[name][:num_images]) for name in groups}

    def adaptation_center(self) -> Tensor:
        return self.images["train"].mean(dim=0)

    @override
    def training_step(self, batch: Tensor) -> Tensor:
        return (self.dropout(self.layer(batch)) - self.adaptation_center()).square().mean()

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)

    @override
    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.images["train"], batch_size=8)  # type: ignore[arg-type]


class _Memory(Logger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    name, version = "memory", 0

    @override
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))

    @override
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def _trainer(folder: Path, callbacks: list[Any], **arguments: Any) -> Trainer:
    arguments = {"max_steps": 10, "max_epochs": -1, "logger": False, "enable_checkpointing": False} | arguments
    return Trainer(
        default_root_dir=folder,
        callbacks=callbacks,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def _fit(folder: Path, monitor: CollapseMonitor, model: _Compact, **arguments: Any) -> CollapseMonitor:
    torch.manual_seed(0)
    _trainer(folder, [monitor], **arguments).fit(model)
    return monitor


def test_rows_at_start_at_intervals_and_at_the_end_go_everywhere(tmp_path: Path) -> None:
    """History, CSV, logger and picture hold the same measurements; test images are not asked for."""
    model, sink = _Compact(learning_rate=0.1), _Memory()
    monitor = _fit(tmp_path, CollapseMonitor(4, num_images=50), model, logger=sink)
    assert [row["minibatch"] for row in monitor.history] == [0, 4, 8, 10]
    assert model.asked == [(50, False)] * 4
    assert not [name for row in monitor.history for name in row if name.startswith("test")]
    with (tmp_path / "collapse/collapse.csv").open(newline="", encoding="utf-8") as file:
        written = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert written == monitor.history
    logged = [(step, metrics) for step, metrics in sink.rows if "collapse/variance" in metrics]
    assert [step for step, _ in logged] == [0, 4, 8, 10]
    assert [{name[9:]: value for name, value in metrics.items()} for _, metrics in logged] == monitor.history
    with Image.open(tmp_path / "collapse/collapse.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10  # something is drawn


def test_row_equals_the_definitions(tmp_path: Path) -> None:
    """Each number of the last row from the numpy twins and the final weights."""
    model = _Compact(learning_rate=0.5)
    row = _fit(tmp_path, CollapseMonitor(100, num_images=64, watch_test=True), model).history[-1]
    with torch.no_grad():
        now = {name: model.layer(images).numpy() for name, images in model.images.items()}
    start, train, center = model.images["train"].numpy(), now["train"], model.adaptation_center().numpy()
    held = np.sort(np.random.default_rng(0).permutation(64)[:6])
    typical = reference.typical_distance(train, held, 2) / _DIMENSIONS
    trace = [np.trace(np.cov(rows.astype(float), rowvar=False)) for rows in (start, train)]
    ranks = [reference.effective_rank(rows) for rows in (start, train)]
    tests = np.concatenate([now["test_normal"], now["test_anomalous"]])
    expected = {
        "minibatch": 10,
        "typical_distance": typical,
        "variance": trace[1],
        "variance_kept": trace[1] / trace[0],
        "effective_rank": ranks[1],
        "effective_rank_kept": ranks[1] / ranks[0],
        "neighbors_kept": reference.neighbor_preservation(start, train, 10),
        "held_out_ratio": reference.held_out_ratio(train, now["val_normal"], 2),
        "test_auroc": reference.auroc(reference.knn(tests, train, 2), np.repeat([0, 1], 30)),
    }
    for group, rows in now.items():
        expected[f"{group}_distance"] = reference.compactness(rows, center)
        expected[f"{group}_ratio"] = reference.compactness(rows, center) / typical
    assert row == pytest.approx(expected, rel=1e-4)
    assert expected["variance_kept"] < 0.9  # the run did move


def test_minibatches_are_counted_not_steps(tmp_path: Path) -> None:
    """Three minibatches make one optimiser step; the curve's axis does not change."""
    monitor = _fit(tmp_path, CollapseMonitor(4, num_images=64), _Compact(), max_steps=3, accumulate_grad_batches=3)
    assert [row["minibatch"] for row in monitor.history] == [0, 4, 8]  # 8 minibatches a pass, the last step has two


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    """Dropout draws the same masks although the probe draws random numbers too."""
    watched, alone = _Compact(learning_rate=0.1), _Compact(learning_rate=0.1)
    _fit(tmp_path, CollapseMonitor(2, num_images=64), watched)
    torch.manual_seed(0)
    _trainer(tmp_path, []).fit(alone)
    assert len(watched.asked) == 6
    assert torch.equal(watched.layer.weight, alone.layer.weight)
    assert not torch.equal(watched.layer.weight, torch.eye(_DIMENSIONS))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")  # ModelCheckpoint is not resumed
def test_resumed_run_continues_the_curve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Stopped in mid-epoch and resumed by new objects: same rows, same start, no second warning."""
    arguments = {"num_images": 64, "min_variance_kept": 0.9, "min_neighbors_kept": 1.0}

    def model() -> _Compact:
        compact = _Compact(learning_rate=0.5)
        compact.dropout = nn.Identity()  # Lightning restores no random state
        compact.train_dataloader = lambda: DataLoader(compact.images["train"], batch_size=64)  # type: ignore[assignment,arg-type]
        return compact

    whole = _fit(tmp_path / "whole", CollapseMonitor(3, **arguments), model(), max_steps=12)
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", filename="last", every_n_train_steps=5)
    first = CollapseMonitor(3, **arguments)
    _trainer(tmp_path / "first", [first, checkpoint], max_steps=5, enable_checkpointing=True).fit(model())
    caplog.clear()
    resumed = CollapseMonitor(3, **arguments)
    _trainer(tmp_path / "resumed", [resumed], max_steps=12).fit(
        model(), ckpt_path=tmp_path / "checkpoints/last.ckpt", weights_only=True
    )
    assert first.warned_at == resumed.warned_at == whole.warned_at == 3
    assert resumed.history == whole.history
    assert [row["minibatch"] for row in resumed.history] == [0, 3, 6, 9, 12]
    assert "collapsing" not in caplog.text
    assert (tmp_path / "resumed/collapse/collapse.csv").read_text() == (
        tmp_path / "whole/collapse/collapse.csv"
    ).read_text()


def test_monitor_of_another_size_starts_a_new_curve(tmp_path: Path) -> None:
    """Rows of other images are not mixed; the minibatches keep their count."""
    checkpoint = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=8)
    callbacks = [CollapseMonitor(4, num_images=64), checkpoint]
    _trainer(tmp_path, callbacks, max_steps=8, enable_checkpointing=True).fit(_Compact())
    other = CollapseMonitor(4, num_images=32)
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint need to be provided"):
        _trainer(tmp_path, [other], max_steps=12).fit(_Compact(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert [row["minibatch"] for row in other.history] == [8, 12]


@pytest.mark.parametrize("watch_test", [False, True])
def test_warns_once_when_features_collapse(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    watch_test: bool,
) -> None:
    """By the training images alone: test images that look perfect change nothing."""
    model = _Compact(learning_rate=0.5)
    model.images["test_anomalous"] = 1000 + model.images["test_anomalous"]
    with caplog.at_level(logging.WARNING):
        monitor = _fit(tmp_path, CollapseMonitor(5, num_images=64, watch_test=watch_test), model, max_steps=30)
    warnings = [record.getMessage() for record in caplog.records if "collapsing" in record.getMessage()]
    assert len(warnings) == 1
    assert monitor.warned_at in range(5, 31, 5)
    assert f"at minibatch {monitor.warned_at}: " in warnings[0]
    assert len(monitor.history) == 7  # and training went on


def test_says_nothing_while_nothing_moves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Learning rate 0: every share stays 1."""
    monitor = _fit(tmp_path, CollapseMonitor(5, num_images=64), _Compact())
    assert monitor.warned_at is None
    assert "collapsing" not in caplog.text
    shares = [row[name] for row in monitor.history for name in monitor.limits]
    assert shares == pytest.approx([1.0] * 9)


_SQUEEZED = torch.tensor([1.0, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3])
_SHRUNK = torch.full((_DIMENSIONS,), 0.1)


@pytest.mark.parametrize(
    ("scale", "swapped", "lost"),
    [
        (_SQUEEZED, False, ["effective_rank_kept"]),
        (_SHRUNK, False, []),  # compactness by intent: kNN does not mind one factor
        (torch.ones(_DIMENSIONS), True, []),  # outlier exposure, which gains
        (_SHRUNK, True, ["variance_kept", "neighbors_kept"]),
    ],
)
def test_warns_of_directions_lost_or_of_variance_and_neighbors_lost_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scale: Tensor, swapped: bool, lost: list[str]
) -> None:
    """Squeezed into one direction; shrunk evenly; images swapped among each other; both."""
    model = _Compact()
    monitor = CollapseMonitor(100, num_images=64)
    original = model.adaptation_probe

    def spoiled(*, num_images: int, include_test: bool) -> dict[str, Tensor]:
        probe = original(num_images=num_images, include_test=include_test)
        if len(model.asked) > 1:
            train = probe["train"] * scale
            probe["train"] = train.flip(0) if swapped else train
        return probe

    model.adaptation_probe = spoiled  # type: ignore[method-assign]
    _fit(tmp_path, monitor, model)
    assert monitor.warned_at == (10 if lost else None)
    assert all(f"{name} is" in caplog.text for name in lost)


def test_embeddings_that_are_not_finite(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A warning and a gap in the curve, no exception: stopping is not the monitor's business."""
    model = _Compact(learning_rate=1e30)
    monitor = _fit(tmp_path, CollapseMonitor(5, num_images=64), model)
    assert monitor.history[1:] == [{"minibatch": 5}, {"minibatch": 10}]
    assert caplog.text.count("embeddings of normal images are not finite") == 1
    assert (tmp_path / "collapse/collapse.png").exists()


def test_figure_shows_what_was_measured_and_no_more() -> None:
    """Curves by group, gaps where a value is missing, the AUROC on an axis of its own, the warning's line."""
    rows: list[dict[str, float]] = [
        {"minibatch": 0, "train_distance": 1.0, "train_ratio": 2.0, "variance_kept": 1.0, "test_auroc": 0.9},
        {"minibatch": 100},
        {"minibatch": 200, "train_distance": 0.5, "train_ratio": 2.5, "variance_kept": 0.5, "test_auroc": 0.8},
    ]
    distances, ratios, left, right = draw_collapse(rows, warned_at=200).axes
    curve, warning = distances.get_lines()
    np.testing.assert_array_equal(curve.get_data(), [[0, 100, 200], [1, np.nan, 0.5]])
    assert warning.get_xdata() == [200, 200]
    np.testing.assert_array_equal(ratios.get_lines()[0].get_ydata(), [2, np.nan, 2.5])
    np.testing.assert_array_equal(right.get_lines()[0].get_ydata(), [0.9, np.nan, 0.8])
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["variance", "AUROC (right axis)"]
    assert all(axes.get_xlabel() == "minibatches" and axes.get_ylabel() for axes in (distances, ratios, left))
    without = [{name: value for name, value in row.items() if name != "test_auroc"} for row in rows]
    assert len(draw_collapse(without).axes) == 3


def test_model_without_a_probe_is_refused(tmp_path: Path) -> None:
    """At setup, with what to do."""
    with pytest.raises(TypeError, match=r"model must offer adaptation_probe\(\).*got BoringModel"):
        _trainer(tmp_path, [CollapseMonitor()]).fit(BoringModel())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_minibatches": 0}, "every_n_minibatches must be at least 1, got 0"),
        ({"num_images": 19}, "num_images must be at least 20"),
        ({"min_variance_kept": 1.5}, r"min_variance_kept must be in \[0, 1\], got 1.5"),
        ({"min_effective_rank_kept": -0.1}, r"min_effective_rank_kept must be in \[0, 1\], got -0.1"),
        ({"min_neighbors_kept": float("nan")}, r"min_neighbors_kept must be in \[0, 1\], got nan"),
    ],
)
def test_arguments(arguments: dict[str, Any], message: str) -> None:
    """Refused before any work."""
    with pytest.raises(ValueError, match=message):
        CollapseMonitor(**arguments)
