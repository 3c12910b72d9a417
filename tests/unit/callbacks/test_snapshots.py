"""Snapshots are taken when the paper says, are copies, survive interruption, and are announced."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from panda_anomalib.backbones import Backbone
from panda_anomalib.callbacks.snapshots import SnapshotEnsemble

Trunk = dict[str, Tensor]


class Adapted(LightningModule):
    """The trunk of a small backbone, trained to make embeddings short."""

    def __init__(self, *, rate: float = 0.05) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Module()
        self.model.backbone = Backbone("test_resnet", weights="random")
        for parameter in self.model.backbone.trunk_parameters().values():
            parameter.requires_grad_()
        self.rate = rate

    @override
    def training_step(self, batch: list[Tensor], *args: Any) -> Tensor:
        return self.model.backbone(batch[0]).square().sum()

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.backbone.trunk_parameters().values(), lr=self.rate)


class History(Callback):
    """The trunk after every minibatch."""

    def __init__(self) -> None:
        self.trunks: list[Trunk] = []

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        parameters = pl_module.model.backbone.trunk_parameters()
        self.trunks.append({name: value.detach().clone() for name, value in parameters.items()})


def images(count: int = 10, batch_size: int = 4) -> DataLoader[Any]:
    """Three minibatches in a pass, always in the same order."""
    pixels = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(pixels), batch_size=batch_size)


def train(
    root: Path, *callbacks: Callback, model: LightningModule | None = None, ckpt_path: Path | None = None, **limits: Any
) -> Trainer:
    """Train quietly."""
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(
        default_root_dir=root, accelerator="cpu", enable_checkpointing=False, callbacks=[*callbacks], **quiet, **limits
    )
    trainer.fit(model or Adapted(), images(), ckpt_path=ckpt_path)
    return trainer


def same(one: Trunk, other: Trunk) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("num_images", "expected"), [(5000, 6), (6000, 5), (2500, 12), (10_000, 3)], ids=["cifar10", "fmnist", "20", "cats"]
)
def test_plan_is_the_papers(num_images: int, expected: int) -> None:
    """Every 5 passes up to 150,000 images; the last, smaller minibatch of a pass does not shift the count."""
    per_pass = -(-num_images // 32)
    plan = SnapshotEnsemble().plan(num_images=num_images, per_pass=per_pass, budget=float("inf"))
    assert plan == [5 * per_pass * i for i in range(1, expected + 1)]


def test_plan_has_a_most() -> None:
    """46 copies of DIOR, 3000 of Flowers: 12 are taken, evenly spaced, from an interval's end, the last one of all."""
    for num_images, per_pass, possible in ((649, 21, 46), (10, 1, 3000)):
        plan = SnapshotEnsemble().plan(num_images=num_images, per_pass=per_pass, budget=float("inf"))
        assert len(plan) == 12
        assert plan[-1] == possible * 5 * per_pass
        assert {number % (5 * per_pass) for number in plan} == {0}
        gaps = {later - earlier for earlier, later in zip([0, *plan], plan, strict=False)}
        assert max(gaps) - min(gaps) <= 5 * per_pass


def test_plan_ends_with_the_budget() -> None:
    """What is not trained cannot be taken; minibatches may take the place of passes; the unadapted comes on top."""
    assert SnapshotEnsemble().plan(num_images=5000, per_pass=157, budget=2355) == [785, 1570, 2355]
    assert SnapshotEnsemble(every_n_minibatches=1000).plan(num_images=5000, per_pass=157, budget=2355) == [1000, 2000]
    every = SnapshotEnsemble(max_snapshots=2, include_pretrained=True)
    assert every.plan(num_images=5000, per_pass=157, budget=2400) == [0, 1570, 2355]


def test_plan_not_possible() -> None:
    """Not one interval fits: into the budget, or into the images."""
    with pytest.raises(ValueError, match=r"must be at least one snapshot interval, 785 minibatches, got 784; tr"):
        SnapshotEnsemble().plan(num_images=5000, per_pass=157, budget=784)
    with pytest.raises(ValueError, match=r"max_samples must be at least one snapshot interval, 25000 .* got 24999"):
        SnapshotEnsemble(max_samples=24_999).plan(num_images=5000, per_pass=157, budget=9999)


@pytest.mark.parametrize("name", ["every_n_passes", "every_n_minibatches", "max_samples", "max_snapshots"])
def test_arguments_not_accepted(name: str) -> None:
    """Every number is at least 1."""
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0."):
        SnapshotEnsemble(**{name: 0})


def test_budget_too_small_is_found_before_training(tmp_path: Path) -> None:
    """Not a weight has moved."""
    model = Adapted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="budget must be at least one snapshot interval, 15 minibatches, got 14"):
        train(tmp_path, SnapshotEnsemble(), model=model, max_steps=14)
    assert same(dict(model.state_dict()), before)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_snapshots_are_the_weights_of_their_minibatch(tmp_path: Path, accumulate: int) -> None:
    """Copies, not what goes on changing; counted in minibatches also where steps are fewer."""
    callback, history = SnapshotEnsemble(every_n_passes=1, include_pretrained=True), History()
    pretrained = Adapted().model.backbone.trunk_parameters()
    train(tmp_path, callback, history, max_epochs=3, accumulate_grad_batches=accumulate)
    assert list(callback.snapshots) == [0, 3, 6, 9]
    assert same(callback.snapshots[0], {name: value.detach() for name, value in pretrained.items()})
    for number in (3, 6, 9):
        assert same(callback.snapshots[number], history.trunks[number - 1])
    assert not same(callback.snapshots[6], callback.snapshots[9])


