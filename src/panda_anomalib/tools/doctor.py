"""``panda-anomalib doctor``: what is wrong with this installation, and how to mend it."""

import argparse

from panda_anomalib.tools.parser import ToolParser

__all__ = ["USES_HOST", "make_parser", "run"]

USES_HOST = False
"""It must answer where anomalib cannot be imported."""


def make_parser() -> ToolParser:
    """Parser of ``doctor``."""
    parser = ToolParser("doctor", "panda-anomalib doctor --json > report.json")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output, for bug reports")
    parser.add_argument(
        "--default_root_dir", default="results", metavar="FOLDER", help="where results would go (default: results)"
    )
    parser.add_argument(
        "--limit", type=_seconds, default=180, metavar="SECONDS", help="stop a check that takes longer (default: 180)"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Make all checks and print what they find; 0 if the package works, 1 if it does not."""
    from panda_anomalib.doctor.report import print_examination

    return print_examination(arguments.default_root_dir, limit=arguments.limit, as_json=arguments.json)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text!r}")
    return seconds
