"""Image -> network input: one geometry for training, testing and every export.

anomalib switches antialiasing off when it exports a model, and lets workers apply only the first ``Resize``, so that
images of different shapes are stretched to one size when a batch is collated. Both change scores without a word.
Here resize and crop are one step that workers apply to single images, and the exported graph does the same
arithmetic as two matrix products.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.spec import transform_to_spec
from lightning.pytorch import LightningModule, Trainer
from timm.data.config import resolve_data_config
from torch import Tensor, nn
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, Normalize, Resize, Transform
from typing_extensions import override

__all__ = ["Geometry", "ImagePreProcessor", "SeparableResizeCrop", "weights_transform"]

logger = logging.getLogger(__name__)

Size = int | tuple[int, int]


def weights_transform(
    pretrained_cfg: dict[str, Any],
    *,
    resize: int | Sequence[int] | None = None,
    crop: int | Sequence[int] | None = None,
    img_size: int | Sequence[int] | None = None,
) -> Compose:
    """Pre-processing that the weights were trained with, as transforms that survive a checkpoint.

    Args:
        pretrained_cfg: timm's data configuration of the weights.
        resize: Shorter side, or (height, width), in pixels instead of the configured one.
        crop: Centre crop in pixels instead of the configured one; at most ``resize``.
        img_size: Input size of the network when it was built for another than its configured one.

    Returns:
        ``Resize`` (antialiased), ``CenterCrop``, ``Normalize`` for float images (3, H, W) in [0, 1].

    Raises:
        ValueError: If the crop is larger than the resized image.
    """
    args: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    config = resolve_data_config(args, pretrained_cfg=pretrained_cfg)
    crop_hw = _pair(crop if crop is not None else config["input_size"][1:])
    if resize is None:
        resize = crop_hw if config["crop_mode"] == "squash" else int(min(crop_hw) / config["crop_pct"])
    resized = _pair(resize)
    if crop_hw[0] > resized[0] or crop_hw[1] > resized[1]:
        raise ValueError(f"crop must be at most resize={resize}, got {crop}; give a larger resize or a smaller crop.")
    size = [int(resize)] if isinstance(resize, int) else [int(side) for side in resize]
    return Compose(
        [
            Resize(size, interpolation=InterpolationMode(config["interpolation"]), antialias=True),
            CenterCrop(list(crop_hw)),
            Normalize(mean=list(config["mean"]), std=list(config["std"])),
        ]
    )


class Geometry(Compose):
    """Resize and centre crop of single images, as a dataset's workers apply it."""

    def __init__(self, resize: Resize, crop: CenterCrop) -> None:
        super().__init__([resize, crop])

    def does_the_same_as(self, other: "Geometry | None") -> bool:
        """Whether another geometry gives the same images (modules are compared by identity, so no ``==``)."""
        return other is not None and self._spec() == other._spec()

    def _spec(self) -> list[Any]:
        return [transform_to_spec(transform) for transform in self.transforms]


class SeparableResizeCrop(nn.Module):
    """Antialiased resize and centre crop as two matrix products, for exported graphs.

    Equal to torchvision's ``Resize(antialias=True)`` followed by ``CenterCrop`` to float32 rounding, for any input
    size, also a dynamic one; ONNX Runtime and OpenVINO have no operator that is.

    Shapes: images ``(B, C, H, W)``, output ``(B, C, crop[0], crop[1])``.
    """

    def __init__(self, size: Sequence[int], crop: tuple[int, int], interpolation: InterpolationMode) -> None:
        super().__init__()
        if interpolation not in _FILTERS:
            raise ValueError(
                f"interpolation must be {' or '.join(mode.value for mode in _FILTERS)}, got {interpolation.value}."
            )
        self.size = tuple(size)
        self.crop = crop
        self.interpolation = interpolation

    @override
    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]  # symbolic while a graph is exported
        full_height: Any
        full_width: Any
        if len(self.size) == 2:
            full_height, full_width = self.size
        else:  # the shorter side; torchvision truncates the longer one
            shorter = torch.sym_min(height, width)
            full_height, full_width = self.size[0] * height // shorter, self.size[0] * width // shorter
        rows = self._weights(height, full_height, self.crop[0], images)
        columns = self._weights(width, full_width, self.crop[1], images)
        return rows @ images @ columns.transpose(0, 1)

    def _weights(self, length: int, resized: int, crop: int, like: Tensor) -> Tensor:
        """Resampling weights (crop, length) of one axis."""
        margin = resized - crop
        half = margin // 2
        start = half + (margin % 2) * (half % 2)  # CenterCrop rounds half to even
        scale = length / resized
        target = torch.arange(crop, dtype=like.dtype, device=like.device) + start
        source = torch.arange(length, dtype=like.dtype, device=like.device)
        centre = (target + 0.5) * scale
        widening: Any = torch.sym_max(scale, 1.0)  # when shrinking
        distance = (source[None] + 0.5 - centre[:, None]) / widening
        weights = _FILTERS[self.interpolation](distance.abs())
        return weights / weights.sum(dim=1, keepdim=True)


