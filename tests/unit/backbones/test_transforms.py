"""One geometry in workers, batches and exports."""

import logging
from pathlib import Path

import numpy as np
import pytest
import reference
import timm
import torch
from anomalib.data import ImageBatch
from anomalib.pre_processing import PreProcessor
from torchvision import tv_tensors
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, RandomHorizontalFlip, Resize

from panda_anomalib.backbones.transforms import ImagePreProcessor, SeparableResizeCrop, weights_transform

LITE0 = timm.get_pretrained_cfg("tf_efficientnet_lite0").to_dict()
SIZES = [(32, 32), (120, 88), (300, 401), (224, 224), (513, 700), (97, 333)]


def photograph(height: int, width: int) -> torch.Tensor:
    """Part of a real photograph, (3, H, W) in [0, 1]."""
    from skimage import data

    image = torch.from_numpy(data.astronaut().copy()).permute(2, 0, 1).float() / 255
    image = torch.cat([image, image.flip(1)], dim=1)
    return torch.cat([image, image.flip(2)], dim=2)[:, :height, :width].contiguous()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", [InterpolationMode.BICUBIC, InterpolationMode.BILINEAR])
def test_exported_resize_is_torchvisions(size: tuple[int, int], interpolation: InterpolationMode) -> None:
    """Antialiased, for shrinking and enlarging, odd margins and any aspect: anomalib's export is off by far more."""
    image = photograph(*size)[None]
    expected = CenterCrop(224)(Resize([256], interpolation=interpolation, antialias=True)(image))
    ours = SeparableResizeCrop([256], (224, 224), interpolation)(image)
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-6)
    if min(size) > 256:
        theirs = PreProcessor(Compose([Resize([256], interpolation=interpolation, antialias=True), CenterCrop(224)]))
        assert (theirs(image) - expected).abs().max() > 1e-2


def test_exported_resize_equals_reference() -> None:
    """Pixel by pixel in float64, bicubic."""
    image = photograph(61, 47)[0].numpy()
    ours = SeparableResizeCrop([32], (27, 27), InterpolationMode.BICUBIC)(torch.from_numpy(image)[None, None])
    np.testing.assert_allclose(ours[0, 0], reference.resize_crop(image, 32, 27), atol=1e-5)


def test_exported_resize_to_height_and_width() -> None:
    """Two sides given: the aspect is not kept."""
    image = photograph(100, 333)[None]
    expected = CenterCrop(200)(Resize([256, 224], interpolation=InterpolationMode.BICUBIC, antialias=True)(image))
    ours = SeparableResizeCrop([256, 224], (200, 200), InterpolationMode.BICUBIC)(image)
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-6)


def test_nearest_interpolation_is_refused() -> None:
    """There is no antialiased nearest."""
    with pytest.raises(ValueError, match="interpolation must be bilinear or bicubic, got nearest"):
        SeparableResizeCrop([32], (32, 32), InterpolationMode.NEAREST)


@pytest.mark.parametrize(
    ("name", "resize", "crop", "interpolation", "mean"),
    [
        ("tf_efficientnet_lite0", 256, 224, "bicubic", 0.5),
        ("tf_efficientnet_lite2", 292, 260, "bicubic", 0.5),
        ("resnet101.tv_in1k", 256, 224, "bilinear", 0.485),
    ],
)
def test_transform_is_that_of_the_weights(name: str, resize: int, crop: int, interpolation: str, mean: float) -> None:
    """Size, crop, interpolation and mean come from timm's data configuration."""
    first, second, third = weights_transform(timm.get_pretrained_cfg(name).to_dict()).transforms
    assert (first.size, first.interpolation.value, first.antialias) == ([resize], interpolation, True)
    assert list(second.size) == [crop, crop]
    assert third.mean[0] == mean


def test_papers_setting_and_other_sizes() -> None:
    """Resize and crop can be given; a network built for another size is fed that size."""
    papers = weights_transform(LITE0, resize=[256, 256], crop=224).transforms
    assert papers[0].size == [256, 256]
    dinov2 = weights_transform(timm.get_pretrained_cfg("vit_small_patch14_dinov2").to_dict(), img_size=224).transforms
    assert list(dinov2[1].size) == [224, 224]
    with pytest.raises(ValueError, match="crop must be at most resize=200, got 224"):
        weights_transform(LITE0, resize=200, crop=224)


