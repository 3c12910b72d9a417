"""Sum over images of squared gradients, without one backward pass for each image.

`torch.func.vmap` of `torch.func.grad` does this for any network, and holds a copy of every parameter for every image;
on a processor it is slower than a loop, because the vectorised backward passes of convolution and batch norm are. The
same follows from one ordinary backward pass over many images, layer by layer: the gradient of image n for a layer's
weight needs its input and the gradient at its output only. So layers that we know are tapped, and
`torch.func` takes what is left (position embeddings, layers used twice, ...).
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode
from typing_extensions import override

__all__ = ["sum_of_squared_gradients"]

_VMAP_ELEMENTS = 2**28  # parameters times images at once: a gibibyte in float32

Tensors = dict[str, Tensor]
Losses = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, K) and targets (B,) to losses (B,)."""


def sum_of_squared_gradients(
    network: nn.Module, parameters: Tensors, images: Tensor, targets: Tensor, losses: Losses
) -> tuple[Tensors, Tensor]:
    """Sum over images of the squared gradient of each image's loss.

    Args:
        network: Maps images ``(B, ...)`` to ``(B, K)``, each by itself (batch norm in eval mode, no dropout).
        parameters: Detached parameters by name; gradients are taken for these.
        images: Network input ``(B, ...)``.
        targets: What ``losses`` takes with the outputs, ``(B,)``.
        losses: Loss of each image.

    Returns:
        Sums in the shapes of the parameters, and the losses ``(B,)``.
    """
    leaf = images.detach().requires_grad_()  # so that the backward pass reaches the first layer
    taps = _Taps(parameters, len(images))
    with torch.enable_grad():
        with taps:
            outputs = functional_call(network, parameters, (leaf,))
        values = losses(outputs, targets)
        torch.autograd.grad(values.sum(), leaf)
    sums = taps.sums()
    if rest := {name: value for name, value in parameters.items() if name not in sums}:
        sums |= _by_vmap(network, parameters, rest, images=images, targets=targets, losses=losses)
    return {name: sums[name] for name in parameters}, values.detach()


