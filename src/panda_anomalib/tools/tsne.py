"""``panda-anomalib tsne``: the embeddings of a data set as a picture."""

import argparse
import sys
from pathlib import Path
from typing import Any

from panda_anomalib.commands import PROGRAM, nearest_path
from panda_anomalib.tools.parser import ToolParser

__all__ = ["check", "make_parser", "run"]


def make_parser() -> ToolParser:
    """Parser of ``tsne``."""
    parser = ToolParser("tsne", f"{PROGRAM} tsne --config configs/paper/dn2_fig6_tsne_small.yaml")
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        help="sections model and data, each with class_path and init_args, as for train; of the test images",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE.ckpt", help="a trained model, in the place of the section model"
    )
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="of the images, in the place of the file's")
    parser.add_argument(
        "--normal_class", nargs="+", metavar="CLASS", help="a panel for each, in the place of the file's"
    )
    parser.add_argument("--per_class", type=int, default=200, metavar="N", help="test images of a class (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of t-SNE")
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="default: runs/tsne/<name of the config>.png")
    return parser


def check(arguments: argparse.Namespace) -> None:
    """Refuse files that are not there before anything heavy is imported."""
    for option in ("config", "checkpoint"):
        path = getattr(arguments, option)
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"{option} must be an existing file, got '{path}'{nearest_path(path)}")
    if arguments.per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {arguments.per_class}.")


def run(arguments: argparse.Namespace) -> int:
    """Embed, draw, and say where it is."""
    from panda_anomalib.benchmark.figures.tsne import draw_tsne, embed_test_images
    from panda_anomalib.benchmark.sections import build_model
    from panda_anomalib.models.base import DetectorMixin
    from panda_anomalib.models.loading import load_model
    from panda_anomalib.registration import register

    register()
    sections = _sections(arguments)
    data, normal_classes = _data(sections["data"])
    if arguments.checkpoint is not None:
        model: Any = load_model(arguments.checkpoint)
    else:
        model = build_model(sections["model"])
    if not isinstance(model, DetectorMixin):
        raise ValueError(f"model must be one of ours, got {type(model).__name__}, whose embeddings are not known.")
    embeddings = embed_test_images(model, data, arguments.per_class)
    output = arguments.output or Path("runs/tsne") / f"{arguments.config.stem}.png"
    title = f"{data.name}, {model.model.backbone.name}"
    drawn = draw_tsne(embeddings, normal_classes, output, seed=arguments.seed, title=title)
    sys.stdout.write("\n".join([*drawn.lines, str(drawn.picture), str(drawn.table), ""]))
    return 0


def _sections(arguments: argparse.Namespace) -> dict[str, Any]:
    import yaml

    content = yaml.safe_load(arguments.config.read_text(encoding="utf-8"))
    needed = ["data"] if arguments.checkpoint is not None else ["model", "data"]
    for part in needed:
        section = content.get(part) if isinstance(content, dict) else None
        if not isinstance(section, dict) or not isinstance(section.get("class_path"), str):
            raise ValueError(f"config must have the section {part} with a class_path, got {section!r}.")
    options = {"root": arguments.root and str(arguments.root), "normal_class": arguments.normal_class}
    given = {name: value for name, value in options.items() if value is not None}
    content["data"]["init_args"] = {**content["data"].get("init_args", {}), **given}
    return dict(content)


def _data(section: dict[str, Any]) -> tuple[Any, list[str]]:
    """The data set, set up, and its normal classes, of which each gets a panel."""
    from panda_anomalib.benchmark.sections import build_data
    from panda_anomalib.data.one_class import OneClassData

    data = build_data(section)
    if not isinstance(data, OneClassData):
        raise ValueError(f"data must be one-class data such as OneClassFolder, got {section['class_path']!r}.")
    data.prepare_data()
    data.setup()
    return data, list(data.normal_classes)
