"""Diagonal Fisher information of a classifier's weights: how much each of them matters to its pretraining task.

PANDA's Eq. 3, after Kirkpatrick et al. (arXiv:1612.00796): the mean over images of the squared gradient of
-log p(y|x). Elastic weight consolidation holds each parameter in proportion to it.
"""

import logging
import math
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from panda_anomalib.adaptation.squared_gradients import sum_of_squared_gradients
from panda_anomalib.backbones.classifier import head_parameters

__all__ = ["FisherMode", "LabelSource", "diagonal_fisher"]

FisherMode = Literal["sample", "minibatch"]
LabelSource = Literal["given", "sampled"]

logger = logging.getLogger(__name__)


@torch.no_grad()  # torch.func differentiates all the same; the other parameters would record a graph of every image
def diagonal_fisher(
    network: nn.Module,
    minibatches: Iterable[tuple[Tensor, Tensor | None]],
    *,
    mode: FisherMode = "sample",
    labels: LabelSource = "given",
    parameters: Iterable[str] | None = None,
    chunk_size: int = 16,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Diagonal of the Fisher information, by parameter name.

    ``sample`` squares the gradient of every image and averages over the images: Eq. 3. ``minibatch`` squares the mean
    gradient of every minibatch and averages over the minibatches. Where the network has been trained, the gradients
    of single images are nearly without mean, so that minibatches of size b give about 1/b of it: an EWC weight of 1e4
    for ``sample`` becomes b * 1e4.

    Args:
        network: Classifier in eval mode: images ``(B, 3, H, W)`` to logits ``(B, K)``, each image by itself.
        minibatches: Images ``(B, 3, H, W)`` as the network takes them, with class numbers ``(B,)`` or None.
        mode: What is squared.
        labels: ``given`` with the images (the empirical Fisher), or ``sampled`` from the network's own p(y|x) (the
            true one, which needs no labels).
        parameters: Names of the parameters; by default all of a timm network but its classifier's.
        chunk_size: Images in one pass in mode ``sample``, which bounds the memory and changes nothing else.
        seed: Of the sampled labels.

    Returns:
        Tensors in the shape, dtype and device of the parameters; none of them below 0.

    Raises:
        ValueError: If an argument is not accepted, or there are no images, or no labels where they are needed.
        RuntimeError: If gradients are not finite.
    """
    _check(network, mode, labels, chunk_size)
    known = dict(network.named_parameters())
    names = list(known.keys() - head_parameters(network)) if parameters is None else list(parameters)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"parameters must be the network's, got {unknown[0]!r}; network.named_parameters() has them.")
    chosen = {name: known[name].detach() for name in known if name in set(names)}
    if not chosen:
        raise ValueError("parameters must name at least one parameter, got none.")
    device = next(iter(chosen.values())).device
    compute = _of_images if mode == "sample" else _of_minibatch
    generator = torch.Generator().manual_seed(seed)
    fisher = {name: torch.zeros_like(value) for name, value in chosen.items()}
    num_images, num_terms, total_loss = 0, 0, 0.0
    for images, given in minibatches:
        if labels == "sampled":
            targets = torch.rand(len(images), generator=generator, dtype=torch.float64)
        elif given is not None:
            targets = given
        else:
            raise ValueError("labels must come with the images for labels='given', got none; use labels='sampled'.")
        size = len(images) if mode == "minibatch" else chunk_size
        for some, of_some in zip(images.split(size), targets.split(size), strict=True):
            terms, losses = compute(network, chosen, some.to(device), of_some.to(device))
            for name, value in terms.items():
                fisher[name] += value
            num_terms += len(some) if mode == "sample" else 1
            total_loss += losses.double().sum().item()
        num_images += len(images)
    if num_images == 0:
        raise ValueError("images must be at least one, got none.")
    logger.info("Mean of -log p over %d images with %s labels: %.3f.", num_images, labels, total_loss / num_images)
    if labels == "given" and total_loss / num_images > math.log(getattr(network, "num_classes", math.inf) or math.inf):
        logger.warning("The labels are less likely than chance: are they numbered as the classifier's classes are?")
    fisher = {name: value / num_terms for name, value in fisher.items()}
    if bad := [name for name, value in fisher.items() if not value.isfinite().all()]:
        raise RuntimeError(
            f"Fisher information is not finite for {len(bad)} parameters, such as {bad[0]}; check images and weights."
        )
    return fisher


def _check(network: nn.Module, mode: str, labels: str, chunk_size: int) -> None:
    if mode not in get_args(FisherMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(FisherMode))}, got {mode!r}.")
    if labels not in get_args(LabelSource):
        raise ValueError(f"labels must be one of {', '.join(get_args(LabelSource))}, got {labels!r}.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}.")
    if any(module.training for module in network.modules()):
        raise ValueError("network must be in eval mode, got train mode; call network.eval().")


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(y|x) of each image; y is the target, or drawn from p(y|x) where targets are uniform numbers."""
    log_probabilities = logits.log_softmax(dim=1)
    if targets.is_floating_point():
        cumulative = log_probabilities.detach().double().exp().cumsum(dim=1)
        below = cumulative < targets[:, None] * cumulative[:, -1:]
        targets = below.sum(dim=1)
    return -log_probabilities.gather(1, targets[:, None])[:, 0]


def _of_images(
    network: nn.Module, parameters: dict[str, Tensor], images: Tensor, targets: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    return sum_of_squared_gradients(network, parameters, images, targets, _losses)


def _of_minibatch(
    network: nn.Module, parameters: dict[str, Tensor], images: Tensor, targets: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Squared mean gradient."""

    def loss(values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        losses = _losses(functional_call(network, values, (images,)), targets)
        return losses.mean(), losses.detach()

    gradients, (_, losses) = grad_and_value(loss, has_aux=True)(parameters)
    # detached: the classifier's own parameters, which are not replaced, would hold on to the graph of every minibatch
    return {name: value.detach().square() for name, value in gradients.items()}, losses
