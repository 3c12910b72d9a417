"""Tasks on Ray: on this machine, or on a cluster whose machines see the same data and results folders."""

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from panda_anomalib.benchmark.outcome import Outcome
from panda_anomalib.benchmark.tasks import Finished, Task, attempt

__all__ = ["RayTasks"]


class RayTasks:
    """Runs tasks as Ray's, in a cluster that ``RAY_ADDRESS`` names, or else one of its own on this machine.

    Args:
        count: How many tasks share the processors of a machine; a task gets an equal part of them.

    Raises:
        ValueError: If Ray is not installed.
    """

    def __init__(self, count: int) -> None:
        if find_spec("ray") is None:
            raise ValueError("executor must be processes, got 'ray', which is not installed; panda-anomalib[ray] is.")
        self._processors = max(1, (os.cpu_count() or 1) // count)

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Finished]:
        """Outcomes in the order in which tasks end; a task whose process dies has failed."""
        import ray

        if not tasks:
            return
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        remote: Any = ray.remote(num_cpus=self._processors, max_retries=0)(_run)
        waiting = {remote.remote(task, self._processors): task for task in tasks}
        while waiting:
            (reference,), _ = ray.wait(list(waiting), num_returns=1)
            job, _ = waiting.pop(reference)
            try:
                finished: Finished = ray.get(reference)
            except ray.exceptions.RayError as error:
                reason = f"RuntimeError: the process of the job died ({' '.join(str(error).split())[:200]})"
                finished = job, Outcome.failure(reason, f"{error}\n", 0.0), ""
            yield finished


def _run(task: Task, processors: int) -> Finished:
    import torch

    torch.set_num_threads(processors)
    return attempt(task)
