"""Help of the subcommands that anomalib's command line brings, on one screen; imports nothing heavy.

Made by anomalib's own parser it takes the import of anomalib, and is hundreds of lines long. What stands here is held
to that parser by a test: options, defaults and examples.
"""

from typing import NamedTuple

from panda_anomalib.commands import PROGRAM
from panda_anomalib.tools.parser import ToolParser

__all__ = ["SHORT_HELP", "Option", "ShortHelp", "asks_for_short_help", "short_parser"]


class Option(NamedTuple):
    """An option as ``--help`` shows it; ``default`` and ``choices`` where it has them."""

    flag: str
    metavar: str
    meaning: str
    default: str = ""
    choices: tuple[str, ...] | None = None


class ShortHelp(NamedTuple):
    """What ``--help`` shows of a subcommand, and whether anomalib's parser has more of it to show."""

    options: tuple[Option, ...]
    examples: tuple[str, ...]
    has_more: bool = True


_MODEL = Option("--model", "NAME", "Dn2, Panda, PandaEwc, PandaOe, ..., a model of anomalib, or a YAML file")
_BACKBONE = Option("--model.backbone", "NAME", "timm's name of the network", "tf_efficientnet_lite0")
_DATA = Option("--data", "NAME", "OneClassFolder, Demo, a public data set, a datamodule of anomalib, or a YAML file")
_DATA_OPTIONS = (
    Option("--data.root", "FOLDER", "where the images are: a folder for each class"),
    Option("--data.normal_class", "NAME", "of OneClassFolder: the folder of normal images"),
)
_RESULTS = Option("--default_root_dir", "FOLDER", "where results go", "results")
_CHECKPOINT = Option("--ckpt_path", "FILE", "the trained model: weights/lightning/model.ckpt of its run folder")
_CONFIG = Option("--config", "FILE", "options from a YAML file; those that follow it override it")
_TRAINED = "\\\n    --ckpt_path results/Dn2/Demo/gravel/latest/weights/lightning/model.ckpt"

_EXTRAS = ("full", "core", "dev", "loggers", "notebooks", "openvino")

_FITTING = (
    _MODEL,
    _BACKBONE,
    Option("--model.scorer", "NAME", "whitening, knn, kmeans or center", "whitening"),
    Option("--model.num_neighbors", "K", "nearest normal images that count; by default 2"),
    Option("--model.false_positive_rate", "RATE", "normal images that may be called anomalous", "0.05"),
    Option("--model.visualizer", "true|false", "a picture of every verdict", "true"),
    _DATA,
    *_DATA_OPTIONS,
    _RESULTS,
    Option("--seed_everything", "N", "repeats a run; by default a random one, which is told"),
    Option("--ckpt_path", "FILE", "go on with the training of this checkpoint"),
    _CONFIG,
)
_EVALUATING = (_MODEL, _BACKBONE, _CHECKPOINT, _DATA, *_DATA_OPTIONS, _RESULTS, _CONFIG)

SHORT_HELP: dict[str, ShortHelp] = {
    "train": ShortHelp(
        _FITTING,
        (
            f"{PROGRAM} train --model Dn2 --data Demo",
            f"{PROGRAM} train --model Dn2 --data OneClassFolder --data.root images --data.normal_class good",
        ),
    ),
    "fit": ShortHelp(_FITTING, (f"{PROGRAM} fit --model Dn2 --data Demo",)),
    "test": ShortHelp(_EVALUATING, (f"{PROGRAM} test --model Dn2 --data Demo {_TRAINED}",)),
    "validate": ShortHelp(_EVALUATING, (f"{PROGRAM} validate --model Dn2 --data Demo {_TRAINED}",)),
    "predict": ShortHelp(
        (
            _MODEL,
            _BACKBONE,
            _CHECKPOINT,
            Option("--data", "PATH", "an image, a folder of images, or the name of a datamodule"),
            _RESULTS,
            _CONFIG,
        ),
        (f"{PROGRAM} predict --model Dn2 --data datasets/Demo/gravel/test {_TRAINED}",),
    ),
    "export": ShortHelp(
        (
            _MODEL,
            _BACKBONE,
            _CHECKPOINT,
            Option("--export_type", "TYPE", "torch, onnx or openvino"),
            Option("--export_root", "FOLDER", "where it goes; by default the run folder of the checkpoint"),
            _CONFIG,
        ),
        (f"{PROGRAM} export --model Dn2 --export_type onnx {_TRAINED}",),
    ),
    "fisher": ShortHelp(
        (
            Option("--images", "FOLDER", "a folder of images for each class of the backbone's classifier"),
            Option("--output", "FILE", "the file to write, ending in .safetensors"),
            Option("--backbone", "NAME", "timm's name of the network", "tf_efficientnet_lite0"),
            Option("--weights", "NAME", "default, packaged, random, or a file", "default"),
            Option("--labels", "HOW", "given by the folders, or sampled: any images will do", "given"),
            Option("--num_images", "N", "use so many, drawn by the seed; by default all"),
            Option("--seed", "N", "of the choice and order of the images", "0"),
        ),
        (f"{PROGRAM} fisher --images datasets/Demo/gravel/train --labels sampled --output fisher.safetensors",),
    ),
    "install": ShortHelp(
        (
            Option("--option", "NAME", "full, core, dev, loggers, notebooks or openvino", "full", _EXTRAS),
            Option("--verbose", "", "say what is done"),
        ),
        (f"{PROGRAM} install --option openvino",),
        has_more=False,
    ),
}


def asks_for_short_help(command: str, options: list[str]) -> bool:
    """Whether this is ``--help`` of one of these subcommands, without ``-v`` or ``-vv``, which ask for anomalib's."""
    more = SHORT_HELP[command].has_more and {"-v", "-vv", "--verbose"} & set(options) if command in SHORT_HELP else True
    return not more and bool({"-h", "--help"} & set(options))


def short_parser(command: str) -> ToolParser:
    """Parser that shows the help of a subcommand; what it parses is for anomalib's parser to say."""
    shown = SHORT_HELP[command]
    parser = ToolParser(command, *shown.examples, more=_more(command) if shown.has_more else {})
    parser.usage = f"{PROGRAM} {command} [OPTIONS]"
    for option in shown.options:
        default = f" (default: {option.default})" if option.default else ""
        text = option.meaning + default
        if option.metavar:
            parser.add_argument(option.flag, metavar=option.metavar, help=text, choices=option.choices)
        else:
            parser.add_argument(option.flag, action="store_true", help=text)
    return parser


def _more(command: str) -> dict[str, str]:
    more = {"every option": f"{PROGRAM} {command} --help -vv"}
    if any(option.flag == "--model" for option in SHORT_HELP[command].options):
        more["those of a model"] = f"{PROGRAM} {command} --model.help Dn2"
        more["those of data"] = f"{PROGRAM} {command} --data.help OneClassFolder"
    return more
