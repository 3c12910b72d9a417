"""``panda-anomalib benchmark``: compare models on data sets from a configuration file."""

import argparse
import sys
from pathlib import Path

from panda_anomalib.commands import PROGRAM, nearest_path
from panda_anomalib.tools.parser import ToolParser

__all__ = ["check", "make_parser", "run"]


def make_parser() -> ToolParser:
    """Parser of ``benchmark``."""
    parser = ToolParser("benchmark", f"{PROGRAM} benchmark --config configs/benchmark/quick.yaml")
    parser.add_argument(
        "-c", "--config", type=Path, required=True, metavar="FILE", help="models, data sets, classes and seeds"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="results; what is done there is not done again (default: as the file says, or runs/benchmark/<its name>)",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="so many at once, in processes of their own (default: 1)"
    )
    parser.add_argument(
        "--executor",
        choices=["processes", "ray"],
        default="processes",
        help="what runs them: processes of this machine, or Ray (extra: ray) (default: processes)",
    )
    parser.add_argument(
        "--share_embeddings",
        choices=["auto", "off"],
        help="whether jobs of a frozen network take its embeddings from one pass (default: as the file says, or auto)",
    )
    parser.add_argument(
        "--checks",
        choices=["auto", "off"],
        default="auto",
        help="near-duplicates, shuffled labels, sources of thresholds, sign of scores (default: auto)",
    )
    return parser


def check(arguments: argparse.Namespace) -> None:
    """Refuse a file that is not there before anything heavy is imported."""
    if not arguments.config.is_file():
        raise FileNotFoundError(
            f"config must be an existing file, got '{arguments.config}'{nearest_path(arguments.config)}"
        )


def run(arguments: argparse.Namespace) -> int:
    """Run the jobs, print what they gave; 1 if one has failed."""
    from panda_anomalib.benchmark.runner import run_benchmark
    from panda_anomalib.benchmark.summary import print_summary

    shares = None if arguments.share_embeddings is None else arguments.share_embeddings == "auto"
    folder, table = run_benchmark(
        arguments.config,
        output=arguments.output,
        share_embeddings=shares,
        processes=arguments.jobs,
        executor=arguments.executor,
        checks=arguments.checks == "auto",
    )
    print_summary(table, folder)
    if failed := int((table["status"] != "done").sum()):
        sys.stderr.write(f"error: {failed} of {len(table)} jobs failed; started again, they are tried again.\n")
    return int(failed > 0)
