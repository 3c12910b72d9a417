"""What executes the frozen network: eager PyTorch, a compiled graph, or OpenVINO.

A runtime is a function ``images (B, 3, H, W) -> embeddings (B, D)`` float32. It works in batches of one size, smaller
ones are padded: compiled graphs are built once, and an image gets the same embedding whatever batch it came in. Only
``eager`` takes batches as they come, unless it is told their size: the libraries below choose their kernels by it, and
small batches round differently (Lite0 on an AVX-512 processor: below 16 images, and in eager mode at 20 and 31).
"""

import copy
import logging
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["RuntimeName", "choose_runtime", "make_runtime"]

logger = logging.getLogger(__name__)

RuntimeName = Literal[
    "auto", "eager", "channels_last", "channels_last_bf16", "compile", "compile_bf16", "openvino", "openvino_bf16"
]

_COMPILE_PAYS_FROM = 4000
"""Images from which compiling (15 to 60 s) is repaid by what it saves (about 15 ms an image on 2 cores)."""


def choose_runtime(name: RuntimeName, device: torch.device, num_images: int | None) -> RuntimeName:
    """Resolve ``auto``; every choice of it computes in float32.

    On CPU: OpenVINO where it is installed; else the compiled graph where a C++ compiler exists and at least
    4000 images will be seen; else channels_last. On other devices channels_last.

    Args:
        name: What was asked for.
        device: Where the model is.
        num_images: How many images the run will see, if known.

    Raises:
        ValueError: If the name is unknown, or the runtime cannot run here.
    """
    if name not in get_args(RuntimeName):
        raise ValueError(f"runtime must be one of {', '.join(get_args(RuntimeName))}, got {name!r}.")
    if name.startswith("openvino"):
        if find_spec("openvino") is None:
            raise ValueError(
                f"runtime={name!r} needs OpenVINO; install panda-anomalib[openvino], or use runtime='auto'."
            )
        if device.type != "cpu":
            raise ValueError(f"runtime={name!r} computes on the CPU, but the model is on {device}; use runtime='auto'.")
    if name != "auto":
        return name
    if device.type == "cpu":
        if find_spec("openvino") is not None:
            return "openvino"
        if num_images is not None and num_images >= _COMPILE_PAYS_FROM and shutil.which("g++"):
            return "compile"
    return "channels_last"


def make_runtime(
    name: RuntimeName, network: nn.Module, *, images: bool = True, batch_size: int | None = None
) -> Callable[[Tensor], Tensor]:
    """Build the runtime ``name`` (not ``auto``) of a network in eval mode.

    The network is copied where the runtime changes it; later changes of its weights are not seen.

    Args:
        name: The runtime.
        network: Images -> embeddings, or a part of it.
        images: Whether the network takes images; the output of a stem, maybe tokens, keeps the layout it comes in.
        batch_size: Size of the batches that the network sees; by default that of the first call, and in ``eager``
            that of each call.
    """
    precision = torch.bfloat16 if name.endswith("bf16") else torch.float32
    kind = name.removesuffix("_bf16")
    if kind == "eager":
        # not the module itself: an attribute that is one would be saved with the model
        return network.__call__ if batch_size is None else _Eager(network, batch_size)
    if kind == "openvino":
        return _OpenVino(network, precision, batch_size)
    return _Torch(network, precision, batch_size, compiled=kind == "compile", images=images)


class _FixedBatch:
    """Runs in batches of one size, by default that of the first; smaller ones are padded with their last image."""

    def __init__(self, batch_size: int | None = None) -> None:
        self._size = batch_size

    def __call__(self, images: Tensor) -> Tensor:
        size = self._size = self._size or len(images)
        results = []
        for chunk in images.split(size):
            padding = chunk[-1:].expand(size - len(chunk), *chunk.shape[1:])
            results.append(self._run(torch.cat([chunk, padding]) if len(padding) else chunk)[: len(chunk)])
        return results[0] if len(results) == 1 else torch.cat(results)

    def _run(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class _Eager(_FixedBatch):
    def __init__(self, network: nn.Module, batch_size: int) -> None:
        super().__init__(batch_size)
        self._network = network

    def _run(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self._network(images)
        return embeddings


class _Torch(_FixedBatch):
    def __init__(
        self, network: nn.Module, precision: torch.dtype, batch_size: int | None, *, compiled: bool, images: bool
    ) -> None:
        super().__init__(batch_size)
        self._images = images
        network = copy.deepcopy(network).to(memory_format=torch.channels_last)
        self._precision = precision
        # Freezing folds batch norm into the convolutions and prepacks the weights: half of the gain.
        self._network: Any = torch.compile(network, options={"freezing": True}) if compiled else network

    def _run(self, images: Tensor) -> Tensor:
        if self._images:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast(images.device.type, self._precision, self._precision != torch.float32):
            embeddings: Tensor = self._network(images)
        return embeddings.float()


class _OpenVino(_FixedBatch):
    def __init__(self, network: nn.Module, precision: torch.dtype, batch_size: int | None) -> None:
        super().__init__(batch_size)
        self._network = network
        self._hint = "bf16" if precision == torch.bfloat16 else "f32"
        self._compiled: Any = None

    def _run(self, images: Tensor) -> Tensor:
        if self._compiled is None:
            import openvino

            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the exporter about itself
                program = torch.export.export(self._network, (images,))
                model = openvino.convert_model(program)
            config = {"INFERENCE_PRECISION_HINT": self._hint, "PERFORMANCE_HINT": "LATENCY"}
            self._compiled = openvino.Core().compile_model(model, "CPU", config)
        return torch.from_numpy(self._compiled(images.contiguous().numpy())[0]).float()
