"""``panda-anomalib report``: results of benchmarks as a page to look at."""

import argparse
import sys
from pathlib import Path

from panda_anomalib.tools.parser import ToolParser

__all__ = ["USES_HOST", "make_parser", "run"]

USES_HOST = False
"""It reads files; importing anomalib would take longer than the report."""


def make_parser() -> ToolParser:
    """Parser of ``report``."""
    parser = ToolParser("report", "panda-anomalib report runs/benchmark/quick --output report")
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="results of a benchmark (results.csv and jobs/); several are put together",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where report.html and report.md go; an earlier report there is replaced (default: report in the first "
        "results folder)",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Write the report, and say where it is and what it cautions against."""
    from panda_anomalib.benchmark.report import write_report

    written = write_report(arguments.folders, arguments.output)
    lines = [written.lead, *(f"{notice.level}: {notice.text}" for notice in written.notices)]
    sys.stdout.write("\n".join([*lines, f"{written.html}", f"{written.markdown}", ""]))
    return 0
