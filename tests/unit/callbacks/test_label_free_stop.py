"""The best weights by the model's own criterion come back, and training ends when nothing gets better."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from panda_anomalib.callbacks import LabelFreeStop


class Unmeasured(LightningModule):
    """One weight, which grows by 1 with every minibatch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.frozen = torch.nn.Parameter(torch.zeros(()), requires_grad=False)

    @override
    def training_step(self, batch: list[Tensor], *args: Any) -> Tensor:
        return -self.weight

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=1.0)


class Counter(Unmeasured):
    """With a criterion that is a function of the weight."""

    def __init__(self, criterion: Callable[[float], float]) -> None:
        super().__init__()
        self.criterion = criterion

    def stop_criterion(self) -> float:
        """Of the weight as it is; draws a random number, as a loader would."""
        torch.rand(1)
        return self.criterion(self.weight.item())


def train(root: Path, stop: LabelFreeStop, model: LightningModule, **arguments: Any) -> Trainer:
    """Up to 12 minibatches, 5 in an epoch."""
    ckpt_path = arguments.pop("ckpt_path", None)
    settings: dict[str, Any] = {
        "max_steps": 12, "enable_progress_bar": False, "enable_model_summary": False, "logger": False,
        "accelerator": "cpu", "enable_checkpointing": False, **arguments,
    }  # fmt: skip
    trainer = Trainer(default_root_dir=root, callbacks=[stop], **settings)
    trainer.fit(model, DataLoader(TensorDataset(torch.zeros(5, 1))), ckpt_path=ckpt_path)
    return trainer


def test_best_weights_come_back(tmp_path: Path) -> None:
    """Highest at 6 of 0, 2, 4 ... 12; the end is another."""
    stop, model = LabelFreeStop(2, patience=None), Counter(lambda weight: -abs(weight - 6.3))
    trainer = train(tmp_path, stop, model)
    assert list(stop.history) == [0, 2, 4, 6, 8, 10, 12]
    assert model.weight.item() == 12
    stop.restore(trainer, model)
    assert model.weight.item() == stop.best_minibatch == 6


def test_unadapted_weights_are_a_choice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where everything makes it worse, training ends after ``patience`` measurements and nothing is kept of it."""
    stop, model = LabelFreeStop(2, patience=3), Counter(lambda weight: -weight)
    trainer = train(tmp_path, stop, model)
    assert model.weight.item() == 6
    with caplog.at_level("INFO"):
        stop.restore(trainer, model)
    assert model.weight.item() == 0
    assert "Kept the weights after minibatch 0 of 6" in caplog.text
    assert "Adaptation did not help" in caplog.text


def test_last_weights_are_a_choice_too(tmp_path: Path) -> None:
    """Though training ended between two measurements."""
    stop, model = LabelFreeStop(5, patience=None), Counter(lambda weight: weight)
    stop.restore(train(tmp_path, stop, model), model)
    assert list(stop.history) == [0, 5, 10, 12]
    assert model.weight.item() == 12


def test_a_gain_must_be_large_enough(tmp_path: Path) -> None:
    """A rise of 0.1 every two minibatches beats 0.25 at the third only, counted from the best so far."""
    stop = LabelFreeStop(2, patience=None, min_gain=0.25)
    train(tmp_path, stop, Counter(lambda weight: 0.05 * weight))
    assert stop.best_minibatch == 12
    stop = LabelFreeStop(2, patience=None, min_gain=0.35)
    train(tmp_path, stop, Counter(lambda weight: 0.05 * weight))
    assert stop.best_minibatch == 8


def test_resumed_run_makes_the_same_choice(tmp_path: Path) -> None:
    """Best weights from before the interruption are still known behind it."""
    whole = LabelFreeStop(2, patience=None)
    train(tmp_path, whole, Counter(lambda weight: -abs(weight - 4)))
    part = LabelFreeStop(2, patience=None)
    train(tmp_path, part, Counter(lambda weight: -abs(weight - 4)), max_steps=5).save_checkpoint(tmp_path / "5.ckpt")
    resumed, model = LabelFreeStop(2, patience=None), Counter(lambda weight: -abs(weight - 4))
    trainer = train(tmp_path, resumed, model, ckpt_path=tmp_path / "5.ckpt")
    assert resumed.history == whole.history
    resumed.restore(trainer, model)
    assert model.weight.item() == 4


def test_measuring_draws_no_random_number(tmp_path: Path) -> None:
    """What is random in training does not depend on being measured."""
    draws = []
    for interval in (2, 100):
        torch.manual_seed(0)
        train(tmp_path, LabelFreeStop(interval, patience=None), Counter(lambda weight: weight))
        draws.append(float(torch.rand(1)))
    assert draws[0] == draws[1]


def test_model_must_have_a_criterion(tmp_path: Path) -> None:
    """Said before training."""
    with pytest.raises(TypeError, match=r"model must offer stop_criterion\(\), got Unmeasured"):
        train(tmp_path, LabelFreeStop(), Unmeasured())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_minibatches": 0}, "every_n_minibatches must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, or null for none, got 0"),
        ({"min_gain": -0.1}, "min_gain must be at least 0, got -0.1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    """Named with what is accepted."""
    with pytest.raises(ValueError, match=message):
        LabelFreeStop(**arguments)