def _by_vmap(
    network: nn.Module, parameters: Tensors, chosen: Tensors, *, images: Tensor, targets: Tensor, losses: Losses
) -> Tensors:
    def loss(values: Tensors, image: Tensor, target: Tensor) -> Tensor:
        return losses(functional_call(network, {**parameters, **values}, (image[None],)), target[None])[0]

    chunk = max(1, _VMAP_ELEMENTS // sum(value.numel() for value in chosen.values()))
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    sums = {name: torch.zeros_like(value) for name, value in chosen.items()}
    for some, of_some in zip(images.split(chunk), targets.split(chunk), strict=True):
        with sdpa_kernel(SDPBackend.MATH):  # vmap has no rule for the fused kernels
            values = gradients(chosen, some, of_some)
        for name, value in values.items():
            sums[name] += _sum_of_squares(value)  # not in place: gradients may share memory
    return sums


class _Taps(TorchFunctionMode):
    """Collects squared gradients of the parameters that a known layer takes, once and as they are."""

    def __init__(self, parameters: Tensors, num_images: int) -> None:
        super().__init__()
        self._names = {id(value): name for name, value in parameters.items()}
        self._num_images = num_images
        self._uses: Counter[str] = Counter()
        self._sums: Tensors = {}

    def sums(self) -> Tensors:
        """By the names of the parameters that were used once."""
        return {name: value for name, value in self._sums.items() if self._uses[name] == 1}

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not isinstance(output, (Tensor, tuple, list)) or isinstance(output, torch.Size):  # such as weight.dtype
            return output
        used = [self._names[id(value)] for value in _flat((args, kwargs)) if id(value) in self._names]
        self._uses.update(used)
        if not used or func not in _LAYERS:
            return output
        layer = _LAYERS[func](*args, **kwargs)
        names = {role: self._names[id(value)] for role, value in layer.roles.items() if id(value) in self._names}
        summed = layer.summed
        if summed is None or len(names) < len(used) or len(layer.inputs) != self._num_images:
            self._uses.update(used)  # counted twice: left to vmap
            return output

        def collect(inputs: Tensor, gradients: Tensor) -> None:
            for role, name in names.items():
                self._sums[name] = summed(role, inputs, gradients)

        return _Tap.apply(output, layer.inputs, collect)


class _Tap(torch.autograd.Function):
    """Hands its first argument on, and its gradient to a function."""

    @staticmethod
    @override
    def forward(ctx: Any, output: Tensor, inputs: Tensor, collect: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.collect = collect
        ctx.mark_dirty(output)  # not a view: an activation may work in place
        return output

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inputs,) = ctx.saved_tensors
        ctx.collect(inputs, gradients[0])
        return gradients[0], None, None


class _Layer(NamedTuple):
    """One call of a known function."""

    inputs: Tensor
    roles: dict[str, Tensor | None]
    """Its parameters: weight and bias."""
    summed: Callable[[str, Tensor, Tensor], Tensor] | None
    """Role, inputs (B, ...) and gradients at the output (B, ...) to the sum of the images' squared gradients."""


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Layer:
    def summed(role: str, inputs: Tensor, gradients: Tensor) -> Tensor:
        if inputs.ndim == 2:  # one position: the square of an outer product
            squared = gradients.square()
            return squared.sum(dim=0) if role == "bias" else squared.T @ inputs.square()
        of_outputs = gradients.flatten(1, -2)  # (B, T, O)
        if role == "bias":
            return _sum_of_squares(of_outputs.sum(dim=1))
        return _sum_of_squares(of_outputs.transpose(1, 2) @ inputs.flatten(1, -2))  # (B, O, I)

    return _Layer(inputs, {"weight": weight, "bias": bias}, summed)


def _conv2d(  # noqa: PLR0917 - torch's
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Layer:
    pointwise = tuple(weight.shape[2:]) == (1, 1) and padding in (0, (0, 0)) and groups == 1

    def summed(role: str, inputs: Tensor, gradients: Tensor) -> Tensor:
        if role == "bias":
            return _sum_of_squares(gradients.flatten(2).sum(dim=2))
        if pointwise:
            rows, columns = (stride, stride) if isinstance(stride, int) else stride
            positions = inputs[:, :, ::rows, ::columns].flatten(2)  # (B, I, T)
            return _sum_of_squares(gradients.flatten(2) @ positions.transpose(1, 2)).reshape(weight.shape)
        # One kernel an image: unfolding the input for one product, or a group for each image, takes longer
        each = zip(inputs.split(1), gradients.split(1), strict=True)
        squares = (conv2d_weight(x, weight.shape, g, stride, padding, dilation, groups).square() for x, g in each)
        return functools.reduce(Tensor.add_, squares)

    known = inputs.ndim == 4 and not isinstance(padding, str)
    return _Layer(inputs, {"weight": weight, "bias": bias}, summed if known else None)


def _batch_norm(  # noqa: PLR0917 - torch's
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002 - torch's
    momentum: float = 0.1,  # noqa: ARG001 - torch's
    eps: float = 1e-5,
) -> _Layer:
    normalize = lambda values: F.batch_norm(values, running_mean, running_var, eps=eps)  # noqa: E731
    return _Layer(inputs, {"weight": weight, "bias": bias}, None if training else _per_channel(normalize))


def _group_norm(
    inputs: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> _Layer:
    normalize = lambda values: F.group_norm(values, num_groups, eps=eps)  # noqa: E731
    return _Layer(inputs, {"weight": weight, "bias": bias}, _per_channel(normalize))


def _per_channel(normalize: Callable[[Tensor], Tensor]) -> Callable[[str, Tensor, Tensor], Tensor]:
    def summed(role: str, inputs: Tensor, gradients: Tensor) -> Tensor:
        products = gradients if role == "bias" else gradients * normalize(inputs)
        return _sum_of_squares(products.flatten(2).sum(dim=2) if products.ndim > 2 else products)

    return summed


def _layer_norm(
    inputs: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> _Layer:
    def summed(role: str, inputs: Tensor, gradients: Tensor) -> Tensor:
        products = gradients if role == "bias" else gradients * F.layer_norm(inputs, normalized_shape, eps=eps)
        positions = (
            products.flatten(1, -1 - len(normalized_shape))
            if products.ndim > 1 + len(normalized_shape)
            else (products.unsqueeze(1))
        )
        return _sum_of_squares(positions.sum(dim=1))

    return _Layer(inputs, {"weight": weight, "bias": bias}, summed)


def _sum_of_squares(gradients: Tensor) -> Tensor:
    """(B, ...) to (...)."""
    return gradients.square().sum(dim=0)


def _flat(values: Any) -> Iterator[Any]:
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (tuple, list)):
        yield values
        return
    for value in values:
        yield from _flat(value)


_LAYERS: dict[Any, Callable[..., _Layer]] = {
    F.linear: _linear,
    F.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
}
