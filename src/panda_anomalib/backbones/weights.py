"""Where a backbone's weights come from: a package, the hub or its cache, a file, or nowhere."""

import difflib
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import timm
import torch
from torch import Tensor, nn

from panda_anomalib.backbones.packaged import PACKAGED, is_packaged, packaged_state_dict
from panda_anomalib.backbones.weight_files import file_sha256, read_state_dict
from panda_anomalib.commands import UnknownNameError
from panda_anomalib.network import is_reachable, is_told_offline

__all__ = ["PACKAGED", "check_backbone", "load_weights", "packaged_state_dict"]

logger = logging.getLogger(__name__)


def check_backbone(name: str) -> None:
    """Refuse a name that timm does not have.

    Raises:
        UnknownNameError: With the nearest names.
    """
    known = timm.list_models()
    architecture, _, tag = name.partition(".")
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "timm.list_models() lists them."
        raise UnknownNameError(f"backbone must be a timm model, got {name!r}; {hint}")
    if tag and name not in (tagged := timm.list_pretrained(f"{architecture}.*")):
        raise ValueError(f"backbone must have a weight tag that timm knows, got {name!r}; known are {tagged}.")


def load_weights(network: nn.Module, name: str, weights: str) -> dict[str, str]:
    """Load weights into a network in place.

    Args:
        network: timm network; one without classifier (``num_classes=0``) leaves the weights' classifier out.
        name: timm's name of it.
        weights: ``default`` (what timm would load: from the package when there is one, else from the hub's cache or
            the hub), ``packaged``, ``random`` (as initialised), or the path of a ``.safetensors`` or ``.pth`` file in
            timm's key names; a classifier that the network lacks may be there or not. Files are read without executing
            pickled code.

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
    if weights == "packaged" or (weights == "default" and is_packaged(name)):
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
    _fit(network, read_state_dict(path), str(path))
    logger.info("Backbone %s: weights from %s.", name, path)
    return {**provenance, "source": "path", "file": path.name, "sha256": file_sha256(path)}


def _load_from_hub(network: nn.Module, name: str) -> dict[str, str]:
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise FileNotFoundError(f"weights of {name!r} do not exist in timm; {_WAYS_OUT}")
    path = _cached_file(cfg)
    if path is not None:
        state_dict = read_state_dict(path)
    elif _hub_is_reachable(cfg):
        logger.info("Backbone %s: downloading its weights.", name)
        state_dict = timm.create_model(name, pretrained=True).state_dict()
        path = _cached_file(cfg)
    else:
        raise FileNotFoundError(f"weights of {name!r} are not in the cache and the hub is out of reach; {_WAYS_OUT}")
    _fit(network, state_dict, f"weights of {name}", classifier=cfg.classifier)
    logger.info("Backbone %s: weights from the hub (%s).", name, path or "downloaded")
    found = {"source": "hub", "licence": cfg.license or "unknown", "tag": cfg.tag or ""}
    return {**found, "file": path.name, "sha256": file_sha256(path)} if path is not None else found


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
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or is_told_offline():
        return False
    return is_reachable(constants.ENDPOINT if cfg.hf_hub_id else cfg.url)


def _fit(
    network: nn.Module, state_dict: dict[str, Tensor], what: str, *, classifier: str | tuple[str, ...] | None = None
) -> None:
    """Load strictly, but for a classifier that the network does not have: embeddings do not use it."""
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
