"""A share of images that was counted, and what it says of the share one would find in the long run."""

from dataclasses import dataclass

from scipy import stats

__all__ = ["Rate", "realised_rate"]


@dataclass(frozen=True)
class Rate:
    """A share in [0, 1] with its exact (Clopper-Pearson) 95 % interval, and the number of images behind it."""

    value: float
    low: float
    high: float
    num_images: int

    def verdict(self, asked: float) -> str:
        """In words: where the interval lies beside the rate that was asked for."""
        if self.low > asked:
            return "above what was asked"
        return "below what was asked" if self.high < asked else "as asked"


def realised_rate(value: float, num_images: int) -> Rate:
    """Interval of a share of distinct images.

    A mean over seeds that share their test images is given with the number of *distinct* images: scored five times,
    they are still the same.

    Args:
        value: The share, in [0, 1].
        num_images: Distinct images, at least 1.
    """
    interval = stats.binomtest(round(value * num_images), num_images).proportion_ci(method="exact")
    return Rate(value, float(interval.low), float(interval.high), num_images)
