"""A timm network with the classifier that its weights were trained with."""

from pathlib import Path
from typing import Any

import timm
from torch import nn

from panda_anomalib.backbones.packaged import PACKAGED
from panda_anomalib.backbones.weight_files import read_state_dict
from panda_anomalib.backbones.weights import check_backbone, load_weights

__all__ = ["classifier", "head_parameters"]


def classifier(
    name: str, weights: str = "default", backbone_args: dict[str, Any] | None = None
) -> tuple[nn.Module, dict[str, str]]:
    """The network of ``Backbone(name, weights=weights)`` with its classifier, in eval mode.

    Parameters have the names that they have in ``Backbone.network``; the classifier's come on top. Images are
    normalised as the weights expect; logits ``(B, K)``.

    Args:
        name: timm's name of the network.
        weights: As in ``load_weights``; of a file, K is the number of classes of its classifier.
        backbone_args: Further arguments of the network's constructor, such as ``img_size``.

    Returns:
        Network and provenance of its weights.

    Raises:
        ValueError: If the name is not timm's, or network or weight file have no classifier, or the file does not fit.
        FileNotFoundError: If the weights are not at hand.
    """
    check_backbone(name)
    arguments = dict(backbone_args or {})
    if weights not in {"default", "packaged", "random"}:
        arguments["num_classes"] = _classes_in_file(weights, name)
    network = timm.create_model(name, pretrained=False, **arguments)
    if not head_parameters(network):
        raise ValueError(
            f"backbone must have a classifier, got {name!r}, which was trained without labels; "
            f"choose another, such as {', '.join(PACKAGED)}."
        )
    provenance = load_weights(network, name, weights)
    return network.eval(), provenance


def head_parameters(network: nn.Module) -> set[str]:
    """Names of the parameters of a timm network's classifier; empty if it has none."""
    get = getattr(network, "get_classifier", None)
    found = get() if callable(get) else ()
    heads = found if isinstance(found, tuple) else (found,)
    of_heads = {id(parameter) for head in heads for parameter in head.parameters()}
    return {name for name, parameter in network.named_parameters() if id(parameter) in of_heads}


def _classes_in_file(weights: str, name: str) -> int:
    names = timm.get_pretrained_cfg(name.partition(".")[0], allow_unregistered=True)
    head = names.classifier if names else None
    key = head[0] if isinstance(head, tuple) else head
    found = read_state_dict(Path(weights).expanduser()).get(f"{key}.weight")
    if found is None:
        raise ValueError(
            f"weights must hold the classifier {key!r} of {name}, got {weights!r}, which has none; give the weights "
            "with which the network was trained to classify."
        )
    return len(found)
