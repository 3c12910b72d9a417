"""A benchmark whose table can be trusted: no row is lost, and no failure is passed over.

Importing this package imports nothing heavy: the runner, and anomalib with it, is loaded when a name is first used,
so that the report on results answers at once, also where anomalib is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from panda_anomalib.benchmark.configuration import read_configuration as read_configuration
    from panda_anomalib.benchmark.runner import run_benchmark as run_benchmark

__all__ = ["read_configuration", "run_benchmark"]

_HOME = {"read_configuration": "configuration", "run_benchmark": "runner"}


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names are {', '.join(__all__)}.")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