@pytest.mark.parametrize(
    ("limits", "budget"),
    [
        ({"max_steps": 7}, 7),
        ({"max_steps": 3, "accumulate_grad_batches": 2}, 5),  # steps after minibatches 2, 3 (end of epoch) and 5
        ({"max_steps": 7, "max_epochs": 2}, 6),
        ({"max_epochs": 4, "limit_train_batches": 2}, 8),
    ],
)
def test_budget_is_the_trainers(tmp_path: Path, limits: dict[str, Any], budget: int) -> None:
    """The last planned snapshot is taken with the last minibatch, whichever limit ends training."""
    callback, history = SnapshotEnsemble(every_n_minibatches=1), History()
    train(tmp_path, callback, history, **limits)
    assert list(callback.snapshots) == list(range(1, budget + 1))
    assert len(history.trunks) == budget


def test_interrupted_and_resumed_is_as_uninterrupted(tmp_path: Path) -> None:
    """From a checkpoint in the middle of an epoch, read without executing code."""
    settings: dict[str, Any] = {"every_n_minibatches": 2, "include_pretrained": True, "max_snapshots": 4}
    whole, first, second = (SnapshotEnsemble(**settings) for _ in range(3))
    train(tmp_path, whole, max_epochs=4)
    assert list(whole.snapshots) == [0, 4, 6, 8, 12]
    planned = train(tmp_path, first, _SaveAt(6, tmp_path / "6.ckpt"), max_epochs=4)
    assert planned.global_step == 12
    torch.load(tmp_path / "6.ckpt", weights_only=True)
    train(tmp_path, second, ckpt_path=tmp_path / "6.ckpt", max_epochs=4)
    assert list(second.snapshots) == list(whole.snapshots)
    assert all(same(second.snapshots[number], whole.snapshots[number]) for number in whole.snapshots)


class _SaveAt(Callback):
    """A checkpoint after that many minibatches."""

    def __init__(self, minibatch: int, path: Path) -> None:
        self.minibatch = minibatch
        self.path = path

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.minibatch:
            trainer.save_checkpoint(self.path)


def test_resumed_without_what_was_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint of a run without the callback: counted from where that run was, and said what is missing."""
    train(tmp_path, _SaveAt(6, tmp_path / "6.ckpt"), max_epochs=4)
    callback = SnapshotEnsemble(every_n_minibatches=4)
    with caplog.at_level("WARNING"):
        train(tmp_path, callback, ckpt_path=tmp_path / "6.ckpt", max_epochs=4)
    assert list(callback.snapshots) == [8, 12]
    assert "1 of 3 snapshots will be missing (after 4 minibatches)" in caplog.text


def test_second_training_starts_again(tmp_path: Path) -> None:
    """The same callback in another trainer keeps nothing of the first model."""
    callback, history = SnapshotEnsemble(every_n_minibatches=3), History()
    train(tmp_path, callback, max_epochs=3)
    train(tmp_path, callback, history, model=Adapted(rate=0.01), max_epochs=2)
    assert list(callback.snapshots) == [3, 6]
    assert same(callback.snapshots[3], history.trunks[2])


def test_take_hands_over(tmp_path: Path) -> None:
    """What the model keeps from then on is not saved twice."""
    callback = SnapshotEnsemble(every_n_minibatches=3)
    train(tmp_path, callback, max_epochs=2)
    taken = callback.take()
    assert list(taken) == [3, 6]
    assert callback.snapshots == callback.state_dict()["snapshots"] == {}


def test_what_it_takes_is_said_before_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Number, minibatches, and megabytes of weights and embeddings, from the sizes of the tensors."""
    backbone = Adapted().model.backbone
    weights = 3 * 4 * sum(value.numel() for value in backbone.trunk_parameters().values()) / 1e6
    embeddings = 3 * 4 * 10 * len(backbone(torch.zeros(1, 3, 32, 32))[0]) / 1e6

    class StopAtOnce(Callback):
        @override
        def on_train_batch_start(self, *args: Any) -> None:
            raise KeyboardInterrupt

    with caplog.at_level("INFO"), pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path, SnapshotEnsemble(1, max_snapshots=3), StopAtOnce(), max_epochs=9)
    assert (
        f"3 snapshots of the trunk, after 9, 18, 27 minibatches: {weights:.1f} MB of weights and about "
        f"{embeddings:.1f} MB of embeddings."
    ) in caplog.text
    assert "The interval of 3 minibatches makes 9 snapshots; max_snapshots=3 of them are taken" in caplog.text


def test_broken_weights_are_not_taken(tmp_path: Path) -> None:
    """Training that ran away stops, and keeps what was good."""

    class Break(Callback):
        @override
        def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            if trainer.global_step == 4:
                pl_module.model.backbone.network.layer4[0].conv1.weight.data[0] = torch.nan

    callback = SnapshotEnsemble(every_n_minibatches=2)
    with pytest.raises(RuntimeError, match=r"got NaN or infinity in layer.* after minibatch 6; the 2 snap"):
        train(tmp_path, callback, Break(), max_epochs=3)
    assert list(callback.snapshots) == [2, 4]


@pytest.mark.parametrize("path", ["model", "nowhere.at.all"])
def test_module_not_a_backbone(tmp_path: Path, path: str) -> None:
    """The message says where it is in our models."""
    with pytest.raises(ValueError, match=f"path of a Backbone in Adapted, got '{path}'; .* 'model.backbone'"):
        train(tmp_path, SnapshotEnsemble(module=path), max_epochs=9)
