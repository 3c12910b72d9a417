"""Making checks one after the other, none of which can stop the others."""

import contextlib
import dataclasses
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import IO, Any

from panda_anomalib.doctor.findings import Check, Finding

__all__ = ["examine"]

_START = "import sys; sys.path[:] = sys.argv[1:]; from panda_anomalib.doctor.worker import serve; serve()"
_BUG_REPORT = "the output of this command with --json belongs in a bug report"


def examine(
    checks: Iterable[Check],
    *,
    limit: float = 180.0,
    started: Callable[[Check], object] = lambda _: None,
) -> Iterator[Finding]:
    """Make checks in a process beside this one, and start it again when a check has crashed or was stopped.

    Args:
        checks: In order; one whose ``needs`` have failed is not made.
        limit: Seconds after which a check is stopped and reported as hanging.
        started: Called before each check is made.

    Yields:
        What was found, at least one finding for each check.
    """
    broken: set[str] = set()
    with _Worker() as worker:
        for check in checks:
            start = time.monotonic()
            if missing := [name for name in check.needs if name in broken]:
                findings = [Finding("skipped", f"not checked: it needs {' and '.join(missing)}, which failed")]
            else:
                started(check)
                findings = worker.run(check, limit)
            seconds = round(time.monotonic() - start, 2)
            if any(finding.status in ("error", "skipped") for finding in findings):
                broken.add(check.name)
            for finding in findings:
                yield dataclasses.replace(finding, check=check.name, seconds=seconds)


class _Worker:
    """The other process, started when a check needs it. Its end is its whole group's, compilers and loaders too."""

    def __init__(self) -> None:
        self._process: Any = None  # a Popen, whose streams are known to be there
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._said: deque[str] = deque(maxlen=400)

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, check: Check, limit: float) -> list[Finding]:
        process = self._process or self._start()
        self._said.clear()
        request = {"function": check.function, "mend": check.mend, "arguments": dict(check.arguments)}
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=limit)
        except BrokenPipeError:
            answer = None
        except queue.Empty:
            self._stop(asking_where=True)
            return [Finding("error", f"stopped: no answer within {limit:g} s{self._place()}", _mend(check))]
        if answer is None:
            self._stop(grace=3)
            return [Finding("error", f"crashed: {_ending(process.returncode)}{self._place()}", _mend(check))]
        return [Finding(**finding) for finding in json.loads(answer)]

    def _start(self) -> Any:
        self._answers = queue.Queue()
        process: Any = subprocess.Popen(  # noqa: S603 - this very Python
            [sys.executable, "-c", _START, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._process = process
        answers, said = self._answers, self._said
        self._readers = (
            _in_background(process.stdout, answers.put, lambda: answers.put(None)),
            _in_background(process.stderr, said.append, lambda: None),
        )
        return process

    def _stop(self, *, asking_where: bool = False, grace: float = 0.0) -> None:
        """End the process and what it has started.

        Args:
            asking_where: Have it dump the stack that Python is at.
            grace: Seconds in which it may end by itself.
        """
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
        if hasattr(os, "killpg"):
            if asking_where and process.poll() is None:
                process.send_signal(signal.SIGABRT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=3)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        for thread in self._readers:
            thread.join(timeout=3)
        if any(thread.is_alive() for thread in self._readers):
            return  # something that left the group holds the other ends: to close ours would wait for it
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):  # a request that could not be written any more
                stream.close()

    def _place(self) -> str:
        """Where Python was, if it has dumped its stack."""
        dump = r"^Current thread .*\n(?: +Garbage-collecting\n)? +File \"(.+)\", line (\d+) in (.+)$"
        if place := re.search(dump, "".join(self._said), re.MULTILINE):
            return f", in {place[3]} ({place[1]}, line {place[2]})"
        return ""


def _in_background(stream: IO[str], each: Callable[[str], Any], end: Callable[[], Any]) -> threading.Thread:
    def read() -> None:
        for line in stream:
            each(line)
        end()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _ending(code: int) -> str:
    if code >= 0:
        return f"the process ended with code {code}"
    name = signal.Signals(-code).name
    meaning = {
        "SIGILL": ": the processor lacks an instruction that a package was built for",
        "SIGKILL": ": killed, most likely for want of memory",
        "SIGBUS": ": most likely no room in memory or in /dev/shm",
    }
    return f"signal {name}{meaning.get(name, '')}"


def _mend(check: Check) -> str:
    return f"{check.mend} (else {_BUG_REPORT})" if check.mend else _BUG_REPORT
