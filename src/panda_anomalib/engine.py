"""anomalib's Engine with its run folders, resuming, export and reading of images to predict set right.

What differs from ``anomalib.engine.Engine`` 2.7:

* ``test``, ``predict`` and ``validate`` write into the run folder of the checkpoint they are given, when it lies below
  ``default_root_dir``; else into the run behind the link ``latest``; else into a new run folder. anomalib makes a real
  folder called ``latest`` there, on which every later ``fit`` in that place dies.
* ``train(ckpt_path=...)`` tests the weights it has just trained; anomalib tests the old checkpoint.
* ``export(ckpt_path=...)`` writes beside the checkpoint's run; anomalib writes every model to the same place.
* ``predict(data_path=...)`` reads images truthfully and in batches; anomalib reads 16-bit images as pure white.
* A training that fails, is interrupted or finds nothing to do takes its run folder with it, if there is nothing in it
  but the configuration, and gives ``latest`` back to the run before.
* A second ``fit`` with one Engine is an error; anomalib's trains nothing and says nothing.
"""

import contextlib
import itertools
import logging
import math
import os
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.deploy import CompressionType, ExportType
from anomalib.engine import Engine as AnomalibEngine
from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO
from anomalib.models.components import AnomalibModule
from anomalib.utils.path import create_versioned_dir, resolve_versioned_path
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import _EVALUATE_OUTPUT, _PREDICT_OUTPUT, EVAL_DATALOADERS, TRAIN_DATALOADERS
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric
from typing_extensions import override

from panda_anomalib.atomic import unwritable
from panda_anomalib.commands import UnknownNameError, did_you_mean, nearest_path
from panda_anomalib.whole_files import WholeCheckpoints

__all__ = ["Engine", "existing_checkpoint", "newest_checkpoint"]

logger = logging.getLogger(__name__)

_PREDICT_BATCH_SIZE = 32


def existing_checkpoint(ckpt_path: str | os.PathLike[str] | None, argument: str = "ckpt_path") -> Path | None:
    """Absolute path of a checkpoint file that is there and whole, or None when none is given.

    Args:
        ckpt_path: Path to a Lightning checkpoint.
        argument: What the errors call it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a checkpoint, or a truncated one.
    """
    if not ckpt_path:
        return None
    path = Path(ckpt_path).resolve()
    if not path.is_file():
        raise FileNotFoundError(
            f"{argument} must be an existing file, got '{ckpt_path}'{_better_path(Path(ckpt_path))}"
        )
    if not zipfile.is_zipfile(path):  # what torch.save writes; the directory stands at the end, so a cut file fails
        raise ValueError(
            f"{argument} must be a Lightning checkpoint (.ckpt), got '{ckpt_path}', which is damaged or another "
            f"kind of file; train again or take another copy."
        )
    return path


def _better_path(path: Path) -> str:
    if not path.is_dir():
        return nearest_path(path)
    found = sorted(path.rglob("*.ckpt"), key=lambda file: file.stat().st_mtime)
    return f", which is a folder; did you mean '{found[-1]}'?" if found else ", which is a folder; check the path."


def newest_checkpoint(root: str | Path, model: AnomalibModule, datamodule: AnomalibDataModule | None) -> Path | None:
    """The newest checkpoint below ``root`` that training this model (on this data, when given) has left, or None."""
    folder = Path(root) / model.name
    if datamodule is not None:
        folder = folder / datamodule.name / (datamodule.category or "")
    found = list(folder.glob("**/v*/weights/lightning/*.ckpt"))
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _run_folder(checkpoint: Path) -> Path | None:
    """Run folder of ``<run>/weights/lightning/<name>.ckpt``, or None for a checkpoint that lies elsewhere."""
    return checkpoint.parents[2] if checkpoint.parts[-3:-1] == ("weights", "lightning") else None


def _predict_loader(path: str | Path | Sequence[str | Path], model: AnomalibModule) -> DataLoader[Any]:
    """Loader of the images at ``path``, in batches when the model can bring them to one size beforehand."""
    from panda_anomalib.data import PredictImages

    dataset = PredictImages(path)
    install = getattr(model.pre_processor, "install", None)  # only our pre-processors have it
    if install is not None:
        install(dataset)
    batch_size = _PREDICT_BATCH_SIZE if install is not None else 1  # images of different sizes make no batch
    # Starting a worker costs more than reading a few images does.
    workers = min(4, (os.cpu_count() or 1) - 1, math.ceil(len(dataset) / _PREDICT_BATCH_SIZE) - 1)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=max(workers, 0),
        collate_fn=dataset.collate_fn,
        pin_memory=torch.cuda.is_available(),
    )


