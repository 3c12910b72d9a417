"""The penalty's value and gradient, and where in Lightning's order it enters, on real trainers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from reference import ewc, sgd_step
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from panda_anomalib.adaptation.fisher_file import save_fisher
from panda_anomalib.callbacks.elastic_weight_consolidation import ElasticWeightConsolidation

RATE, MOMENTUM, DECAY = 0.1, 0.9, 0.01


class Regression(LightningModule):
    """Linear regression with a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.part = nn.Linear(3, 2, bias=False)
        self.frozen = nn.Linear(3, 3).requires_grad_(requires_grad=False)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's
        """Mean squared error."""
        inputs, targets = batch
        return (self.part(inputs) - targets).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The authors' kind."""
        return torch.optim.SGD(self.part.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)


class Watch(Callback):
    """Keeps gradients and logged penalties of each step."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []
        self.penalties: list[float] = []

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """After the penalty's callback, which stands before this one."""
        self.gradients.append(pl_module.part.weight.grad.clone())
        self.penalties.append(trainer.callback_metrics["ewc_penalty"].item())


@pytest.fixture
def data() -> TensorDataset:
    """Twelve rows."""
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(12, 3, generator=generator), torch.randn(12, 2, generator=generator))


def train(
    model: LightningModule, callbacks: list[Callback], data: TensorDataset, folder: Path, **options: Any
) -> Trainer:
    """On one CPU, in order, batches of two."""
    options = {"max_epochs": 1, **options}
    checkpoint = options.pop("ckpt_path", None)
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=callbacks, enable_checkpointing=False, **options,
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, batch_size=2), ckpt_path=checkpoint)
    return trainer


def fisher(model: LightningModule) -> dict[str, Tensor]:
    """Different for every weight."""
    values = torch.linspace(0, 2, model.part.weight.numel()).reshape(model.part.weight.shape)
    return {"part.weight": values, "elsewhere": torch.ones(1)}


