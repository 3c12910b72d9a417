"""The scores of any of anomalib's models, image by image, before and after its post-processor."""

from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

__all__ = ["ScoreCollector"]


class ScoreCollector(Callback):
    """Keeps what a test says of each image.

    It must be among the callbacks given to the Engine: these run before the model's own, so that it sees the raw
    score, which anomalib's post-processor clamps to [0, 1]. What comes out of that it reads from the same batch when
    the next one starts.
    """

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []
        self._batch: Any = None
        self._raw: Tensor | None = None

    @override
    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        score = getattr(outputs, "pred_score", None)
        if score is not None:
            self._batch, self._raw = outputs, score.detach().clone()

    @override
    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self._keep()

    @override
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._keep()

    def table(self) -> pd.DataFrame | None:
        """One row per test image, as ``scores.parquet`` holds them; None if the model gives images no score."""
        if not self._parts:
            return None
        return pd.DataFrame({name: [value for part in self._parts for value in part[name]] for name in self._parts[0]})

    def _keep(self) -> None:
        batch, raw = self._batch, self._raw
        self._batch = self._raw = None
        if batch is None or raw is None:
            return
        self._parts.append(
            {
                "image_path": list(batch.image_path),
                "label": _numbers(batch.gt_label, len(raw), torch.int64),
                "distance": _numbers(raw, len(raw), torch.float64),
                "score": _numbers(batch.pred_score, len(raw), torch.float64),
                "anomalous": _numbers(batch.pred_label, len(raw), torch.bool),
                "p_value": _numbers(getattr(batch, "p_value", None), len(raw), torch.float64),
            }
        )


def _numbers(values: Tensor | None, size: int, dtype: torch.dtype) -> list[Any]:
    return [None] * size if values is None else values.detach().reshape(-1).to(dtype).cpu().tolist()
