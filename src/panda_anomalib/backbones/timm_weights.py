"""The packaged weights for whatever else asks timm for them, such as anomalib's own models, without a network."""

import logging
from typing import Any

from timm.models import _builder

from panda_anomalib.backbones.packaged import PACKAGED, is_packaged, packaged_state_dict

__all__ = ["offer_packaged_weights"]

logger = logging.getLogger(__name__)

_resolve = getattr(_builder, "_resolve_pretrained_source", None)


def offer_packaged_weights() -> None:
    """From now on ``timm.create_model(name, pretrained=True)`` finds packaged weights in their package, not on the hub.

    They are the weights that the hub has under the tag ``in1k``. Weights without a package, or whose package is not
    installed, come from where timm finds them. Can be called more than once.
    """
    if _resolve is None:  # timm's inner part, which may change its name; its own way goes on to work
        logger.debug("This timm does not say where weights come from: packaged ones are not offered to it.")
        return
    _builder._resolve_pretrained_source = _resolve_source


def _resolve_source(pretrained_cfg: dict[str, Any]) -> tuple[str, Any]:
    architecture, tag = pretrained_cfg.get("architecture") or "", pretrained_cfg.get("tag") or ""
    own = pretrained_cfg.get("file") or pretrained_cfg.get("state_dict")  # the caller's
    if own or not is_packaged(f"{architecture}.{tag}") or not PACKAGED[architecture].is_installed():
        return _resolve(pretrained_cfg)  # type: ignore[misc] # not installed where it is None
    logger.info("%s: ImageNet-1k weights from the package %s.", architecture, PACKAGED[architecture].distribution)
    return "state_dict", packaged_state_dict(architecture)