def test_images_smaller_than_the_crop_are_enlarged() -> None:
    """A thumbnail fills the whole input: no border of zeros."""
    image = tv_tensors.Image(0.5 + 0.5 * photograph(20, 30))
    result = weights_transform(LITE0)(image)
    assert result.shape == (3, 224, 224)
    assert result.min() > 0 - 0.1  # zeros before normalisation would be -1


class _Dataset:
    """What the pre-processor needs of a dataset."""

    def __init__(self, augmentations: object = None) -> None:
        self.augmentations = augmentations


class _Trainer:
    def __init__(self, dataset: object, **data: object) -> None:
        loader = type("Loader", (), {"dataset": dataset})()
        self.train_dataloader = self.val_dataloaders = self.test_dataloaders = loader
        self.predict_dataloaders = [loader]
        self.datamodule = type("Data", (), data)()


def run(pre_processor: ImagePreProcessor, dataset: object, images: torch.Tensor) -> torch.Tensor:
    """One test batch through the callback."""
    batch = ImageBatch(image=images)
    pre_processor.on_test_batch_start(_Trainer(dataset), None, batch, 0)
    return batch.image


def test_workers_and_callback_make_the_whole_transform_once() -> None:
    """Installed on a dataset: resize and crop of single images there, normalisation here; elsewhere all of it."""
    pre_processor = ImagePreProcessor(weights_transform(LITE0))
    image = tv_tensors.Image(photograph(300, 401))
    expected = pre_processor.transform(image)[None]
    dataset = _Dataset()
    pre_processor.install(dataset)
    prepared = dataset.augmentations(image)[None]
    torch.testing.assert_close(run(pre_processor, dataset, prepared.clone()), expected, rtol=0, atol=0)
    torch.testing.assert_close(run(pre_processor, _Dataset(), image[None].clone()), expected, rtol=0, atol=0)
    torch.testing.assert_close(pre_processor(image[None].as_subclass(torch.Tensor)), expected, rtol=0, atol=2e-5)


def test_install_takes_the_place_of_anomalibs_resize_and_keeps_augmentations() -> None:
    """Anomalib appends the model's Resize; twice installed is once installed."""
    pre_processor = ImagePreProcessor(weights_transform(LITE0))
    resize, flip = pre_processor.transform.transforms[0], RandomHorizontalFlip(1.0)
    for before, kept in ((resize, 0), (Compose([flip, resize]), 1), (flip, 1), (Compose([flip]), 1), (None, 0)):
        dataset = _Dataset(before)
        pre_processor.install(dataset)
        pre_processor.install(dataset)
        after = dataset.augmentations
        steps = [*after.transforms[:-1], "geometry"] if kept else ["geometry"]
        assert steps == ([flip] if kept else []) + ["geometry"]
        assert after(tv_tensors.Image(photograph(300, 401))).shape == (3, 224, 224)


def test_dataset_of_another_model_is_refused() -> None:
    """Resizing an already cropped image again would move every score a little, silently."""
    lite0, lite2 = (
        ImagePreProcessor(weights_transform(timm.get_pretrained_cfg(f"tf_efficientnet_lite{i}").to_dict()))
        for i in (0, 2)
    )
    dataset = _Dataset()
    lite0.install(dataset)
    with pytest.raises(RuntimeError, match="images were resized for another model"):
        run(lite2, dataset, torch.rand(1, 3, 224, 224))
    lite2.install(dataset)
    assert run(lite2, dataset, dataset.augmentations(tv_tensors.Image(photograph(300, 400)))[None]).shape[-1] == 260


def test_foreign_batches_are_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    """Anomalib's collate stretches images of different shapes before we can see them."""
    pre_processor = ImagePreProcessor(weights_transform(LITE0))
    with caplog.at_level(logging.WARNING):
        run(pre_processor, _Dataset(), torch.rand(1, 3, 50, 60))
        assert not caplog.records
        for _ in range(2):
            run(pre_processor, _Dataset(), torch.rand(2, 3, 50, 60))
    assert len(caplog.records) == 1


def test_transform_survives_a_checkpoint(tmp_path: Path) -> None:
    """Saved as plain data, restored with its geometry and its exportable twin."""
    first = ImagePreProcessor(weights_transform(LITE0, resize=128, crop=96))
    torch.save(first.checkpoint_config(), tmp_path / "config.pt")
    second = ImagePreProcessor(weights_transform(LITE0))
    second.load_checkpoint_config(torch.load(tmp_path / "config.pt", weights_only=True))
    image = photograph(300, 401)
    torch.testing.assert_close(second.transform(image), first.transform(image), rtol=0, atol=0)
    torch.testing.assert_close(second(image[None]), first(image[None]), rtol=0, atol=0)
