"""Progress of long passes: a bar on a terminal, two log lines elsewhere."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

import rich
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["track"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_WORTH_A_LINE = 10.0  # seconds
_BETWEEN_LINES = 60.0  # seconds, in logs


def track(items: Iterable[T], description: str, total: int | None = None, *, after: float = 0.0) -> Iterator[T]:
    """Hand on ``items`` and show how far they are, never on standard output.

    A bar on standard error when that is a terminal (description, bar, done and total, time left). Otherwise a log line
    at the start, and one at the end of what took more than ten seconds. Only the first of several processes shows it.

    Args:
        items: What is worked through.
        description: What is done, as the user would say it.
        total: Number of items; by default that of ``items``, where it has one.
        after: Seconds for which nothing is shown: for passes that are mostly short.

    Yields:
        The items.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if os.environ.get("LOCAL_RANK", "0") != "0":  # set by Lightning and torchrun alike
        yield from items
    elif sys.stderr.isatty():
        yield from _drawn(items, description, total, after)
    else:
        yield from _logged(items, description, total, after)


def _drawn(items: Iterable[T], description: str, total: int | None, after: float) -> Iterator[T]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # The command line draws everything on one console: a bar inside another, log lines above both.
    shared = rich.get_console()
    progress = Progress(*columns, console=shared if shared.stderr else Console(stderr=True))
    task = progress.add_task(description, total=total)
    start = time.monotonic()
    try:
        for item in items:
            if not progress.live.is_started and time.monotonic() - start >= after:
                progress.start()
            yield item
            progress.advance(task)
    finally:
        progress.stop()


def _logged(items: Iterable[T], description: str, total: int | None, after: float) -> Iterator[T]:
    start = time.monotonic()
    done, next_line = 0, start + after
    for item in items:
        if (now := time.monotonic()) >= next_line:
            next_line = now + _BETWEEN_LINES
            reached = f"{done} of {total}" if total is not None else f"{done} done" if done else "started"
            logger.info("%s: %s.", description, reached)
        yield item
        done += 1
    if (seconds := time.monotonic() - start) > _WORTH_A_LINE:
        logger.info("%s: %d done in %.0f s.", description, done, seconds)
