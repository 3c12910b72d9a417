"""The loggers of our hosts, and less of what they say."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LIGHTNING_LOGGERS", "host_warnings_only"]

LIGHTNING_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "pytorch_lightning")


@contextmanager
def host_warnings_only() -> Iterator[None]:
    """Leave out what Lightning and anomalib tell at each run: devices, callbacks, durations."""
    loggers = [logging.getLogger(name) for name in (*LIGHTNING_LOGGERS, "anomalib")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
