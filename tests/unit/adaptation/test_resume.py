"""A real Lightning trainer: stopped and resumed gives bit for bit what an uninterrupted run gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import Dataset

from panda_anomalib.adaptation.minibatches import AdaptationLoader, Minibatch, MinibatchOrder
from panda_anomalib.adaptation.resume import mend_progress
from panda_anomalib.adaptation.stem_cache import CacheName, StemOutputs

BY_STEPS = {1: {"max_steps": 15, "max_epochs": -1}, 4: {"max_steps": 5, "max_epochs": -1}}
BY_EPOCHS = {accumulate: {"max_epochs": 3} for accumulate in (1, 4)}
STEPS_OF_THREE_EPOCHS = {1: 18, 4: 6}  # of 6 minibatches, of which 4 and the remaining 2 make a step


class Noise(Dataset[Tensor]):
    """Eleven images: six minibatches of two, the last of one image."""

    images = torch.randn(11, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        """Number of images."""
        return 11

    def __getitem__(self, index: int) -> Tensor:
        """Image ``(3, 4, 4)``."""
        return self.images[index]


class Tiny(LightningModule):
    """Trains, resumes as our models do, and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(48, 2)
        self.seen: list[tuple[int, int, float]] = []

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Mend the progress."""
        mend_progress(checkpoint)

    def on_train_start(self) -> None:
        """Put the loader in its place."""
        loader = self.trainer.train_dataloader
        loader.position = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed

    def training_step(self, batch: Minibatch, batch_idx: int) -> Tensor:
        """A loss whose gradient differs from image to image."""
        self.seen.append((self.trainer.current_epoch, batch_idx, batch.normals.sum().item()))
        return self.layer(batch.normals[0].flatten(1)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Momentum makes the past matter."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def train(
    *,
    checkpoint: Path | None = None,
    accumulate: int = 1,
    cache: CacheName = "memory",
    workers: int = 0,
    callbacks: tuple[Callback, ...] = (),
    **limits: Any,
) -> tuple[Tiny, Trainer]:
    """Fit a fresh model with a fresh loader, as after a restart of the process."""
    outputs = StemOutputs(Noise(), lambda batch: batch[None].sin(), batch_size=4, num_workers=workers, cache=cache)
    outputs.fill()
    assert outputs.storage == cache
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=[*callbacks],
        accumulate_grad_batches=accumulate,
        **limits,
    )
    model = Tiny()
    trainer.fit(model, AdaptationLoader(outputs, MinibatchOrder(11, 2, seed=3)), ckpt_path=checkpoint)
    return model, trainer


def assert_same_end(resumed: Tiny, reference: Tiny) -> None:
    """Same weights to the last bit, after the same minibatches under the same numbers."""
    assert resumed.seen == reference.seen[len(reference.seen) - len(resumed.seen) :]
    assert torch.equal(resumed.layer.weight, reference.layer.weight)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("limits", [BY_STEPS, BY_EPOCHS], ids=["max_steps", "max_epochs"])
def test_stopped_by_max_steps_and_resumed(limits: dict[int, dict[str, int]], accumulate: int, tmp_path: Path) -> None:
    """Wherever it stops: in mid-epoch, at its end, or in a later one."""
    reference, trainer = train(accumulate=accumulate, **limits[accumulate])
    for stop in (2, 6, 8) if accumulate == 1 else range(1, trainer.global_step):
        _, stopped = train(accumulate=accumulate, max_steps=stop, max_epochs=-1)
        stopped.save_checkpoint(tmp_path / "stopped.ckpt")
        resumed, _ = train(checkpoint=tmp_path / "stopped.ckpt", accumulate=accumulate, **limits[accumulate])
        assert len(resumed.seen) < len(reference.seen)
        assert_same_end(resumed, reference)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_stopped_again_and_again(accumulate: int, tmp_path: Path) -> None:
    """Each step in a process of its own, and the last epoch limited by epochs."""
    reference, _ = train(accumulate=accumulate, max_epochs=3)
    checkpoint = None
    for stop in range(1, STEPS_OF_THREE_EPOCHS[accumulate], 2):
        _, trainer = train(checkpoint=checkpoint, accumulate=accumulate, max_steps=stop, max_epochs=-1)
        checkpoint = tmp_path / "last.ckpt"
        trainer.save_checkpoint(checkpoint)
    resumed, _ = train(checkpoint=checkpoint, accumulate=accumulate, max_epochs=3)
    assert_same_end(resumed, reference)


@pytest.mark.parametrize(
    "every", [{"every_n_train_steps": 1}, {"save_on_train_epoch_end": True}], ids=["step", "epoch"]
)
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("limits", [BY_STEPS, BY_EPOCHS], ids=["max_steps", "max_epochs"])
def test_killed_and_resumed_from_a_checkpoint_of_the_run(
    limits: dict[int, dict[str, int]], accumulate: int, every: dict[str, Any], tmp_path: Path
) -> None:
    """What ``kill -9`` leaves: a checkpoint that Lightning saved on its way."""

    def saver(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(dirpath=tmp_path / folder, filename="{epoch}-{step}", save_top_k=-1, **every)

    reference, _ = train(accumulate=accumulate, callbacks=(saver("reference"),), **limits[accumulate])
    checkpoints = sorted((tmp_path / "reference").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    checkpoints = checkpoints[4:9] if len(checkpoints) > 9 else checkpoints  # around the end of the first epoch
    assert len(checkpoints) > 1
    for number, checkpoint in enumerate(checkpoints):
        resumed, _ = train(
            checkpoint=checkpoint, accumulate=accumulate, callbacks=(saver(f"resumed{number}"),), **limits[accumulate]
        )
        assert_same_end(resumed, reference)


def test_an_exception_in_a_step_costs_no_minibatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minibatch that was handed out but not trained on comes again."""
    reference, _ = train(max_steps=15, max_epochs=-1)
    step = Tiny.training_step

    def fail(self: Tiny, batch: Minibatch, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 8:
            self.trainer.save_checkpoint(tmp_path / "interrupted.ckpt")
            raise RuntimeError("power failure")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Tiny, "training_step", fail)
    with pytest.raises(RuntimeError, match="power failure"):
        train(max_steps=15, max_epochs=-1)
    monkeypatch.setattr(Tiny, "training_step", step)
    resumed, _ = train(checkpoint=tmp_path / "interrupted.ckpt", max_steps=15, max_epochs=-1)
    assert len(resumed.seen) == 7
    assert_same_end(resumed, reference)


