"""An exported file is only as good as its agreement with the model: compare them on real images."""

import gc
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import resize, to_dtype, to_image
from typing_extensions import override

from panda_anomalib.data.reading import read_image

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Host

    from panda_anomalib.models.bank_record import BankRecord
    from panda_anomalib.models.base import DetectorMixin
else:
    _Host = object  # the model brings AnomalibModule itself; see DetectorMixin

__all__ = ["CheckedExport", "check_export"]

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
_NUM_IMAGES = 8
_TIMED_RUNS = 5

Array = NDArray[Any]
Run = Callable[[Array], tuple[Array, Array]]


class CheckedExport(_Host):
    """Exports of a model that are compared with it as they are written; see ``check_export``."""

    bank_record: "BankRecord | None"

    @override
    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        return self._export(super().to_torch, export_root, model_file_name)

    @override
    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        kwargs.setdefault("opset_version", 18)  # what the exporter makes; it would convert from 18 to anomalib's 14
        return self._export(super().to_onnx, export_root, model_file_name, input_size, **kwargs)

    @override
    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        return self._export(super().to_openvino, export_root, model_file_name, input_size, **kwargs)

    def _export(
        self,
        write: Callable[..., Path],
        export_root: Path | str,
        model_file_name: str,
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Write, then compare the file with this model on real images; see ``check_export``."""
        self._require_fitted()
        self.eval()
        runtime, self.model.runtime = self.model.runtime, None
        bank_record, self.bank_record = self.bank_record, None  # an export cannot be changed: it need not carry it
        arguments = {} if write.__name__ == "to_torch" else {"input_size": input_size, **kwargs}
        try:
            path = _write_whole(partial(write, model_file_name=model_file_name, **arguments), Path(export_root))
            check_export(self, path, input_size=input_size, exact=not kwargs.get("compression_type"))
        finally:
            self.model.runtime, self.bank_record = runtime, bank_record
            # torch's exporter leaves a subclass of the model in a reference cycle: a second model of its name
            gc.collect()
        return path


def _write_whole(write: Callable[[Path], Path], root: Path) -> Path:
    """Call ``write`` with a temporary folder, then move its files to where they belong: there is never half a file."""
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix=".export-", ignore_cleanup_errors=True) as temporary:
        made = write(Path(temporary)).relative_to(temporary)
        for path in (path for path in Path(temporary).rglob("*") if path.is_file()):
            target = root / path.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    return root / made


def check_export(
    model: "DetectorMixin", path: Path, *, input_size: tuple[int, int] | None = None, exact: bool = True
) -> None:
    """Compare scores and labels of an exported file with the model's, and log the largest difference and latencies.

    The images are training images that still exist, at their own sizes unless the export has a fixed one, one by one
    and as a batch of 8; the model treats each as in testing.

    Args:
        model: The fitted model, in eval mode.
        path: Exported ``.pt``, ``.onnx`` or ``.xml`` file.
        input_size: (height, width) of an export with a fixed size.
        exact: Whether to fail on disagreement, as all but compressed exports must.

    Raises:
        RuntimeError: If a score differs by more than 1e-4, or a label differs. The file is renamed then.
        ModuleNotFoundError: If what would run the file is not installed.
    """
    images = _real_images(model.training_paths)
    if input_size is not None:
        images = [resize(image, list(input_size), antialias=True) for image in images]
    batch = torch.stack([resize(image, list(images[0].shape[-2:]), antialias=True) for image in images])
    trials: list[Tensor] = [*(image[None] for image in images), batch]
    run = _RUNNERS[path.suffix](path)
    difference, flipped = 0.0, 0
    for trial in trials:
        score, label = _as_in_testing(model, trial)
        exported_score, exported_label = run(trial.numpy())
        difference = max(difference, float(np.abs(exported_score - score).max()))
        decided = np.abs(score - 0.5) > TOLERANCE  # a score on the threshold has no label to lose
        flipped += int(((exported_label != label) & decided).sum())
    ours = _milliseconds(lambda: _as_in_testing(model, trials[0]))
    theirs = _milliseconds(lambda: run(trials[0].numpy()))
    summary = f"largest difference of a score {difference:.1e}, {flipped} other labels, over {len(trials)} runs"
    if exact and (difference > TOLERANCE or flipped or not np.isfinite(difference)):
        refused = path.replace(path.with_name(f"{path.name}.refused"))
        raise RuntimeError(
            f"exported file must agree with the model to {TOLERANCE:g}, got {summary}; it is kept as {refused}."
        )
    logger.info("%s: %s; one image takes %.1f ms (the model in PyTorch: %.1f ms).", path.name, summary, theirs, ours)


def _as_in_testing(model: "DetectorMixin", images: Tensor) -> tuple[Array, Array]:
    transform = getattr(model.pre_processor, "transform", None) or (lambda image: image)
    with torch.no_grad():
        batch = torch.stack([transform(tv_tensors.Image(image)) for image in images]).as_subclass(Tensor)
        result = model.model(batch.to(model.device))
        result = model.post_processor(result) if model.post_processor is not None else result
    labels = result.pred_label if result.pred_label is not None else torch.zeros(len(images), dtype=torch.bool)
    return result.pred_score.cpu().numpy(), labels.cpu().numpy()


def _real_images(paths: list[str]) -> list[Tensor]:
    existing = [path for path in paths if Path(path).is_file()]
    if existing:
        chosen = [existing[i] for i in np.linspace(0, len(existing) - 1, _NUM_IMAGES).round().astype(int)]
        return [read_image(path).as_subclass(Tensor) for path in chosen]
    logger.warning("The training images are not where they were: the export is checked on photographs instead.")
    from skimage import data

    photograph = to_dtype(to_image(data.astronaut()), torch.float32, scale=True).as_subclass(Tensor)
    corners = [(0, 0), (0, 150), (100, 0), (100, 150), (50, 50), (150, 100), (200, 0), (200, 200)]
    return [photograph[:, top : top + 260, left : left + 300].contiguous() for top, left in corners]


def _milliseconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def _run_torch(path: Path) -> Run:
    # weights_only=False: anomalib's torch export is a pickled module, and we have just written this one
    model = torch.load(path, map_location="cpu", weights_only=False)["model"].eval()

    def run(images: Array) -> tuple[Array, Array]:
        with torch.no_grad():
            result = model(torch.from_numpy(images))
        return result.pred_score.numpy(), _labels(result.pred_label, len(images))

    return run


def _run_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: Array) -> tuple[Array, Array]:
        result = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))
        return result["pred_score"], _labels(result.get("pred_label"), len(images))

    return run


def _run_openvino(path: Path) -> Run:
    import openvino

    # float32, as the file is; by default OpenVINO may compute in half precision
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images: Array) -> tuple[Array, Array]:
        result = compiled(images)
        names = {name for output in compiled.outputs for name in output.names}
        return result["pred_score"], _labels(result["pred_label"] if "pred_label" in names else None, len(images))

    return run


def _labels(labels: Any, count: int) -> Array:
    return np.zeros(count, dtype=bool) if labels is None else np.asarray(labels).astype(bool)


_RUNNERS: dict[str, Callable[[Path], Run]] = {".pt": _run_torch, ".onnx": _run_onnx, ".xml": _run_openvino}
