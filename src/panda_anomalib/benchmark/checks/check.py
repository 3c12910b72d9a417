"""What a check says."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Check", "Status"]

Status = Literal["ok", "warning", "failed", "not run"]


@dataclass(frozen=True)
class Check:
    """Result of one check on one class of a data set, see `panda_anomalib.benchmark.schema`.

    Attributes:
        name: What was checked.
        status: ``failed`` where numbers are wrong, ``warning`` where they must be read with care.
        value: The number behind it, if there is one.
        text: What was found, in a sentence.
        pictures: Relative to the folder of results.
    """

    name: str
    status: Status
    value: float | int | None
    text: str
    pictures: list[str] = field(default_factory=list)

    def entry(self, dataset: str, category: str) -> dict[str, Any]:
        """Entry of ``checks.json``."""
        return {**asdict(self), "dataset": dataset, "category": category}
