"""Names of the program and its subcommands; imports nothing heavy, see `panda_anomalib.cli`."""

import difflib
from collections.abc import Iterable

__all__ = ["EVALUATING", "FITTING", "PROGRAM", "SUBCOMMANDS", "TOOLS", "did_you_mean"]

PROGRAM = "panda-anomalib"
SUBCOMMANDS = {
    "train": "Fit a model on normal images and test it.",
    "fit": "Fit a model on normal images.",
    "test": "Measure a trained model on labelled images.",
    "predict": "Score images with a trained model.",
    "validate": "Run the validation of a trained model.",
    "export": "Write a trained model as Torch, ONNX or OpenVINO.",
    "benchmark": "Compare models on data sets from a configuration file.",
    "fisher": "Compute how much each weight of a backbone matters, for elastic weight consolidation.",
    "install": "Install the optional dependencies of anomalib.",
}
TOOLS: dict[str, str] = {
    "report": "Turn the results of benchmarks into a page to look at, and Markdown.",
}
"""Subcommands without a configuration file: each is a module of `panda_anomalib.tools`."""
FITTING = ("fit", "train")
EVALUATING = ("validate", "test", "predict")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """End of an error message: the nearest known word, if one is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."
