"""Checkpoints of ours: what made the scores, and the right of that to decide over the arguments of a later run."""

import logging
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from panda_anomalib.backbones import ImagePreProcessor
from panda_anomalib.models.bank_record import BankRecord

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Host
else:
    _Host = object  # the model brings AnomalibModule itself; see DetectorMixin

__all__ = ["CHECKPOINT_KEY", "CheckpointMixin"]

logger = logging.getLogger(__name__)

CHECKPOINT_KEY = "panda_anomalib"


class CheckpointMixin(_Host):
    """Saves model name, memory bank and provenance; a loaded checkpoint decides whatever makes a score."""

    bank_record: BankRecord | None = None
    """What is kept of the images in the memory bank; None before the fit, and of checkpoints of older versions."""
    free_arguments: frozenset[str] = frozenset({"weights", "runtime", "keep_embeddings"})
    """Arguments that may differ between a checkpoint and the run that loads it without changing a score."""

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"].pop("_ddp_anchor", None)
        checkpoint[CHECKPOINT_KEY] = {
            "model": self.name,
            "training_paths": self.training_paths,
            "normal_classes": self.normal_classes,
            "provenance": self.provenance,
            "bank": self.bank_record.to_plain() if self.bank_record is not None and self._is_fitted else None,
        }

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over whatever makes a score, also where this model was built with other arguments.

        Raises:
            ValueError: If another class of model wrote the checkpoint.
        """
        ours = checkpoint.get(CHECKPOINT_KEY)
        if ours is None or ours["model"] != self.name:
            written_by = ours["model"] if ours else "a model that is not of panda_anomalib"
            raise ValueError(f"checkpoint must be of a {self.name}, got one of {written_by}; use that model's class.")
        self._adopt(checkpoint.get("hyper_parameters", {}))
        super().on_load_checkpoint(checkpoint)
        self.training_paths = list(ours["training_paths"])
        self.normal_classes = dict(ours.get("normal_classes", {}))
        self.provenance = dict(ours["provenance"])
        self.bank_record = BankRecord.from_plain(ours.get("bank"))
        self.forget_runtime()
        if self._trainer is not None and isinstance(self.pre_processor, ImagePreProcessor):
            self.pre_processor.install_again(self.trainer)

    def _adopt(self, saved: dict[str, Any]) -> None:
        given = dict(self.hparams)
        differing = [
            name for name, value in saved.items() if name not in self.free_arguments and given.get(name, value) != value
        ]
        if differing:
            text = "; ".join(f"{name}={saved[name]!r} (not {given[name]!r})" for name in differing)
            logger.warning("The checkpoint decides what makes a score: %s.", text)
            self.hparams.update({name: saved[name] for name in differing})
            self.build_parts()

    @override
    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        self.forget_runtime()
        return super().load_state_dict(state_dict, *args, **kwargs)
