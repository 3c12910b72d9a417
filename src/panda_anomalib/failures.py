"""Which errors a user can cause, in one line; imports nothing heavy.

What our own code refuses, here or in a loading process, tells what to do already. What the operating system refuses
(no permission, full disk, missing path) is the user's, too, whoever's code meets it.
"""

import errno
import re
from pathlib import Path

__all__ = ["describe_failure"]

_PACKAGE = str(Path(__file__).parent)
_FULL = {errno.ENOSPC, errno.EFBIG, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else [])}
_REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
}
_WRITING_STOPPED = "|".join(
    (
        r"PytorchStreamWriter failed",
        r"inline_container\.cc.*unexpected pos",
        r"\(os error (28|27|122)\)",
        r"\d+ requested and \d+ written",
    )
)
"""How torch, safetensors and numpy call a full disk."""
_TEMPORARY = r"\.[0-9a-f]{32}.*"  # of write_atomically, which means nothing to a user


def describe_failure(error: Exception) -> str | None:
    """The message of an error that is not one of code; None of all others, which deserve their traceback."""
    if "Original Traceback" in str(error):  # a DataLoader worker hands its traceback over as text
        frames = re.findall(r'^  File "(.+)", line \d+, in ', str(error), flags=re.MULTILINE)
        last_line = str(error).strip().splitlines()[-1]
        return last_line.partition(": ")[2] if frames and frames[-1].startswith(_PACKAGE) else None
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    ours = frame is not None and frame.tb_frame.f_code.co_filename.startswith(_PACKAGE)
    if (isinstance(error, OSError) and error.errno in _FULL) or re.search(_WRITING_STOPPED, str(error)):
        return f"disk must have room, got none while writing{_named(error)}; free some, or write to another disk."
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return f"file or folder must be accessible, got {error.strerror}{_named(error)}; check path and permissions."
    return str(error) if ours else None


def _named(error: Exception) -> str:
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if not name:
        return ""
    path = Path(str(name))
    return f" '{path.parent if re.fullmatch(_TEMPORARY, path.name) else path}'"