def test_limited_epochs_go_on_in_the_order(tmp_path: Path) -> None:
    """With ``limit_train_batches`` the next epoch begins with the next minibatch, resumed or not."""
    limits = {"max_epochs": 4, "limit_train_batches": 4}
    reference, _ = train(**limits)
    whole, _ = train(max_steps=16, max_epochs=-1)
    assert [total for *_, total in reference.seen] == [total for *_, total in whole.seen]
    _, stopped = train(max_steps=6, max_epochs=-1, limit_train_batches=4)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed, _ = train(checkpoint=tmp_path / "stopped.ckpt", **limits)
    assert_same_end(resumed, reference)


@pytest.mark.parametrize(("cache", "workers"), [("disk", 0), ("off", 0), ("off", 2)])
def test_every_cache_trains_alike(cache: CacheName, workers: int, tmp_path: Path) -> None:
    """Where stem outputs are kept changes nothing, also from one part of the training to the next."""
    reference, _ = train(max_steps=15, max_epochs=-1)
    whole, _ = train(max_steps=15, max_epochs=-1, cache=cache, workers=workers)
    assert_same_end(whole, reference)
    _, stopped = train(max_steps=8, max_epochs=-1)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed, _ = train(checkpoint=tmp_path / "stopped.ckpt", max_steps=15, max_epochs=-1, cache=cache, workers=workers)
    assert_same_end(resumed, reference)


def test_weights_without_progress_are_left_alone() -> None:
    """Checkpoints of weights only have no loops."""
    checkpoint = {"state_dict": {}}
    mend_progress(checkpoint)
    assert checkpoint == {"state_dict": {}}
