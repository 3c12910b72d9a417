"""What a check is, and what it finds."""

import importlib.metadata
import importlib.util
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["Check", "Finding", "Status", "build_of", "install_command", "version_of"]

Status = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that is looked at, in a process of its own."""

    name: str
    function: str
    """``module:function``, which takes ``arguments`` and returns a `Finding` or several."""
    does: str = ""
    """What it is doing, as the user would say it; empty for what takes no time."""
    needs: tuple[str, ...] = ()
    """Checks without whose success this one says nothing new."""
    mend: str = ""
    """What helps when it raises what it does not expect, crashes, or never comes to an end."""
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's answer."""

    status: Status
    found: str
    mend: str = ""
    """What to do about it; a command where there is one."""
    check: str = ""
    seconds: float = 0.0


def install_command(*requirements: str, again: bool = False) -> str:
    """Command that installs into this environment, with pip where it has one and uv otherwise.

    Args:
        requirements: As in ``pip install``.
        again: Replace what is installed, also where it has the right version.
    """
    if version_of("pip") is not None:  # to look for the module makes setuptools disown distutils in this process
        command = [sys.executable, "-m", "pip", "install", *(["--force-reinstall"] if again else [])]
    else:
        command = ["uv", "pip", "install", "--python", sys.executable, *(["--reinstall"] if again else [])]
    return shlex.join([*command, *requirements])


def build_of(package: str) -> str | None:
    """Version of torch or torchvision with its build (``2.10.0+cpu``), without importing it; None if not installed."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        file = Path(folder) / "version.py"
        if file.is_file() and (
            match := re.search(r"^__version__ *(?:: *\w+ *)?= *['\"](.+)['\"]", file.read_text(), re.M)
        ):
            return match[1]
    return version_of(package)


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, None where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
