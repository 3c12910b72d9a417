"""One job of a benchmark: a model, a data set and a seed."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from anomalib.utils.config import flatten_dict

__all__ = ["Job", "digest"]


@dataclass(frozen=True)
class Job:
    """What one row of the table is about.

    Attributes:
        accelerator: ``cpu`` or ``cuda``.
        seed: Of everything that is drawn.
        model: ``class_path`` and ``init_args`` of the model.
        data: The same of the datamodule, with the seed of its split.
        label: The model as the tables name it, unique in the benchmark.
        dataset: Name of the data set.
        category: Normal class, or category of the data set; empty where it has none.
    """

    accelerator: str
    seed: int
    model: dict[str, Any]
    data: dict[str, Any]
    label: str
    dataset: str
    category: str

    @property
    def job_id(self) -> str:
        """Hash of the configuration: what the job is called does not matter, what it does is all that counts."""
        return digest([self.accelerator, self.seed, self.model, self.data])

    @property
    def description(self) -> str:
        """One line for the progress: what runs on what."""
        on = f"{self.dataset} {self.category}".strip()
        return f"{self.label} on {on}, seed {self.seed}"

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of the row that are known before the job runs."""
        configuration = flatten_dict({"model": self.model, "data": self.data})
        plain = (str, int, float, type(None))
        return {
            "job_id": self.job_id,
            "model": self.label,
            "model_class": self.model["class_path"].rpartition(".")[2],
            "dataset": self.dataset,
            "category": self.category,
            "seed": self.seed,
            "accelerator": self.accelerator,
            **{name: value if isinstance(value, plain) else str(value) for name, value in configuration.items()},
        }


def digest(content: object) -> str:
    """16 hexadecimal digits that plain data has in common with equal data only."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
