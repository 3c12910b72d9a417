"""Files that are there whole or not at all, and folders that can take them; imports nothing heavy."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

__all__ = ["check_writable", "try_folder", "unwritable", "write_atomically"]


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary name beside ``path``, then move it there: readers never see half a file."""
    temporary = path.with_name(f".{uuid4().hex}{path.suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def try_folder(folder: Path) -> Path:
    """Write into a folder, or into the first above it that exists: permission bits say little (network drives, root).

    Returns:
        The folder that was tried.

    Raises:
        OSError: As the operating system has it.
    """
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=existing) as file:
        file.write(b"0")
    return existing


def check_writable(folder: Path, argument: str) -> None:
    """Refuse a folder for results before the work, without making it.

    Raises:
        OSError: With the name of the argument, and what is wrong.
    """
    try:
        try_folder(folder)
    except OSError as error:
        raise OSError(unwritable(folder, error, argument)) from error


def unwritable(folder: str | Path, error: OSError, argument: str = "default_root_dir") -> str:
    """What to say of a folder for results that cannot be made or written to."""
    return (
        f"{argument} must be a folder one can write to, got '{folder}' ({error.strerror or error}); choose another "
        f"{argument}."
    )
