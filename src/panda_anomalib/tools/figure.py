"""``panda-anomalib figure``: a study of a benchmark as a picture."""

import argparse
import sys
from pathlib import Path

from panda_anomalib.commands import PROGRAM
from panda_anomalib.tools.parser import ToolParser

__all__ = ["USES_HOST", "make_parser", "paper_curve", "run"]

USES_HOST = False
"""It reads tables; importing anomalib would take longer than drawing."""


def make_parser() -> ToolParser:
    """Parser of ``figure``."""
    parser = ToolParser("figure", f"{PROGRAM} figure runs/benchmark/dn2_fig5_train_images --x num_train")
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="results of a benchmark (several are put together), or collapse.csv of one or several runs",
    )
    parser.add_argument(
        "--x", metavar="COLUMN", help="what is along the axis, such as num_train (default: what varies most)"
    )
    parser.add_argument(
        "--by", metavar="COLUMN", nargs="+", help="what each line is of (default: what else tells jobs apart)"
    )
    parser.add_argument("--metric", metavar="COLUMN", default="image_AUROC", help="default: image_AUROC")
    parser.add_argument("--kind", choices=["curve", "bars", "heat"], help="default: what x asks for")
    parser.add_argument(
        "--paper",
        action="append",
        type=paper_curve,
        default=[],
        metavar="NAME=VALUES",
        help="published values in percent, dashed: 'kNN=92.52', or by x: 'K-means=1:91.94,3:92.00'; can be repeated",
    )
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="default: in the folder figures of the results")
    return parser


def paper_curve(text: str) -> tuple[str, dict[float | None, float]]:
    """Name and values of ``NAME=VALUE`` or ``NAME=X:VALUE,X:VALUE``.

    Raises:
        argparse.ArgumentTypeError: If it is neither.
    """
    name, _, values = text.rpartition("=")
    try:
        if ":" not in values:
            return _named(name), {None: float(values)}
        pairs = [pair.split(":") for pair in values.split(",")]
        return _named(name), {float(x): float(value) for x, value in pairs}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE or NAME=X:VALUE,X:VALUE, got {text!r}") from error


def _named(name: str) -> str:
    if not name.strip():
        raise ValueError(name)
    return name.strip()


def run(arguments: argparse.Namespace) -> int:
    """Draw, and say what was drawn and where it is."""
    from panda_anomalib.benchmark.figures import draw_collapse_runs, draw_results

    if all(path.suffix == ".csv" and path.name != "results.csv" for path in arguments.results):
        drawn = draw_collapse_runs(arguments.results, arguments.output)
    else:
        drawn = draw_results(
            [path.parent if path.name == "results.csv" else path for path in arguments.results],
            x=arguments.x,
            by=arguments.by,
            metric=arguments.metric,
            kind=arguments.kind,
            paper=dict(arguments.paper),
            output=arguments.output,
        )
    sys.stdout.write("\n".join([*drawn.lines, str(drawn.picture), str(drawn.table), ""]))
    return 0