def reference_run(
    start: np.ndarray, information: np.ndarray, weight: float, data: TensorDataset, *, accumulate: int, clip: float
) -> tuple[np.ndarray, list[float]]:
    """The whole training in float64 numpy: weights at the end, penalty before each step."""
    inputs, targets = (tensor.double().numpy() for tensor in data.tensors)
    weights, velocity, penalties = start.astype(np.float64), np.zeros(start.shape), []
    for step in range(0, 12, 2 * accumulate):
        gradient = np.zeros(start.shape)
        for i in range(step, step + 2 * accumulate, 2):
            x, y = inputs[i : i + 2], targets[i : i + 2]
            gradient += 2 * (x @ weights.T - y).T @ x / y.size / accumulate
        penalty, pull = ewc(weights, start, information, weight)
        penalties.append(penalty)
        weights, velocity = sgd_step(
            weights, gradient + pull, velocity, clip=clip, rate=RATE, momentum=MOMENTUM, decay=DECAY
        )
    return weights, penalties


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [1e9, 0.05])
def test_training_equals_the_reference(accumulate: int, clip: float, data: TensorDataset, tmp_path: Path) -> None:
    """Once a step, however many minibatches it has, and inside the clipping."""
    model, watch = Regression(), Watch()
    start, information = model.part.weight.detach().clone().numpy(), fisher(model)
    callback = ElasticWeightConsolidation(information, weight=3.0)
    train(model, [callback, watch], data, tmp_path, accumulate_grad_batches=accumulate, gradient_clip_val=clip)
    weights, penalties = reference_run(
        start, information["part.weight"].numpy(), 3.0, data, accumulate=accumulate, clip=clip
    )
    np.testing.assert_allclose(model.part.weight.detach().numpy(), weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(watch.penalties, penalties, rtol=1e-4, atol=1e-9)
    assert penalties[0] == 0 < penalties[1]


def test_gradient_is_autograds(data: TensorDataset, tmp_path: Path) -> None:
    """Of the penalty written into the loss."""
    plain, watch = Regression(), Watch()
    anchor, information = plain.part.weight.detach().clone(), fisher(plain)["part.weight"]
    train(plain, [ElasticWeightConsolidation({"part.weight": information}, weight=5.0), watch], data, tmp_path)

    class Written(Regression):
        def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
            penalty = 5.0 / 2 * (information * (self.part.weight - anchor).square()).sum()
            self.log("ewc_penalty", penalty)
            return super().training_step(batch, batch_idx) + penalty

    written, watched = Written(), Watch()
    train(written, [watched], data, tmp_path)
    torch.testing.assert_close(watch.gradients, watched.gradients, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(plain.part.weight, written.part.weight, rtol=1e-5, atol=1e-7)


def test_mixed_precision_leaves_the_pull_in_float32(data: TensorDataset, tmp_path: Path) -> None:
    """bfloat16 has three digits; the penalty's gradient must have more."""
    model, watch = Regression(), Watch()
    anchor = model.part.weight.detach().clone()
    without = [torch.zeros_like(anchor)]

    class Before(Callback):
        @override
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            without[0] = pl_module.part.weight.grad.clone()
            moved[0] = pl_module.part.weight.detach() - anchor

    moved = [torch.zeros_like(anchor)]
    callbacks = [Before(), ElasticWeightConsolidation(fisher(model), weight=7.0), watch]
    train(model, callbacks, data, tmp_path, precision="bf16-mixed")
    expected = without[0] + 7.0 * fisher(model)["part.weight"] * moved[0]
    torch.testing.assert_close(watch.gradients[-1], expected, rtol=1e-6, atol=1e-7)
    assert watch.gradients[-1].dtype == torch.float32


def test_l2_anchor_is_fisher_of_one(data: TensorDataset, tmp_path: Path) -> None:
    """And weight 0 changes nothing."""
    models = [Regression() for _ in range(4)]
    ones = {"part.weight": torch.ones(2, 3)}
    train(models[0], [ElasticWeightConsolidation(weight=2.0)], data, tmp_path)
    train(models[1], [ElasticWeightConsolidation(ones, weight=2.0)], data, tmp_path)
    train(models[2], [ElasticWeightConsolidation(ones, weight=0.0)], data, tmp_path)
    train(models[3], [], data, tmp_path)
    assert torch.equal(models[0].part.weight, models[1].part.weight)
    assert torch.equal(models[2].part.weight, models[3].part.weight)
    assert not torch.equal(models[0].part.weight, models[2].part.weight)


def test_module_path_selects_what_is_anchored(data: TensorDataset, tmp_path: Path) -> None:
    """Names are those inside it."""
    first, second = Regression(), Regression()
    train(
        first,
        [ElasticWeightConsolidation({"weight": fisher(first)["part.weight"]}, weight=3.0, module="part")],
        data,
        tmp_path,
    )
    train(second, [ElasticWeightConsolidation(fisher(second), weight=3.0)], data, tmp_path)
    assert torch.equal(first.part.weight, second.part.weight)


def test_resumed_training_keeps_its_anchors(data: TensorDataset, tmp_path: Path) -> None:
    """Not the weights of the checkpoint; Fisher information and weight come along, read without pickled code."""
    whole, broken = Regression(), Regression()
    train(whole, [ElasticWeightConsolidation(fisher(whole), weight=3.0)], data, tmp_path, max_epochs=4)
    stopped = train(broken, [ElasticWeightConsolidation(fisher(broken), weight=3.0)], data, tmp_path, max_epochs=2)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed, callback = Regression(), ElasticWeightConsolidation()
    train(
        resumed,
        [callback],
        data,
        tmp_path,
        max_epochs=4,
        ckpt_path=tmp_path / "half.ckpt",
    )
    assert torch.equal(resumed.part.weight, whole.part.weight)
    assert torch.equal(callback.anchors["part.weight"], Regression().part.weight)
    assert callback.weight == 3.0


def test_weight_of_the_file_is_the_default(data: TensorDataset, tmp_path: Path) -> None:
    """One squared over minibatches of ten needs ten times the weight."""
    path = tmp_path / "fisher.safetensors"
    save_fisher(path, {"part.weight": torch.ones(2, 3)}, {"backbone": "none", "suggested_weight": "0.25"})
    from_file, plain = Regression(), Regression()
    train(from_file, [ElasticWeightConsolidation(path)], data, tmp_path)
    train(plain, [ElasticWeightConsolidation(weight=0.25)], data, tmp_path)
    assert torch.equal(from_file.part.weight, plain.part.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fisher": {"other": torch.ones(1)}}, r"fisher must have every trained parameter, got 1 missing: part.weight"),
        ({"fisher": {"part.weight": torch.ones(3, 2)}}, r"got part.weight \(3, 2\) instead of \(2, 3\)"),
        ({"fisher": {"part.weight": -torch.ones(2, 3)}}, "finite and at least 0, got other values in part.weight"),
        ({}, "weight must be given for fisher=None"),
        ({"weight": 1.0, "module": "trunk"}, "module must be the path of a part of Regression, got 'trunk'"),
        ({"weight": 1.0, "module": "frozen"}, "module must have trainable parameters, got 'frozen'"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: dict[str, Any], message: str, data: TensorDataset, tmp_path: Path
) -> None:
    """Before the first step."""
    model = Regression()
    before = model.part.weight.detach().clone()
    with pytest.raises(ValueError, match=message):
        train(model, [ElasticWeightConsolidation(**arguments)], data, tmp_path)
    assert torch.equal(model.part.weight, before)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_impossible_weight(weight: float) -> None:
    """At once."""
    with pytest.raises(ValueError, match="weight must be finite and at least 0"):
        ElasticWeightConsolidation(weight=weight)


def test_file_of_another_kind(data: TensorDataset, tmp_path: Path) -> None:
    """Weights, for instance."""
    save_file({"part.weight": torch.ones(2, 3)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="fisher must be a file made by panda-anomalib fisher"):
        train(Regression(), [ElasticWeightConsolidation(tmp_path / "weights.safetensors")], data, tmp_path)


SCRIPT = """
import os, sys, warnings
warnings.filterwarnings("ignore")
sys.path.insert(0, sys.argv[1])
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset
from test_elastic_weight_consolidation import Regression, fisher
from panda_anomalib.callbacks.elastic_weight_consolidation import ElasticWeightConsolidation

generator = torch.Generator().manual_seed(1)
data = TensorDataset(torch.randn(12, 3, generator=generator), torch.randn(12, 2, generator=generator))
own = [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]][int(os.environ.get("LOCAL_RANK", "0"))]  # Lightning's would shuffle
model = Regression()
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False,
                  enable_model_summary=False, enable_checkpointing=False, default_root_dir=sys.argv[2], max_epochs=1,
                  callbacks=[ElasticWeightConsolidation(fisher(model), weight=3.0)], gradient_clip_val=0.05,
                  use_distributed_sampler=False)
trainer.fit(model, DataLoader(torch.utils.data.Subset(data, own), batch_size=2))
torch.save(model.part.weight.detach(), f"{sys.argv[2]}/rank{trainer.global_rank}.pt")
"""


def test_two_processes_equal_one(data: TensorDataset, tmp_path: Path) -> None:
    """The pull enters after the gradients are averaged, once: two minibatches in two processes, or accumulated."""
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "run.py", Path(__file__).parent, tmp_path]
    tests = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    one = Regression()
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}
    train(one, [ElasticWeightConsolidation(fisher(one), weight=3.0)], data, tmp_path, **options)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"rank{rank}.pt"), one.part.weight.detach())
