"""The loggers of our hosts, and less of what they say."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LIGHTNING_LOGGERS", "each_warning_once", "host_warnings_only", "warnings_only"]

LIGHTNING_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "pytorch_lightning")


@contextmanager
def host_warnings_only() -> Iterator[None]:
    """Leave out what Lightning and anomalib tell at each run: devices, callbacks, durations."""
    with _warnings_of(*LIGHTNING_LOGGERS, "anomalib"):
        yield


@contextmanager
def warnings_only() -> Iterator[None]:
    """Leave out what this package tells at each run, too: one of many runs is worth one line."""
    with _warnings_of(*LIGHTNING_LOGGERS, "anomalib", __package__):
        yield


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Show a warning that many runs repeat word for word at its first time only."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        message = record.getMessage()
        known = message in seen
        seen.add(message)
        return not known

    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(is_new)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_new)


@contextmanager
def _warnings_of(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
