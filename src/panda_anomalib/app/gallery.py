"""The images that were inspected since the server was started, most anomalous first."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panda_anomalib.scoring import ImageInspector

__all__ = ["Entry", "Gallery"]


@dataclass(frozen=True)
class Entry:
    """An image and the verdict on it."""

    number: int
    path: Path
    name: str
    """As the user knows it: of a file that was dropped, or inside its folder."""
    row: dict[str, Any]
    """Row of ``PredictionTable``."""

    @property
    def flagged(self) -> bool:
        """Whether it is called anomalous."""
        return bool(self.row["predicted_label"])


class Gallery:
    """Inspects images and remembers the verdicts, and what was wrong with files that are no images.

    Args:
        inspector: The model.
    """

    def __init__(self, inspector: ImageInspector) -> None:
        self.inspector = inspector
        self.problems: dict[str, str] = {}
        """What is wrong, by name of the file."""
        self._entries: dict[Path, Entry] = {}
        self._next = 1
        self._lock = threading.Lock()

    def add(self, path: Path, name: str) -> Entry | str:
        """Inspect an image; one that was inspected before is inspected again, and keeps its number.

        Returns:
            The entry; or what is wrong with the file, which then is one of ``problems``.
        """
        try:
            row = self.inspector.inspect(path)
        except (FileNotFoundError, ValueError) as error:
            return self.refuse(name, str(error).replace(str(path), name))
        with self._lock:
            self.problems.pop(name, None)
            before = self._entries.get(path)
            entry = Entry(before.number if before else self._next, path, name, row)
            self._next += before is None
            self._entries[path] = entry
        return entry

    def refuse(self, name: str, reason: str) -> str:
        """Remember what is wrong with a file, and return it."""
        with self._lock:
            self.problems[name] = reason
        return reason

    def entries(self) -> list[Entry]:
        """All of them, most anomalous first."""
        with self._lock:
            return sorted(self._entries.values(), key=lambda entry: (-entry.row["distance"], entry.name))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self.problems.clear()
