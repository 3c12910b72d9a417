"""Names as parts of addresses and file names."""

import re

__all__ = ["anchor"]


def anchor(name: str) -> str:
    """The name in small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