class ImagePreProcessor(PreProcessor):
    """anomalib's pre-processor, with one geometry for workers, batches and exports.

    Its ``transform`` is what the checkpoint keeps and what single images go through. Where a dataset's workers have
    applied the geometry already (see ``install``), a batch is only normalised; a batch from any other loader gets the
    whole transform.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        self._warned = False
        self._derive()

    def _derive(self) -> None:
        parts = list(self.transform.transforms) if isinstance(self.transform, Compose) else []
        kinds = [type(part) for part in parts]
        self._geometry: Geometry | None = None
        self._normalize: Transform | None = None
        if kinds == [Resize, CenterCrop, Normalize] and parts[0].antialias:
            resize, crop, self._normalize = parts
            self._geometry = Geometry(resize, crop)
            exportable = SeparableResizeCrop(resize.size, _pair(crop.size), resize.interpolation)
            # Normalising first gives the same, as the resampling weights sum to 1; behind a matrix product OpenVINO
            # 2026.4 takes the three channel means for a bias of its columns, and refuses the graph.
            self.export_transform = nn.Sequential(self._normalize, exportable)

    @override
    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        super().load_checkpoint_config(config)
        self._derive()

    def install(self, dataset: Any) -> None:
        """Let the workers of a dataset resize and crop, after its own augmentations.

        Args:
            dataset: A dataset that applies ``self.augmentations`` to each image, as all of anomalib's do.
        """
        if self._geometry is None or not hasattr(dataset, "augmentations"):
            return
        before = dataset.augmentations
        parts = [] if before is None else [before]
        if isinstance(before, Compose) and not isinstance(before, Geometry):
            parts = list(before.transforms)
        # anomalib appends the model's Resize, an earlier install its Geometry: neither may run twice
        if parts and isinstance(parts[-1], (Resize, Geometry)):
            parts.pop()
        dataset.augmentations = Compose([*parts, self._geometry]) if parts else self._geometry

    def install_all(self, trainer: Trainer) -> None:
        """Install on every dataset of the trainer's datamodule."""
        datamodule = getattr(trainer, "datamodule", None)
        for name in ("train_data", "val_data", "test_data", "predict_data"):
            if (dataset := getattr(datamodule, name, None)) is not None:
                self.install(dataset)

    def install_again(self, trainer: Trainer) -> None:
        """Install on every dataset of the datamodule, and on those that the trainer's loaders have it on already.

        For a checkpoint that decided on another geometry than the arguments, by which the datasets were prepared.
        """
        self.install_all(trainer)
        source = getattr(getattr(trainer._active_loop, "_data_source", None), "instance", None)
        for loader in source if isinstance(source, list | tuple) else [source]:
            dataset = getattr(loader, "dataset", None)
            if _last_geometry(dataset) is not None:
                self.install(dataset)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.install_all(trainer)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if isinstance(batch, Batch):  # adapted models train on stem outputs, of images that went through `prepare`
            self._transform_batch(batch, trainer.train_dataloader, 0)

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._transform_batch(batch, trainer.val_dataloaders, dataloader_idx)

    @override
    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._transform_batch(batch, trainer.test_dataloaders, dataloader_idx)

    @override
    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._transform_batch(batch, trainer.predict_dataloaders, dataloader_idx)

    def _transform_batch(self, batch: Batch, loaders: object, index: int) -> None:
        loader = loaders[index] if isinstance(loaders, (list, tuple)) else loaders
        self.prepare(batch, getattr(loader, "dataset", None))

    def prepare(self, batch: Batch, dataset: object) -> None:
        """Make of the images of a batch, in place, what the network takes.

        Args:
            batch: Images in [0, 1].
            dataset: Where they come from: what its workers have done already is not done again.

        Raises:
            RuntimeError: If the workers have applied another model's geometry.
        """
        if self.transform is None:
            return
        applied = _last_geometry(dataset)
        if applied is None:
            if self._geometry is not None and len(batch.image) > 1 and not self._warned:
                self._warned = True
                logger.warning(
                    "Images were batched before they were resized: where their shapes differ, anomalib stretched them "
                    "to one. Pass a datamodule, or call model.pre_processor.install(dataset) before making the loader."
                )
            batch.image, batch.gt_mask = self.transform(batch.image, batch.gt_mask)
        elif applied.does_the_same_as(self._geometry) and self._normalize is not None:
            batch.image = self._normalize(batch.image)
        else:
            raise RuntimeError(
                f"images were resized for another model ({applied}), this one needs {self._geometry}; "
                "call model.pre_processor.install(dataset) before making the loader."
            )


def _last_geometry(dataset: object) -> Geometry | None:
    augmentations = getattr(dataset, "augmentations", None)
    if isinstance(augmentations, Compose) and not isinstance(augmentations, Geometry) and augmentations.transforms:
        augmentations = augmentations.transforms[-1]
    return augmentations if isinstance(augmentations, Geometry) else None


def _pair(size: int | Iterable[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    sides = [int(side) for side in size]
    return sides[0], sides[-1]


def _bilinear(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_min(0)


def _bicubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5, as Pillow and torchvision's antialiased resize have it."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


_FILTERS = {InterpolationMode.BILINEAR: _bilinear, InterpolationMode.BICUBIC: _bicubic}
