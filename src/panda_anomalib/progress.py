"""Progress of long passes: a bar on a terminal, two log lines elsewhere."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["track"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_WORTH_A_LINE = 10.0  # seconds


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Hand on ``items`` and show how far they are, never on standard output.

    A bar on standard error when that is a terminal (description, bar, done and total, time left). Otherwise a log line
    at the start, and one at the end of what took more than ten seconds. Only the first of several processes shows it.

    Args:
        items: What is worked through.
        description: What is done, as the user would say it.
        total: Number of items; by default that of ``items``, where it has one.

    Yields:
        The items.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if os.environ.get("LOCAL_RANK", "0") != "0":  # set by Lightning and torchrun alike
        yield from items
    elif sys.stderr.isatty():
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield from progress.track(items, total=total, description=description)
    else:
        yield from _logged(items, description, total)


def _logged(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    logger.info("%s: %s.", description, "started" if total is None else f"0 of {total}")
    start = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):  # noqa: B007 - the count is wanted after the loop
        yield item
    if (seconds := time.monotonic() - start) > _WORTH_A_LINE:
        logger.info("%s: %d done in %.0f s.", description, done, seconds)
