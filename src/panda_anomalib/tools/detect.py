"""``panda-anomalib detect``: a folder of normal images and a folder of others in, verdicts and a model out."""

import argparse
import contextlib
import io
import sys
from pathlib import Path
from typing import Any

from panda_anomalib.commands import PROGRAM, nearest_path
from panda_anomalib.quiet import host_warnings_only
from panda_anomalib.tools.parser import ToolParser

__all__ = ["make_parser", "run"]


def make_parser() -> ToolParser:
    """Parser of ``detect``."""
    parser = ToolParser("detect", f"{PROGRAM} detect --normal good --images new --false_positive_rate 0.01")
    known = parser.add_mutually_exclusive_group(required=True)
    images: dict[str, Any] = {"nargs": "+", "type": _existing, "metavar": "PATH"}
    known.add_argument("--normal", **images, help="folder of normal images (or images) to fit on")
    known.add_argument("--model", type=_existing, metavar="CKPT", help="model of an earlier run, instead of --normal")
    parser.add_argument("--images", required=True, **images, help="folder of images (or images) to score; no labels")
    parser.add_argument("--output", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    parser.add_argument(
        "--false_positive_rate",
        type=_rate,
        metavar="RATE",
        help="share of normal images that may be called anomalous (default: 0.05, or as the model has it)",
    )
    parser.add_argument("--pictures", choices=["all", "flagged", "none"], default="all", help="default: all")
    parser.add_argument(
        "--on_corrupt", choices=["error", "skip"], default="error", help="images that cannot be read (default: error)"
    )
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="timm's name (default: %(default)s)")
    parser.add_argument(
        "--weights", default="default", help="default, packaged, random, or a file (default: %(default)s)"
    )
    parser.add_argument("--num_neighbors", type=int, metavar="K", help="normal images that count (default: 2)")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Detect, and print what was found."""
    from panda_anomalib.callbacks import StepProgressBar
    from panda_anomalib.detection import describe, detect

    # our summary says what that of a prediction says on standard output
    with host_warnings_only(), contextlib.redirect_stdout(io.StringIO()):
        detection = detect(**vars(arguments), callbacks=[StepProgressBar()])
    sys.stdout.write(describe(detection))
    return 0


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"must exist, got '{path}'{nearest_path(path)}")
    return path


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}; 0.05 is usual.")
    return rate
