"""Pooling of a feature map to one vector per image."""

from typing import Literal

from torch import Tensor

__all__ = ["PoolingName", "pool", "pooling_parts"]

PoolingName = Literal["default", "avg", "max", "gem", "avg+max"]

_EXPONENT = 3.0  # of generalised-mean pooling (Radenovic et al., arXiv:1711.02512)
_FLOOR = 1e-6  # GeM is defined for positive activations


def pooling_parts(name: PoolingName) -> list[str]:
    """Names of the single poolings whose results are concatenated.

    Raises:
        ValueError: If the name is unknown.
    """
    parts = name.split("+")
    if name not in ("default", "avg", "max", "gem", "avg+max"):
        raise ValueError(f"pooling must be default, avg, max, gem or avg+max, got {name!r}.")
    return parts


def pool(positions: Tensor, kind: str) -> Tensor:
    """Pool over positions: average, maximum, or generalised mean with exponent 3.

    Shapes: positions ``(B, P, C)``, result ``(B, C)``.
    """
    if kind == "max":
        return positions.amax(dim=1)
    if kind == "gem":
        return positions.clamp_min(_FLOOR).pow(_EXPONENT).mean(dim=1).pow(1 / _EXPONENT)
    return positions.mean(dim=1)