class Engine(AnomalibEngine):  # type: ignore[misc, unused-ignore] # anomalib is typed loosely
    """anomalib's Engine, mended (see the module). Takes the same arguments; one Engine is for one ``fit`` or ``train``.

    Raises:
        FileNotFoundError: From every method with ``ckpt_path``, if there is no such file.
        ValueError: From every method with ``ckpt_path``, if the file is not a checkpoint.
        RuntimeError: From ``fit`` and ``train`` on an Engine that has run already, or where a folder stands in the
            place of the link ``latest``.
    """

    _checkpoint: Path | None = None
    _new: Path | None = None
    """Run folder of the training that is going on."""
    _latest_before: Path | None = None
    _root = Path()

    @override
    def _setup_workspace(
        self,
        model: AnomalibModule,
        train_dataloaders: TRAIN_DATALOADERS | None = None,
        val_dataloaders: EVAL_DATALOADERS | None = None,
        test_dataloaders: EVAL_DATALOADERS | None = None,
        datamodule: AnomalibDataModule | None = None,
        dataset: AnomalibDataset | None = None,
        versioned_dir: bool = False,
    ) -> None:
        """Choose the run folder, once per Engine: later calls stay in the folder of the first."""
        if self._trainer is not None:
            if versioned_dir:
                raise RuntimeError("Engine must be new for each fit or train, got one that has run; create another.")
            return
        root = Path(self._cache.args["default_root_dir"])
        # A datamodule may stand in the place of the loaders.
        given = (datamodule, dataset, train_dataloaders, val_dataloaders, test_dataloaders)
        source = next((data for data in given if isinstance(data, AnomalibDataModule | AnomalibDataset)), None)
        folder = root / model.name / getattr(source, "name", "") / (getattr(source, "category", "") or "")
        self._cache.args["default_root_dir"] = self._new_run(folder) if versioned_dir else self._evaluated_run(folder)

    def _new_run(self, folder: Path) -> Path:
        latest = folder / "latest"
        if sys.platform != "win32" and latest.is_dir() and not latest.is_symlink():
            raise RuntimeError(
                f"latest must be a link to a run folder, got a folder at {latest}, which an earlier test or predict of "
                f"plain anomalib has left; rename it or remove it."
            )
        self._root = Path(self._cache.args["default_root_dir"]).resolve()
        self._latest_before = latest.readlink() if latest.is_symlink() else None
        self._new = self._make_run(folder)
        return self._new

    def _make_run(self, folder: Path) -> Path:
        try:
            return create_versioned_dir(folder)
        except OSError as error:
            raise OSError(unwritable(self._cache.args["default_root_dir"], error)) from error

    def _forget_empty_run(self) -> bool:
        """Remove a new run folder in which there is nothing but a configuration, and set ``latest`` back."""
        run, self._new = self._new, None
        if run is None or os.environ.get("LOCAL_RANK", "0") != "0":
            return False
        if any(path.is_file() and not path.match("config*.yaml") for path in run.rglob("*")):
            return False
        shutil.rmtree(run, ignore_errors=True)
        latest = run.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()
            if self._latest_before is not None:
                latest.symlink_to(self._latest_before, target_is_directory=True)
        for folder in itertools.takewhile(self._root.__ne__, run.resolve().parents):
            with contextlib.suppress(OSError):  # it holds other runs
                folder.rmdir()
        return True

    @override
    def _ensure_checkpoint_io_plugin(self, model: AnomalibModule) -> None:
        super()._ensure_checkpoint_io_plugin(model)
        plugins = self._cache.args.get("plugins") or []
        self._cache.args["plugins"] = [
            WholeCheckpoints(plugin.extra_safe_globals) if type(plugin) is AnomalibCheckpointIO else plugin
            for plugin in (plugins if isinstance(plugins, list) else [plugins])
        ]

    @override
    def _setup_trainer(self, model: AnomalibModule) -> None:
        try:
            super()._setup_trainer(model)
        except (MisconfigurationException, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"trainer must have arguments that fit together and this machine: {reason}") from error

    def _evaluated_run(self, folder: Path) -> Path:
        run = _run_folder(self._checkpoint) if self._checkpoint else None
        if run is not None and run.is_relative_to(Path(self._cache.args["default_root_dir"]).resolve()):
            return run
        latest = folder / "latest"
        return resolve_versioned_path(latest) if latest.is_dir() else self._make_run(folder)

    @override
    def fit(
        self,
        model: AnomalibModule,
        train_dataloaders: TRAIN_DATALOADERS | None = None,
        val_dataloaders: EVAL_DATALOADERS | None = None,
        datamodule: AnomalibDataModule | None = None,
        ckpt_path: str | Path | None = None,
    ) -> None:
        """Train in a new run folder, from ``ckpt_path`` on when given."""
        checkpoint = existing_checkpoint(ckpt_path)
        try:
            super().fit(model, train_dataloaders, val_dataloaders, datamodule, checkpoint)
        except BaseException:
            self._forget_empty_run()
            raise
        if checkpoint is not None and self._forget_empty_run():
            logger.warning(
                "The training of '%s' is finished: there was nothing left to do. More epochs (trainer.max_epochs) or, "
                "for a model that is adapted, minibatches go on with it.",
                checkpoint,
            )
        self._new = None

    @override
    def train(
        self,
        model: AnomalibModule,
        train_dataloaders: TRAIN_DATALOADERS | None = None,
        val_dataloaders: EVAL_DATALOADERS | None = None,
        test_dataloaders: EVAL_DATALOADERS | None = None,
        datamodule: AnomalibDataModule | None = None,
        ckpt_path: str | Path | None = None,
    ) -> _EVALUATE_OUTPUT:
        """Train in a new run folder, from ``ckpt_path`` on when given, then test the weights this has led to."""
        self.fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path)
        return self.trainer.test(model, test_dataloaders, datamodule=datamodule)

    @override
    def validate(
        self,
        model: AnomalibModule | None = None,
        dataloaders: EVAL_DATALOADERS | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: AnomalibDataModule | None = None,
    ) -> _EVALUATE_OUTPUT | None:
        """Validate, in the run folder of the checkpoint; anomalib's writes into ``default_root_dir`` itself."""
        self._checkpoint = existing_checkpoint(ckpt_path)
        if model is not None:
            self._setup_workspace(model, val_dataloaders=dataloaders, datamodule=datamodule)
        return super().validate(model, dataloaders, self._checkpoint, verbose, datamodule)

    @override
    def test(
        self,
        model: AnomalibModule | None = None,
        dataloaders: EVAL_DATALOADERS | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: AnomalibDataModule | None = None,
    ) -> _EVALUATE_OUTPUT:
        """Test, in the run folder of the checkpoint."""
        self._checkpoint = existing_checkpoint(ckpt_path)
        return super().test(model, dataloaders, self._checkpoint, verbose, datamodule)

    @override
    def predict(
        self,
        model: AnomalibModule | None = None,
        dataloaders: EVAL_DATALOADERS | None = None,
        datamodule: AnomalibDataModule | None = None,
        dataset: Dataset[Any] | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | Path | None = None,
        data_path: str | Path | Sequence[str | Path] | None = None,
    ) -> _PREDICT_OUTPUT | None:
        """Predict, in the run folder of the checkpoint; ``data_path`` (images or folders) is read truthfully."""
        checkpoint = existing_checkpoint(ckpt_path)
        self._checkpoint = checkpoint or self._checkpoint
        if data_path is not None:
            given = [] if dataloaders is None else dataloaders if isinstance(dataloaders, list) else [dataloaders]
            dataloaders = [*given, _predict_loader(data_path, model or self.model)]
        return super().predict(model, dataloaders, datamodule, dataset, return_predictions, checkpoint)

    def stay_with(self, checkpoint: Path) -> None:
        """Predict in the run folder of a checkpoint whose model has been loaded already."""
        self._checkpoint = checkpoint

    @override
    def export(
        self,
        model: AnomalibModule,
        export_type: ExportType | str,
        export_root: str | Path | None = None,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | str | None = None,
        max_drop: float = 0.01,
        ov_args: dict[str, Any] | None = None,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
        ckpt_path: str | Path | None = None,
    ) -> Path | None:
        """Export to ``<export_root>/weights/<type>``; by default beside ``weights/lightning`` of the checkpoint."""
        known = [kind.value for kind in ExportType]
        if export_type not in known:
            near = did_you_mean(str(export_type), known)
            raise UnknownNameError(f"export_type must be one of {', '.join(known)}, got {str(export_type)!r}{near}")
        checkpoint = existing_checkpoint(ckpt_path)
        if export_root is None and checkpoint is not None:
            export_root = _run_folder(checkpoint) or checkpoint.parent
        return super().export(
            model,
            export_type,
            export_root=export_root,
            model_file_name=model_file_name,
            input_size=input_size,
            compression_type=compression_type,
            datamodule=datamodule,
            metric=metric,
            max_drop=max_drop,
            ov_args=ov_args,
            ov_kwargs=ov_kwargs,
            onnx_kwargs=onnx_kwargs,
            ckpt_path=checkpoint,
        )
