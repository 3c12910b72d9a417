"""Names of the program and its subcommands; imports nothing heavy, see `panda_anomalib.cli`."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "EVALUATING",
    "FITTING",
    "PROGRAM",
    "SUBCOMMANDS",
    "TOOLS",
    "UnknownNameError",
    "did_you_mean",
    "nearest_path",
    "unknown_option",
]

PROGRAM = "panda-anomalib"

SUBCOMMANDS = {
    "train": "Fit a model on normal images and test it.",
    "fit": "Fit a model on normal images.",
    "test": "Measure a trained model on labelled images.",
    "predict": "Score images with a trained model.",
    "validate": "Run the validation of a trained model.",
    "export": "Write a trained model as Torch, ONNX or OpenVINO.",
    "fisher": "Compute how much each weight of a backbone matters, for elastic weight consolidation.",
    "install": "Install the optional dependencies of anomalib.",
}
TOOLS: dict[str, str] = {
    "detect": "Fit on a folder of normal images and score the images of another, in one command.",
    "bank": "Add images to the normal images of a trained model, remove, list or check them, without training again.",
    "app": "Look at a trained model in the browser: drop images, sort a folder by score.",
    "doctor": "Find out what is wrong with this installation, and how to mend it.",
    "benchmark": "Compare models on data sets from a configuration file.",
    "report": "Turn the results of benchmarks into a page to look at, and Markdown.",
    "figure": "Draw a study of a benchmark: a metric over whatever varies, beside the papers' values.",
    "tsne": "Draw the embeddings of a data set in two dimensions, normal and anomalous images.",
}
"""Subcommands that are not anomalib's: each is a module of `panda_anomalib.tools`."""
FITTING = ("fit", "train")
EVALUATING = ("validate", "test", "predict")


class UnknownNameError(ValueError):
    """A name that does not exist; the command line ends with the exit code of wrong arguments then."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """End of an error message: the nearest known word, if one is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def unknown_option(option: str, known: Iterable[str], of: str = "") -> str:
    """The whole message about an option that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(option, list(known), n=1)
    return f"unknown option {option}{of}{f'; did you mean {near[0]}?' if near else '.'}"


def nearest_path(path: Path) -> str:
    """End of an error message about a path that does not exist: one that does, if there is one of nearly that name."""
    for parent in path.parents:
        if os.access(parent, os.R_OK):
            missing, *rest = path.relative_to(parent).parts
            near = difflib.get_close_matches(missing, [entry.name for entry in parent.iterdir()], n=1)
            found = parent.joinpath(*near, *rest)
            return f"; did you mean '{found}'?" if near and found.exists() else "; check it."
    return "; check it."
