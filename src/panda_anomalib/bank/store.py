"""The checkpoint file behind a memory bank: read whole, replaced whole, changed by one process at a time."""

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from anomalib.utils.serialization import anomalib_safe_globals
from filelock import FileLock, Timeout

import panda_anomalib.models
from panda_anomalib.engine import existing_checkpoint
from panda_anomalib.models.base import DetectorMixin

__all__ = ["StoredModel", "changing", "read_model"]

logger = logging.getLogger(__name__)


@dataclass
class StoredModel:
    """A checkpoint of ours and the model in it.

    Attributes:
        path: The file, absolute and without links.
        digest: SHA-256 of the file when it was read.
        checkpoint: What the file holds.
        model: The model, fitted, in eval mode, on the CPU.
    """

    path: Path
    digest: str
    checkpoint: dict[str, Any]
    model: DetectorMixin

    def write(self) -> None:
        """Replace the file by the model as it is now; whoever reads it sees the old file or the new one, whole.

        Raises:
            RuntimeError: If the file is not the one that was read (another process has replaced it meanwhile), or
                cannot be written. It is left as it is.
        """
        self.model.cpu()
        self.checkpoint["state_dict"] = self.model.state_dict()
        self.model.on_save_checkpoint(self.checkpoint)
        new = _hidden(self.path, "new")
        try:
            self._write_to(new)
            if hashlib.sha256(self.path.read_bytes()).hexdigest() != self.digest:
                raise RuntimeError(
                    f"model '{self.path}' must stay as it was read until it is replaced, got another file: a process "
                    "that does not heed the lock has written it. It was left so; run the command again."
                )
            new.replace(self.path)
        finally:
            new.unlink(missing_ok=True)
        _sync_folder(self.path.parent)

    def _write_to(self, path: Path) -> None:
        try:
            with path.open("wb") as file:
                torch.save(self.checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(self.path, path)
        except (OSError, RuntimeError) as error:  # a full disk is the one or the other
            raise RuntimeError(f"model '{self.path}' could not be replaced and is as it was: {error}") from error


def read_model(path: str | os.PathLike[str]) -> StoredModel:
    """Read a checkpoint of one of our models.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not of one of our models, or of one without a memory bank.
    """
    file = cast("Path", existing_checkpoint(Path(path)))
    data = file.read_bytes()
    try:
        with anomalib_safe_globals():
            checkpoint = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"model {str(file)!r} cannot be read ({error}); it is damaged, take another copy.") from error
    ours = checkpoint.get("panda_anomalib") if isinstance(checkpoint, dict) else None
    kind = getattr(panda_anomalib.models, str(ours["model"]), None) if ours else None
    if ours is None or kind is None:
        known = ", ".join(panda_anomalib.models.__all__)
        written_by = f"a {ours['model']}" if ours else "a model that is not of panda_anomalib"
        raise ValueError(f"model must be a checkpoint of {known}, got {str(file)!r} of {written_by}.")
    model: DetectorMixin = kind.load_from_checkpoint(BytesIO(data), map_location="cpu").eval()
    if len(model.model.scorer.calibration) == 0:
        raise ValueError(f"model must have a memory bank, got {str(file)!r} of a training that was not finished.")
    return StoredModel(file, hashlib.sha256(data).hexdigest(), checkpoint, model)


@contextlib.contextmanager
def changing(path: str | os.PathLike[str], *, wait: float = 600.0) -> Iterator[StoredModel]:
    """Read a model to change it, while no other process does.

    The lock is a hidden file beside the checkpoint, which stays there: the operating system frees it when the process
    ends, in whatever way. A process that comes second waits, and then reads what the first has written.

    Args:
        path: Checkpoint; two links to one file have one lock.
        wait: Seconds to wait for another process.

    Raises:
        FileNotFoundError, ValueError: As ``read_model``.
        RuntimeError: If the other process takes longer than that, or the folder is not writable.
    """
    file = cast("Path", existing_checkpoint(Path(path)))
    lock = FileLock(_hidden(file, "lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("Another process is changing '%s': waiting until it is done.", file)
            lock.acquire(timeout=wait)
    except Timeout:
        raise RuntimeError(
            f"'{file}' must not be in use, but another process has been changing it for {wait:g} s; try again later."
        ) from None
    except OSError as error:
        raise RuntimeError(f"folder of the model must be writable to replace it, got {error}.") from None
    try:
        _hidden(file, "new").unlink(missing_ok=True)  # of a process that was killed while it wrote
        yield read_model(file)
    finally:
        lock.release()


def _hidden(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


def _sync_folder(folder: Path) -> None:
    """Make sure that a replaced name survives a loss of power; Windows neither needs nor allows it."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
