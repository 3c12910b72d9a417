"""Result tables of a test or predict run: one row per image, the metrics, and where they came from."""

import json
import logging
import math
import platform
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor
from typing_extensions import override

from panda_anomalib.atomic import unwritable, write_atomically

__all__ = ["PredictionTable", "PredictionWriter", "forget_stage_folder", "stage_folder", "write_atomically"]

logger = logging.getLogger(__name__)

_DISTRIBUTIONS = ("torch", "timm", "anomalib", "panda_anomalib", "faiss-cpu", "lightning")
_stage_folders: WeakKeyDictionary[pl.Trainer, Path] = WeakKeyDictionary()


def stage_folder(trainer: pl.Trainer) -> Path:
    """Folder for everything the running test or predict run writes; created, empty and writable at the first call.

    ``<trainer.default_root_dir>/test`` or ``/predict``; when that folder has content, ``test-2``, ``test-3``, ...:
    results are never overwritten. Rank 0 decides for all processes, so every process has to make the first call.

    Raises:
        RuntimeError: When the trainer neither tests nor predicts.
        OSError: When the folder cannot be created or written to.
    """
    if trainer in _stage_folders:
        return _stage_folders[trainer]
    stage = trainer.state.fn
    if stage not in ("test", "predict"):
        raise RuntimeError(f"trainer must be testing or predicting, got {stage!r}; call stage_folder() in its hooks.")
    folder, error = None, ""
    if trainer.is_global_zero:
        try:
            folder = _create_folder(Path(trainer.default_root_dir), str(stage.value))
        except OSError as reason:
            error = unwritable(trainer.default_root_dir, reason)
    # The error travels too: a process that waits for a folder which never comes would hang.
    folder, error = trainer.strategy.broadcast((folder, error))
    if folder is None:
        raise OSError(error)
    _stage_folders[trainer] = folder
    return folder


def forget_stage_folder(trainer: pl.Trainer) -> None:
    """Let the next run of this trainer choose a new folder; callbacks call it in ``setup``, before any write."""
    _stage_folders.pop(trainer, None)


def _create_folder(root: Path, stage: str) -> Path:
    number = 1
    while True:
        folder = root / (stage if number == 1 else f"{stage}-{number}")
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if folder.is_dir() and not any(folder.iterdir()):
                break
        number += 1
    # Permission bits say little (network drives, full disks, root); writing is the test.
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"0")
    return folder


