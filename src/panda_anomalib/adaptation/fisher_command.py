"""What ``panda-anomalib fisher`` does: labelled images in, Fisher file out."""

import hashlib
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from typing_extensions import override

from panda_anomalib.adaptation.fisher import FisherMode, LabelSource, diagonal_fisher
from panda_anomalib.adaptation.fisher_file import check_output, save_fisher, suggested_weight
from panda_anomalib.adaptation.labelled import LabelledImages
from panda_anomalib.backbones.classifier import classifier
from panda_anomalib.backbones.transforms import weights_transform
from panda_anomalib.data.files import IMAGE_EXTENSIONS, find_images
from panda_anomalib.data.reading import read_image
from panda_anomalib.progress import track

__all__ = ["make_fisher_file"]

logger = logging.getLogger(__name__)


def make_fisher_file(
    *,
    images: Path,
    output: Path,
    backbone: str = "tf_efficientnet_lite0",
    weights: str = "default",
    backbone_args: dict[str, Any] | None = None,
    labels: LabelSource = "given",
    mode: FisherMode = "sample",
    num_images: int | None = None,
    batch_size: int = 10,
    chunk_size: int = 16,
    num_workers: int = 0,
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Compute the Fisher information of a backbone's weights for elastic weight consolidation, and write it to a file.

    Args:
        images: Folder with a folder of images for each class of the classifier, in its order by name; any folder of
            images for ``sampled`` labels.
        output: File to write, ending in .safetensors.
        backbone: timm's name of the network.
        weights: As of a model: default, packaged, random, or the path of a file that holds the classifier, too.
        backbone_args: Further arguments of the network's constructor.
        labels: Those of the class folders (given), or drawn from the network's own predictions (sampled).
        mode: Square the gradients of single images (sample), or of minibatches (minibatch: about batch_size times
            smaller; the file says which EWC weight belongs to it).
        num_images: How many images to use, drawn by the seed; by default all.
        batch_size: Images of a minibatch; the last is left out in mode minibatch if it is not full.
        chunk_size: Images in one pass, at most batch_size; bounds the memory and changes nothing else.
        num_workers: Processes that read images.
        device: Such as cpu or cuda; auto takes a GPU if there is one.
        seed: Of the choice and order of the images and of sampled labels.

    Raises:
        ValueError: If an argument is not accepted, images and classifier do not match, or there is no classifier.
        FileNotFoundError: If images or weights are not there.
        FileExistsError: If the output is.
    """
    output = check_output(output)
    for name, value in {"num_images": num_images, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    network, of_weights = classifier(backbone, weights, backbone_args)
    loose: Any = network  # timm's attributes
    transform = weights_transform(loose.pretrained_cfg, img_size=(backbone_args or {}).get("img_size"))
    dataset: _Images | LabelledImages
    dataset = (
        _Images(images, transform) if labels == "sampled" else LabelledImages(images, transform, loose.num_classes)
    )
    if num_images is not None and num_images > len(dataset):
        raise ValueError(f"num_images must be at most the {len(dataset)} in '{images}', got {num_images}.")
    used = np.random.default_rng(seed).permutation(len(dataset))[:num_images].tolist()
    if mode == "minibatch" and not (used := used[: len(used) // batch_size * batch_size]):
        raise ValueError(f"batch_size must be at most the number of images, got {batch_size} in mode minibatch.")
    loader = DataLoader(Subset(dataset, used), batch_size=batch_size, num_workers=num_workers)
    fisher = diagonal_fisher(
        network.to(_device(device), memory_format=torch.channels_last),  # type: ignore[call-overload]
        track(loader, f"Fisher information of {backbone}"),
        mode=mode,
        labels=labels,
        chunk_size=chunk_size,
        seed=seed,
    )
    weight = suggested_weight(mode, batch_size)
    provenance = {
        "backbone": backbone,
        **{f"weights_{key}": value for key, value in of_weights.items() if key != "backbone"},
        "images": images.resolve().name,
        "num_images": str(len(used)),
        "images_sha256": _sha256_of_images(images, [dataset.paths[index] for index in used]),
        "labels": labels,
        "mode": mode,
        "batch_size": str(batch_size),
        "seed": str(seed),
        "suggested_weight": str(weight),
        **{package: version(package) for package in ("panda-anomalib", "torch", "timm")},
    }
    save_fisher(output, fisher, provenance)
    mean = sum(value.double().sum().item() for value in fisher.values()) / sum(
        value.numel() for value in fisher.values()
    )
    logger.info("Fisher information in %s: mean %.3g; EWC weight that belongs to it: %g.", output, mean, weight)


class _Images(Dataset[tuple[Tensor, int]]):
    """Images of any folder, without labels."""

    def __init__(self, root: Path, transform: Callable[[Tensor], Tensor]) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f"images must be an existing folder, got '{root}'; check it.")
        self.paths = find_images(root)
        if not self.paths:
            raise ValueError(f"images must be a folder of images ({' '.join(IMAGE_EXTENSIONS)}), got none in '{root}'.")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(read_image(self.paths[index])), -1


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _sha256_of_images(root: Path, paths: list[Path]) -> str:
    """Hash of the names inside the folder and of the contents, whatever the order of use."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
