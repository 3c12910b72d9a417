"""``panda-anomalib bank``: the normal images of a trained model, changed, listed and checked."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from panda_anomalib.commands import PROGRAM
from panda_anomalib.tools.parser import ToolParser

if TYPE_CHECKING:
    from panda_anomalib.bank import BankChange

__all__ = ["make_parser", "run"]

_MODEL = "results/Dn2/images/good/latest/weights/lightning/model.ckpt"
_SHOWN = 10  # paths in an answer to a person
_EXPORTS = ("torch/*.pt", "onnx/*.onnx", "openvino/*.xml")


class _ActionParser(ToolParser):
    """Parser of one action; refuses what it does not know itself, so that it can suggest its own options."""

    def __init__(self, *, example: str, description: str, **_: Any) -> None:
        super().__init__("bank", example)
        self.prog = f"{PROGRAM} bank {example.split()[2]}"
        self.description = description

    @override
    def parse_known_args(self, args: Any = None, namespace: Any = None, **options: Any) -> Any:
        found, unknown = super().parse_known_args(args, namespace, **options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def make_parser() -> ToolParser:
    """Parser of ``bank add|remove|list|check``."""
    parser = ToolParser("bank", f"{PROGRAM} bank add {_MODEL} new_images/")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_ActionParser)

    def action(name: str, example: str, description: str) -> ToolParser:
        example = f"{PROGRAM} bank {name} {_MODEL} {example}".rstrip()
        found: ToolParser = actions.add_parser(name, help=description, example=example, description=description)
        found.add_argument("model", metavar="MODEL", help="Checkpoint of a trained model.")
        return found

    add = action("add", "new_images/", "Add normal images; scorer and threshold are fitted again.")
    add.add_argument("images", metavar="IMAGES", nargs="+", help="Image files, or folders of them.")
    add.add_argument(
        "--duplicates",
        choices=["error", "skip", "keep"],
        default="error",
        help="Exact copies of images in the bank, or of each other: refuse them (default), leave them out, or add them "
        "as a fit from scratch would.",
    )
    remove = action("remove", "images/good/007.png 3fb2a9c1", "Remove images; their files need not exist any more.")
    remove.add_argument(
        "images",
        metavar="IMAGES",
        nargs="+",
        help="Paths of images in the bank, folders of them, or the first 8 or more digits of their hash.",
    )
    listing = action("list", "--first 20", "Print the images, most unusual first, with p-value, distance and hash.")
    listing.add_argument("--first", type=int, metavar="N", help="Only the N most unusual ones.")
    listing.add_argument("--csv", action="store_true", help="As CSV, with whole hashes.")
    action("check", "", "Check file, images, copies, weights, threshold; exit code 1 if something is wrong.")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; the exit code is 1 if a check found something wrong."""
    try:
        return _run(arguments)
    except BrokenPipeError:  # the reader has seen enough, as in ``bank list MODEL | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the end of the process would complain
        return 0


def _run(arguments: argparse.Namespace) -> int:
    if arguments.action == "list":
        return _list(arguments.model, arguments.first, csv=arguments.csv)
    if arguments.action == "check":
        return _check(arguments.model)
    from panda_anomalib.bank import add_images, remove_images

    if arguments.action == "add":
        _tell(add_images(arguments.model, arguments.images, duplicates=arguments.duplicates))
    else:
        _tell(remove_images(arguments.model, arguments.images))
    return 0


def _tell(change: "BankChange") -> None:
    if change.added:
        _say(f"Added {_count(change.added)}: the bank has grown from {change.before} to {_images(change.after)}.")
    elif change.removed:
        _say(f"Removed {_count(change.removed)}: the bank has shrunk from {change.before} to {_images(change.after)}.")
        _say_paths(change.removed)
    else:
        _say(f"Nothing to add: the bank has {_images(change.after)} as before.")
    if change.present:
        _say(f"In the bank already: {_count(change.present)}.")
    if change.left_out:
        _say(f"Left out, as exact copies: {_count(change.left_out)}.")
        _say_paths(change.left_out)
    if change.cleaned:
        _say(f"Left out of the bank by cleaning: {_count(change.cleaned)} of {change.after}, the most unusual first.")
        _say_paths(change.cleaned)
    if change.thresholds and (change.added or change.removed):
        _say("Threshold: {:.6g}, was {:.6g}.".format(*reversed(change.thresholds)))
    if change.embedding is not None:
        _say(_embedding(change))
    if change.conditions:
        _say(f"Not as in the fit: {change.conditions}; last digits may differ from those of a fit from scratch there.")
    if change.added or change.removed:
        _say(f"Written: {change.path}")
        _say_exports(change.path)


def _embedding(change: "BankChange") -> str:
    made = change.embedding
    if made is None:
        return ""
    how = f"Embeddings: by {made.runtime}, in batches of {made.batch_size}"
    if not made.num_compared:
        return f"{how}; no image of the bank is where it was, so they could not be compared with it."
    if made.difference == 0:
        return f"{how}, as in the fit: of {made.num_compared} images of the bank they came out bit for bit."
    return (
        f"{how}; of {made.num_compared} images of the bank they differ by up to {made.difference:.1e} of their length "
        "from those of the fit."
    )


def _say_exports(model: Path) -> None:
    folder = model.parent.parent if model.parent.name == "lightning" else model.parent / "weights"
    stale = [str(path) for pattern in _EXPORTS for path in sorted(folder.glob(pattern))]
    if stale:
        _say("Exported files have the bank as it was; export again:")
        _say_paths(stale)


def _list(model: str, first: int | None, *, csv: bool) -> int:
    if first is not None and first < 1:
        raise ValueError(f"first must be at least 1, got {first}.")
    from panda_anomalib.bank import list_images

    table = list_images(model)
    shown = table if first is None else table.head(first)
    if csv:
        shown.to_csv(sys.stdout, index=False)
        return 0
    _say(f"{'p-value':>8}  {'distance':>11}  {'sha256':12}  path")
    for row in shown.to_dict("records"):
        digest = str(row["sha256"])[:12] or "-"
        removed = "  (left out by cleaning)" if row["removed"] else ""
        _say(f"{row['p_value']:8.4f}  {row['distance']:11.6g}  {digest:12}  {row['path']}{removed}")
    return 0


def _check(model: str) -> int:
    from panda_anomalib.bank import check_bank

    findings = check_bank(model)
    for finding in findings:
        _say(f"{finding.level:5}  {finding.topic:9}  {finding.text}")
        _say_paths(finding.items, indent=18)
    return int(any(finding.level == "wrong" for finding in findings))


def _count(paths: Sequence[str]) -> str:
    return _images(len(paths))


def _images(count: int) -> str:
    return f"{count} image{'s' if count != 1 else ''}"


def _say_paths(paths: Sequence[str], indent: int = 2) -> None:
    for path in paths[:_SHOWN]:
        _say(f"{'':{indent}}{path}")
    if len(paths) > _SHOWN:
        _say(f"{'':{indent}}and {len(paths) - _SHOWN} more")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