class PredictionTable:
    """Paths and numbers of the images of one run, in dataset order; no pixels are kept.

    Columns: ``path``, ``label`` (0, 1 or missing), ``distance``, ``score``, ``p_value`` (float32), ``predicted_label``
    (0, 1 or missing), then for scorers with neighbours ``nearest_class``, where there are several normal classes, and
    ``neighbor_1``, ``neighbor_1_distance``, ``neighbor_2``, ...; for sets of images, whose names are the paths, also
    ``images``, the paths of their images with ``;`` between them.
    """

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []  # a batch each: column name -> list, or float32 array
        self._positions: dict[int, int] = {}

    def __len__(self) -> int:
        """Number of images so far, in this process."""
        return sum(self._positions.values())

    def add(
        self,
        batch: Any,
        training_paths: Sequence[str],
        *,
        normal_classes: Mapping[str, str] | None = None,
        dataloader_idx: int = 0,
    ) -> dict[str, Any]:
        """Append the B images of a batch that went through the model and the post-processor.

        Args:
            batch: anomalib ``ImageBatch`` with ``image_path``, ``distance`` (B,), ``pred_score`` (B,) and, where known,
                ``gt_label``, ``p_value``, ``pred_label`` (B,), ``neighbor_distances``, ``neighbor_indices`` (B, k).
            training_paths: N paths, to which ``neighbor_indices`` point.
            normal_classes: Class of each of these by path, where there are several.
            dataloader_idx: Which of several dataloaders the batch came from.

        Returns:
            The new rows: column name -> list or array of B values.

        Raises:
            ValueError: When the batch has no image paths.
        """
        if batch.image_path is None:
            raise ValueError("image_path must list the files of the batch, got None; use a dataset of image files.")
        size = len(batch.image_path)
        start = self._positions.get(dataloader_idx, 0)
        self._positions[dataloader_idx] = start + size
        part = {
            "_loader": [dataloader_idx] * size,
            "_position": list(range(start, start + size)),
            "path": list(batch.image_path),
            "label": _labels(batch.gt_label, size),
            "distance": _floats(batch.distance, size),
            "score": _floats(batch.pred_score if batch.pred_label is not None else None, size),
            "p_value": _floats(getattr(batch, "p_value", None), size),
            "predicted_label": _labels(batch.pred_label, size),
        }
        indices = getattr(batch, "neighbor_indices", None)
        if indices is not None:
            distances = batch.neighbor_distances.float().cpu().numpy()  # (B, k)
            if normal_classes:
                nearest = [training_paths[index] for index in indices[:, 0].tolist()]
                part["nearest_class"] = [normal_classes.get(path, "") for path in nearest]
            for rank, column in enumerate(indices.T.cpu().tolist(), start=1):
                part[f"neighbor_{rank}"] = [training_paths[index] for index in column]
                part[f"neighbor_{rank}_distance"] = distances[:, rank - 1]
        if (images := getattr(batch, "set_images", None)) is not None:
            part["images"] = [";".join(own) for own in images]
        self._parts.append(part)
        return part

    def frame(self, *, gather: bool) -> pd.DataFrame:
        """Return the rows as a table.

        Args:
            gather: Take the rows of all processes (a collective call), in dataset order and without the images by which
                the sampler fills up the last round. Without ``torch.distributed`` it changes nothing.
        """
        groups, processes = [self._parts], 1
        if gather and torch.distributed.is_available() and torch.distributed.is_initialized():
            processes = torch.distributed.get_world_size()
            groups = [[] for _ in range(processes)]
            torch.distributed.all_gather_object(groups, self._parts)
        parts = [{**part, "_process": [i] * len(part["path"])} for i, group in enumerate(groups) for part in group]
        if not parts:
            return pd.DataFrame(columns=["path", "label", "distance", "score", "p_value", "predicted_label"])
        rows = pd.DataFrame({name: _join([part[name] for part in parts]) for name in parts[0]})
        rows = rows.astype({"label": "Int8", "predicted_label": "Int8"})
        if processes > 1:
            # DistributedSampler deals images out like cards: image i is number i // P of process i % P.
            rows = rows.sort_values(["_loader", "_position", "_process"]).drop_duplicates(["_loader", "path"])
        return rows.drop(columns=["_loader", "_position", "_process"]).reset_index(drop=True)


def _join(pieces: list[Any]) -> Any:
    return np.concatenate(pieces) if isinstance(pieces[0], np.ndarray) else list(chain.from_iterable(pieces))


def _floats(values: Tensor | None, size: int) -> Any:
    return np.full(size, np.nan, np.float32) if values is None else values.detach().float().cpu().numpy()


def _labels(values: Tensor | None, size: int) -> list[int | None]:
    return [None] * size if values is None else values.int().cpu().tolist()


class PredictionWriter(Callback):
    """Write ``predictions.csv``, ``predictions.parquet`` and, in test, ``metrics.json`` into ``stage_folder(trainer)``.

    Distances and scores keep their full float32 precision in both tables. A run that ends in an exception leaves what
    it had so far as ``predictions.partial.csv``. Runs after the post-processor and the evaluator. Several processes
    write one table, from rank 0.

    Raises:
        OSError: At the start of the run, when the results folder cannot be written to.
    """

    def __init__(self) -> None:
        self._table: PredictionTable | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        forget_stage_folder(trainer)

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stage_folder(trainer)
        self._table = PredictionTable()
        trainer.test_loop.verbose = False  # Lightning's table would repeat our summary, with nan for undefined

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_test_start(trainer, pl_module)

    @override
    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._table is not None:
            self._table.add(
                batch,
                getattr(pl_module, "training_paths", ()),
                normal_classes=getattr(pl_module, "normal_classes", None),
                dataloader_idx=dataloader_idx,
            )

    @override
    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        table = self._write_table(trainer)
        if table is None:
            return
        folder = stage_folder(trainer)
        report = _report(trainer, pl_module, table)
        text = json.dumps(report, indent=2, allow_nan=False, default=str) + "\n"
        write_atomically(folder / "metrics.json", lambda path: path.write_text(text, encoding="utf-8"))
        _print_summary(report, folder, _things(pl_module))

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        table = self._write_table(trainer)
        if table is not None:
            judged = table["predicted_label"].notna().any()
            flagged = f"{int(table['predicted_label'].sum())} flagged as anomalous" if judged else "without threshold"
            line = f"{len(table)} {_things(pl_module)}, {flagged}. Everything is in {stage_folder(trainer)}"
            Console(soft_wrap=True, highlight=False).print(line, markup=False)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        table, self._table = self._table, None
        if not table:  # no run was going on, or it had no rows yet
            return
        # Not gathered: the other processes may be gone.
        name = "predictions.partial" + (f".{trainer.global_rank}" if trainer.world_size > 1 else "") + ".csv"
        rows = table.frame(gather=False)
        try:
            path = stage_folder(trainer) / name
            write_atomically(path, lambda path: rows.to_csv(path, index=False))
            logger.info("The %d predictions made so far are in %s", len(rows), path)
        except OSError as reason:  # the exception that ended the run is the one to show
            logger.warning("Could not save the %d predictions made so far: %s", len(table), reason)

    def _write_table(self, trainer: pl.Trainer) -> pd.DataFrame | None:
        """Write the tables and return the rows on rank 0; on the other ranks, give the rows away and return None."""
        if self._table is None:
            return None
        rows = self._table.frame(gather=True)
        self._table = None
        if not trainer.is_global_zero:
            return None
        folder = stage_folder(trainer)
        write_atomically(folder / "predictions.csv", lambda path: rows.to_csv(path, index=False))
        write_atomically(folder / "predictions.parquet", lambda path: rows.to_parquet(path, index=False))
        return rows


