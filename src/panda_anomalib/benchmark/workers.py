"""Tasks in several processes on this machine; one that dies takes one job with it."""

import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from panda_anomalib.benchmark.outcome import Outcome
from panda_anomalib.benchmark.tasks import Finished, Task, attempt

__all__ = ["Workers"]


@dataclass
class _Worker:
    process: SpawnProcess
    connection: "Connection[Any, Any]"
    task: Task | None = None


class Workers:
    """Runs tasks in processes of their own, which divide the processors among them.

    Args:
        count: Number of processes.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._context = multiprocessing.get_context("spawn")  # a fork would copy the threads of libraries half

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Finished]:
        """Outcomes in the order in which tasks end; a task whose process dies has failed."""
        waiting = list(reversed(tasks))
        workers = [self._start() for _ in range(min(self._count, len(waiting)))]
        try:
            for worker in workers:
                _hand_over(worker, waiting)
            while any(worker.task for worker in workers):
                ready = wait([worker.connection for worker in workers if worker.task])
                for number, worker in enumerate(workers):
                    if worker.connection not in ready or worker.task is None:
                        continue
                    job = worker.task[0]
                    try:
                        finished: Finished = worker.connection.recv()
                    except (EOFError, OSError):  # the other end is gone, maybe in the middle of a message
                        worker.process.join()
                        error = f"RuntimeError: the process of the job died (exit code {worker.process.exitcode})"
                        finished = job, Outcome.failure(error, f"{error}\n", 0.0), ""
                        worker = workers[number] = self._start() if waiting else worker  # noqa: PLW2901 - its successor
                    _hand_over(worker, waiting)
                    yield finished
        finally:
            for worker in workers:
                worker.connection.close()
                worker.process.terminate()
            for worker in workers:
                worker.process.join()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        threads = max(1, (os.cpu_count() or 1) // self._count)
        process = self._context.Process(target=_serve, args=(theirs, threads))
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        return _Worker(process, ours)


def _hand_over(worker: _Worker, waiting: list[Task]) -> None:
    worker.task = waiting.pop() if waiting else None
    if worker.task is not None:
        worker.connection.send(worker.task)


def _serve(connection: "Connection[Any, Any]", threads: int) -> None:
    """What a process does until nobody is at the other end."""
    import faiss
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that has started this one, which ends it

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    logging.basicConfig(level=logging.ERROR)
    while True:
        try:
            task: Task = connection.recv()
        except EOFError:
            return
        connection.send(attempt(task))
