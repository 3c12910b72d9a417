"""Elastic weight consolidation (Kirkpatrick et al., arXiv:1612.00796) as PANDA uses it (arXiv:2010.05903, Eq. 4)."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from panda_anomalib.adaptation.fisher_file import SAMPLE_WEIGHT, check_fisher, load_fisher

__all__ = ["ElasticWeightConsolidation"]


class ElasticWeightConsolidation(Callback):
    """Pull trained parameters back to where they started: ``weight / 2 * sum(fisher * (parameter - anchor) ** 2)``.

    Works on any LightningModule. The exact gradient of the penalty is added to ``.grad`` once for every step of the
    optimizer: behind gradient accumulation, the reduction over devices and the unscaling of mixed precision, and before
    the clipping. So the loss, and the batches it is made of, need not know of it.

    The anchors are the parameters when a fit starts; a run that resumes from a checkpoint takes anchors and Fisher
    information from there.

    Args:
        fisher: Fisher file, or tensors by parameter name inside ``module``; None anchors all parameters alike (the
            "L2" of PANDA, Sec. 4.2.2). Further names do no harm. May be set as attribute until training starts.
        weight: Of the penalty, lambda in PANDA. By default what the Fisher file says, or 1e4 with tensors, which is
            PANDA's value and meant for squared gradients of single images; an L2 anchor has no default.
        module: Dotted path of the part of the LightningModule whose trainable parameters are anchored; "" for all.
        log_name: Name of the logged penalty, which is shown in the progress bar; "" to log nothing.

    Raises:
        ValueError: If weight is negative or not finite; when a fit starts, if the Fisher file is none, if there is no
            weight, no such module, nothing trainable in it, or Fisher information does not fit the parameters.
        FileNotFoundError: When a fit starts, if there is no such Fisher file.
    """

    anchors: dict[str, Tensor]
    """By parameter name inside ``module``; empty before a fit has started or been restored."""

    def __init__(
        self,
        fisher: str | Path | dict[str, Tensor] | None = None,
        *,
        weight: float | None = None,
        module: str = "",
        log_name: str = "ewc_penalty",
    ) -> None:
        if weight is not None and not 0 <= weight < math.inf:
            raise ValueError(f"weight must be finite and at least 0, got {weight}.")
        self.fisher = fisher
        self.weight = weight
        self.module = module
        self.log_name = log_name
        self.anchors = {}

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(module=self.module)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.anchors = {}  # of an earlier fit; a checkpoint is restored after this
            if trainer.ckpt_path is None:
                self._read_file()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_file()
        trained = self._trained(pl_module)
        if self.weight is None:
            if self.fisher is None:
                raise ValueError("weight must be given for fisher=None, got none; no default fits every network.")
            self.weight = SAMPLE_WEIGHT
        if isinstance(self.fisher, dict):
            check_fisher(self.fisher, {name: parameter.shape for name, parameter in trained.items()})
            self.fisher = {name: self.fisher[name].to(parameter) for name, parameter in trained.items()}
        anchors = self.anchors or {name: parameter.detach().clone() for name, parameter in trained.items()}
        self.anchors = {name: anchors[name].to(parameter) for name, parameter in trained.items()}

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        trained = self._trained(pl_module)
        penalty = torch.zeros((), device=pl_module.device)
        for name, anchor in self.anchors.items():
            parameter = trained[name]
            if id(parameter) not in stepped:  # of another optimizer, in whose step it is held
                continue
            difference = parameter.detach() - anchor
            pull = difference * self.fisher[name] if isinstance(self.fisher, dict) else difference
            penalty += torch.sum(pull * difference)
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(pull, alpha=self.weight or 0.0)
        if self.log_name:
            value = penalty * ((self.weight or 0.0) / 2)
            pl_module.log(self.log_name, value, prog_bar=True, batch_size=1)

    @override
    def state_dict(self) -> dict[str, Any]:
        fisher = self.fisher if isinstance(self.fisher, dict) else None
        return {"anchors": self.anchors, "fisher": fisher, "weight": self.weight}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.anchors, self.fisher = state_dict["anchors"], state_dict["fisher"]
        self.weight = state_dict["weight"]

    def _read_file(self) -> None:
        if isinstance(self.fisher, str | Path):
            file = load_fisher(self.fisher)
            self.fisher = file.fisher
            self.weight = file.weight if self.weight is None else self.weight

    def _trained(self, pl_module: LightningModule) -> dict[str, nn.Parameter]:
        try:
            module = pl_module.get_submodule(self.module)
        except AttributeError as error:
            raise ValueError(
                f"module must be the path of a part of {type(pl_module).__name__}, got {self.module!r}; "
                "named_modules() has them."
            ) from error
        found = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        if not found:
            raise ValueError(f"module must have trainable parameters, got {self.module!r}, where all are frozen.")
        return found
