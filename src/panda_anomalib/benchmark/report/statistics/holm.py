"""Several tests at once (Holm 1979): the chance of even one false finding stays below the level."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["holm"]


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values, in the given order; undefined ones stay so and still count as tests."""
    given = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(given), np.nan)
    order = np.argsort(given, kind="stable")[: np.isfinite(given).sum()]  # NaN sorts last
    factors = len(given) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1.0)
    return adjusted
