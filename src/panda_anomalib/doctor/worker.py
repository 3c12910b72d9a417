"""The process in which checks run: a line of JSON in for each, a line of JSON out with what it found."""

import contextlib
import dataclasses
import faulthandler
import importlib
import json
import os
import traceback
from pathlib import Path
from typing import Any

from panda_anomalib.doctor.findings import Finding

__all__ = ["serve"]


def serve() -> None:
    """Answer requests until there are no more."""
    faulthandler.enable()  # a crash, or the signal that ends a check that hangs, then says where
    with contextlib.suppress(ImportError):  # on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print is no answer
    with open(os.devnull) as nothing:  # noqa: PTH123 - a device
        os.dup2(nothing.fileno(), 0)
    for line in requests:
        findings = [dataclasses.asdict(finding) for finding in _examine(**json.loads(line))]
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(findings) + "\n")
            answers.flush()


def _examine(function: str, mend: str, arguments: dict[str, Any]) -> list[Finding]:
    module, _, name = function.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)(**arguments)
    except Exception as error:  # noqa: BLE001 - of any kind: it is what was found
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error).strip().splitlines() or ["no message"]
        return [
            Finding(
                "error",
                f"{type(error).__name__}: {text[0]} (in {Path(place.filename).name}, line {place.lineno})",
                mend,
            )
        ]
    return [found] if isinstance(found, Finding) else list(found)