def _report(trainer: pl.Trainer, pl_module: Any, rows: pd.DataFrame) -> dict[str, Any]:
    """Content of ``metrics.json``: plain data; a metric that is not a finite number is None, its reason beside it."""
    normal, anomalous = rows[rows["label"] == 0], rows[rows["label"] == 1]
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("image_")}
    missing = [name for name, part in (("normal", normal), ("anomalous", anomalous)) if part.empty]
    reason = "undefined: " + (
        f"no {' and no '.join(missing)} image in the test set" if missing else "not a finite number for these images"
    )
    post_processor = pl_module.post_processor
    calibrated = {"threshold": float, "false_positive_rate": float, "num_calibration": int}
    return {
        "model": getattr(pl_module, "name", type(pl_module).__name__),
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "undefined": {name: reason for name, value in metrics.items() if not math.isfinite(value)},
        "images": len(rows),
        "normal": len(normal),
        "anomalous": len(anomalous),
        "flagged": int(rows["predicted_label"].sum()),
        "false_alarms": int(normal["predicted_label"].sum()),
        "missed": int((anomalous["predicted_label"] == 0).sum()),
        **{
            name: kind(getattr(post_processor, name)) if hasattr(post_processor, name) else None
            for name, kind in calibrated.items()
        },
        "provenance": getattr(pl_module, "provenance", None),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _DISTRIBUTIONS},
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:  # run from a source tree, or another build of faiss
        return None


def _things(pl_module: Any) -> str:
    """What is scored: images, but for a model of sets."""
    return str(getattr(pl_module, "scored_things", "images"))


def _print_summary(report: dict[str, Any], folder: Path, things: str) -> None:
    table = Table("metric", "value", title=f"{report['model']}: {report['images']} test {things}", title_justify="left")
    for name, value in report["metrics"].items():
        reason = report["undefined"].get(name, "").removeprefix("undefined: ")
        table.add_row(name, f"undefined ({reason})" if value is None else f"{value:.4f}")
    for title, count, kind in (("false alarms", "false_alarms", "normal"), ("missed", "missed", "anomalous")):
        total = report[kind]
        text = (
            f"{report[count]} of {total} {kind} {things}" if total else f"undefined (no {kind} image in the test set)"
        )
        table.add_row(title, text)
    if report["threshold"] is not None and math.isfinite(report["threshold"]):
        source = (
            f"for {100 * report['false_positive_rate']:g} % false alarms ({report['num_calibration']} normal {things})"
        )
        table.add_row("threshold", f"{report['threshold']:.4g}, {source}")
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print(f"Everything is in {folder}{_pictures(folder)}", markup=False)


def _pictures(folder: Path) -> str:
    """What to look at, where a visualizer has drawn something."""
    drawn = {"overview.png": "all at a glance in overview.png", "images": "a picture of every verdict in images"}
    found = [text for name, text in drawn.items() if (folder / name).exists()]
    return f": {', '.join(found)}" if found else ""
