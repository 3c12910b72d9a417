"""The files that Lightning and anomalib write in a run, there whole or not at all: checkpoints and configurations.

Lightning 2.6 writes a checkpoint into the system's folder for temporary files and moves it; from another disk that is
a copy, of which a full disk or an interruption leaves the beginning.
"""

from functools import partial
from pathlib import Path
from typing import Any

from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override

from panda_anomalib.atomic import write_atomically

__all__ = ["WholeCheckpoints", "WholeConfig"]


class WholeCheckpoints(AnomalibCheckpointIO):  # type: ignore[misc, unused-ignore] # anomalib is typed loosely
    """anomalib's reading and writing of checkpoints; those on a disk are moved to their place when they are whole."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        save = partial(super().save_checkpoint, checkpoint, storage_options=storage_options)
        if "://" in str(path):  # cloud storage, which has no half files
            save(path)
        else:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(path), save)


class WholeConfig(SaveConfigCallback):
    """Saves the configuration of a run in its folder; takes the place of an earlier one of the same name.

    Args:
        parser: Of the command.
        config: Its arguments.
        name: Of the file.
    """

    def __init__(self, parser: Any, config: Any, name: str) -> None:
        super().__init__(parser, config, config_filename=name, overwrite=True, save_to_log_dir=False)

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save = partial(self.parser.save, self.config, skip_none=False, overwrite=True, multifile=self.multifile)
        write_atomically(folder / self.config_filename, save)
