"""Numbers as the report prints them."""

import math

__all__ = ["interval", "mean_and_spread", "mebibytes", "p_value", "percent", "points", "seconds"]

_NONE = "-"


def percent(share: float, digits: int = 2) -> str:
    """``0.92164`` -> ``92.16``; the unit stands in the table's caption."""
    return _NONE if math.isnan(share) else f"{100 * share:.{digits}f}"


def mean_and_spread(mean: float, spread: float) -> str:
    """``92.26 ± 0.85``, or the mean alone where there is no spread."""
    return percent(mean) if math.isnan(spread) else f"{percent(mean)} ± {percent(spread)}"


def interval(low: float, high: float, digits: int = 1) -> str:
    """``91.2 to 93.1``: a dash would look like a minus."""
    return f"{percent(low, digits)} to {percent(high, digits)}"


def points(difference: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * difference:+.2f}".replace("-", "\N{MINUS SIGN}")


def p_value(p: float) -> str:
    """Three digits, and never 0."""
    if math.isnan(p):
        return "undefined"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seconds(value: float) -> str:
    """Three digits below a minute, then minutes and hours."""
    if math.isnan(value):
        return _NONE
    if value < 60:
        return f"{value:.3g} s"
    return f"{value / 60:.1f} min" if value < 3600 else f"{value / 3600:.1f} h"


def mebibytes(value: float) -> str:
    """MiB, or GiB from one on."""
    if math.isnan(value):
        return _NONE
    return f"{value:.3g} MiB" if value < 1024 else f"{value / 1024:.2f} GiB"
