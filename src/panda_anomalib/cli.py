"""The command ``panda-anomalib``: anomalib's command line with our models, and with its faults mended.

The top of this module imports nothing heavy: ``--version``, ``--help`` and wrong commands answer at once, while
importing anomalib takes many seconds. That is also why the class ``PandaCLI`` is made when it is first asked for.

Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 interrupted. What our own code refuses is told in one line;
``PANDA_ANOMALIB_TRACEBACK=1`` shows its traceback, and every other error keeps it.
"""

import argparse
import contextlib
import difflib
import importlib.metadata
import io
import logging
import os
import random
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from panda_anomalib import __version__

if TYPE_CHECKING:
    from anomalib.cli import AnomalibCLI
    from jsonargparse import ArgumentParser, DefaultHelpFormatter
else:
    AnomalibCLI = object  # _cli_class() joins the real base: importing it here would take many seconds

__all__ = ["main"]

PROGRAM = "panda-anomalib"
SUBCOMMANDS = {
    "train": "Fit a model on normal images and test it.",
    "fit": "Fit a model on normal images.",
    "test": "Measure a trained model on labelled images.",
    "predict": "Score images with a trained model.",
    "validate": "Run the validation of a trained model.",
    "export": "Write a trained model as Torch, ONNX or OpenVINO.",
    "benchmark": "Compare models on data sets from a configuration file.",
    "install": "Install the optional dependencies of anomalib.",
}
_FITTING = ("fit", "train")
_EVALUATING = ("validate", "test", "predict")

# Known and harmless, as patterns from the start of the message, each with its reason; everything else is shown.
_HARMLESS = (
    r"Importing from timm\.models\.layers is deprecated",  # anomalib's import; nothing for a user to do
    r"The anomalib\.models\.components\.dinov2 package is deprecated",  # anomalib importing itself
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning using torch
    r"`LightningModule\.configure_optimizers` returned `None`",  # memory banks are filled, not optimised
    r"Found \d+ module\(s\) in eval mode at the start of training",  # so is a frozen backbone
    r"Total length of `list` across ranks is zero",  # no validation data, which our models do not need
    r"The dirpath has changed from",  # of the checkpoint that a run starts from, to the folder of that run
    r"The '.*_dataloader' does not have many workers",  # for few images none is fastest, and our loaders count them
    r"The following callbacks returned in `LightningModule\.configure_callbacks`",  # the test that follows a training
    r"ckpt_path is not provided\. Model weights will not be loaded",  # an error here where weights are needed
    r"To use any logger install it using `anomalib install -v`",  # none is needed: the run folder has the metrics
    r".*\[litlogger\]\(https://pypi\.org/project/litlogger/\)",  # an advertisement
)
_LIGHTNING_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "pytorch_lightning")

_CHATTY_LOGGERS = ("onnx_ir", "onnxscript")  # hundreds of lines about the names of constants in an export

logger = logging.getLogger(__name__)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments after the program's name; those of the process when None.

    Raises:
        SystemExit: With code 1, 2 or 130 when the command has not done its work.
        Exception: Whatever the command raised, unless our own code refused its input.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    _answer_lightly(arguments)
    try:
        with _without_harmless_warnings():
            _configure_logging()
            _cli_class()(arguments)
    except KeyboardInterrupt:
        _stop(130, "interrupted.")
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
            _stop(130, "interrupted.")
        raise
    except (FileNotFoundError, RuntimeError, TypeError, ValueError) as error:
        message = _own_message(error)
        if message is None or os.environ.get("PANDA_ANOMALIB_TRACEBACK") == "1":
            raise
        _stop(1, f"error: {message}")


def __getattr__(name: str) -> Any:
    if name == "PandaCLI":
        return _cli_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}.")


def _stop(code: int, line: str) -> NoReturn:
    sys.stderr.write(f"{line}\n")
    raise SystemExit(code) from None


def _answer_lightly(arguments: list[str]) -> None:
    """Answer what needs no import of anomalib: help, version, unknown commands and missing arguments."""
    from rich_argparse import RichHelpFormatter

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        formatter_class=RichHelpFormatter,
        description="Image anomaly detection with DN2 and with every model of anomalib.",
        epilog=f"{PROGRAM} SUBCOMMAND --help explains a subcommand; add -v or -vv for more of its options.",
    )
    parser.add_argument("--version", action="store_true", help="Show versions and exit.")
    commands = parser.add_subparsers(metavar="SUBCOMMAND")
    for name, description in SUBCOMMANDS.items():
        commands.add_parser(name, help=description)
    if not arguments:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    command = arguments[0]
    if command == "--version":
        sys.stdout.write(f"{_versions()}\n")
        raise SystemExit(0)
    if command in {"-h", "--help"}:
        parser.print_help()
        raise SystemExit(0)
    if not command.startswith("-") and command not in SUBCOMMANDS:
        known = ", ".join(SUBCOMMANDS)
        _stop(2, f"error: subcommand must be one of {known}, got {command!r}{_did_you_mean(command, SUBCOMMANDS)}")
    _require_model_and_data(command, arguments[1:])


def _require_model_and_data(command: str, options: list[str]) -> None:
    names = [option.split("=")[0] for option in options]
    if any(name in {"-h", "-c", "--config"} or name.endswith("help") for name in names):
        return  # help needs neither, and a configuration file may bring both
    needed = {}
    if command in {*_FITTING, *_EVALUATING, "export"}:
        needed["--model"] = "the name of a model, such as Dn2"
    if command in {*_FITTING, *_EVALUATING}:
        images = ", or an image, or a folder of images" if command == "predict" else ""
        needed["--data"] = f"the name of a datamodule, such as OneClassFolder{images}"
    for option, meaning in needed.items():
        if not any(name == option or name.startswith(f"{option}.") for name in names):
            _stop(2, f"error: {command} needs {option} ({meaning}), or a file that sets it with --config.")


def _versions() -> str:
    hosts = ("anomalib", "torch", "torchvision", "timm", "lightning")
    return "\n".join([f"panda_anomalib {__version__}", *(f"{host} {_installed(host)}" for host in hosts)])


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _did_you_mean(word: str, known: Sequence[str] | dict[str, str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def _own_message(error: Exception) -> str | None:
    """The message of an error that code of this package raised, here or in a loading process; else None."""
    package = str(Path(__file__).parent)
    if "Original Traceback" in str(error):  # a DataLoader worker hands its traceback over as text
        frames = re.findall(r'^  File "(.+)", line \d+, in ', str(error), flags=re.MULTILINE)
        last_line = str(error).strip().splitlines()[-1]
        return last_line.partition(": ")[2] if frames and frames[-1].startswith(package) else None
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return str(error) if frame is not None and frame.tb_frame.f_code.co_filename.startswith(package) else None


@contextlib.contextmanager
def _without_harmless_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for pattern in _HARMLESS:
            warnings.filterwarnings("ignore", message=pattern)
        yield


def _is_worth_showing(record: logging.LogRecord) -> bool:
    return re.match("|".join(_HARMLESS), record.getMessage()) is None


def _configure_logging() -> None:
    """Show each line of the log once, on stderr; anomalib's ``configure_logger`` shows it twice."""
    from rich.console import Console
    from rich.logging import RichHandler

    _import_quietly()
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    if not any(isinstance(handler, RichHandler) for handler in root.handlers):
        handler = RichHandler(console=Console(stderr=True), show_path=False)
        handler.addFilter(_is_worth_showing)
        root.addHandler(handler)
    for name in _LIGHTNING_LOGGERS:  # each may bring a handler of its own
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _import_quietly() -> None:
    """Import anomalib's command line without what its import prints: stdout belongs to ``--print_config``."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        import anomalib.cli  # noqa: F401
    for line in printed.getvalue().splitlines():
        if re.match("|".join(_HARMLESS), line) is None:
            sys.stderr.write(f"{line}\n")


@cache
def _parser_class() -> "type[ArgumentParser]":
    from anomalib.data import AnomalibDataModule
    from anomalib.models.components import AnomalibModule
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        """Parser that names the nearest known option when it refuses one."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            if option := re.match(r"Unrecognized arguments: (--[^\s=]+)", message):
                commands = self._subcommands_action._name_parser_map if self._subcommands_action else {}
                parser = next((commands[word] for word in self.args if word in commands), self)
                known = [option for action in parser._actions for option in action.option_strings]
                message += _did_you_mean(option[1], known)
            elif name := re.search(r"Expected a dot import path string: (\w+)", message):
                classes = [*AnomalibModule.__subclasses__(), *AnomalibDataModule.__subclasses__()]
                message += _did_you_mean(name[1], [known.__name__ for known in classes])
            super().error(message, ex)

    return Parser


@cache
def _help_formatter() -> "type[DefaultHelpFormatter]":
    from anomalib.cli.utils import help_formatter as host
    from rich.markdown import Markdown
    from rich.panel import Panel

    class HelpFormatter(host.CustomHelpFormatter):
        """anomalib's help, with the name of this program in its examples."""

        def format_help(self) -> str:
            if self.subcommand not in host.REQUIRED_ARGUMENTS or self.verbosity_level > 1:
                return str(super().format_help())
            usage = host.get_cli_usage_docstring(host.DOCSTRING_USAGE[self.subcommand]) or ""
            guide = f"{usage}\n{host.get_verbose_usage(self.subcommand)}"
            guide = re.sub(r"\banomalib (?=[a-z])", f"{PROGRAM} ", guide)
            with self.console.capture() as capture:
                self.console.print(host.get_intro())
                self.console.print(Panel(Markdown(guide), border_style="dim", title="Quick-Start", title_align="left"))
                if self.verbosity_level == 1:
                    self.console.print(Panel(self._root_section, border_style="dim", title="Arguments"))
            return capture.get()

    return HelpFormatter


class _Mends(AnomalibCLI):
    """What differs from anomalib's command line."""

    def __init__(self, args: Sequence[str] | None = None, run: bool = True) -> None:  # noqa: FBT001, FBT002 - anomalib's
        from anomalib.cli.pipelines import PIPELINE_REGISTRY

        from panda_anomalib.benchmark import Benchmark
        from panda_anomalib.registration import register

        register()
        arguments = list(sys.argv[1:] if args is None else args)
        formatter: Any = _help_formatter()
        asked = {"-h", "--help"} & set(arguments)  # anomalib's formatter looks at the process's arguments, not at these
        formatter.subcommand = arguments[0] if arguments else None
        formatter.verbosity_level = 1 if "-v" in arguments else 0 if asked and "-vv" not in arguments else 2
        pipelines = PIPELINE_REGISTRY or {}
        plain = dict(pipelines)
        pipelines["benchmark"] = Benchmark
        try:
            super().__init__(arguments, run)
        finally:
            pipelines.update(plain)  # anomalib's own command in this process stays what it is

    @staticmethod
    def init_parser(**kwargs: Any) -> "ArgumentParser":
        """Parser with our program's name."""
        from jsonargparse import ActionConfigFile

        kwargs.setdefault("dump_header", [f"{PROGRAM}=={__version__}"])
        parser = _parser_class()(prog=PROGRAM, formatter_class=_help_formatter(), **kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="Path to a configuration file.")
        return parser

    def add_subcommands(self, **kwargs: Any) -> None:
        """Add anomalib's subcommands; those that fit or evaluate require ``--data``."""
        super().add_subcommands(**kwargs)
        for name, parser in self.subcommand_parsers.items():
            parser.prog = f"{PROGRAM} {name}"
        for name in (*_FITTING, *_EVALUATING):
            self.subcommand_parsers[name].required_args.add("data")

    @staticmethod
    def _add_default_arguments_to_parser(parser: "ArgumentParser") -> None:
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=True,
            help="Seed of every random number, set before anything is built: a whole number from 0 to 4294967295, "
            "true for a random one (which the log tells), false for none.",
        )

    def before_instantiate_classes(self) -> None:
        """Refuse a checkpoint that is not there and set the seed, before anything is built."""
        super().before_instantiate_classes()
        if self.subcommand in {*_FITTING, *_EVALUATING, "export"}:
            from panda_anomalib.engine import existing_checkpoint

            existing_checkpoint(self._get(self.config, "ckpt_path"))
            self._seed()

    def _seed(self) -> None:
        from lightning import seed_everything

        seed = self._get(self.config, "seed_everything")
        if seed is False:
            return
        if seed is True:
            seed = random.SystemRandom().randrange(2**32)
        if not 0 <= seed < 2**32:
            self._refuse(f"seed_everything must be from 0 to 4294967295, or true or false, got {seed}.")
        seed_everything(seed, workers=True, verbose=False)
        self.config[self.subcommand]["seed_everything"] = seed  # the saved configuration repeats this run
        logger.info("Seed %d; --seed_everything %d repeats this run.", seed, seed)

    def _refuse(self, message: str) -> NoReturn:
        parser: ArgumentParser = self._parser(self.subcommand)
        parser.error(message)

    def instantiate_classes(self) -> None:
        """Build model, data and engine; ``train`` honours the optimizer as ``fit`` does."""
        super().instantiate_classes()
        if self.subcommand == "train":
            self._configure_optimizers_method_to_model()
        if self.subcommand in {*_EVALUATING, "export"} and not self._get(self.config, "ckpt_path"):
            self._require_training()

    def _require_training(self) -> None:
        from anomalib import LearningType
        from anomalib.data import AnomalibDataModule

        from panda_anomalib.engine import newest_checkpoint

        if self.model.learning_type in {LearningType.ZERO_SHOT, LearningType.FEW_SHOT}:
            return
        data = self.datamodule if isinstance(self.datamodule, AnomalibDataModule) else None
        newest = newest_checkpoint(self._get(self.config, "default_root_dir"), self.model, data)
        advice = f"the newest here is {newest}" if newest else f"make one with: {PROGRAM} train --model ... --data ..."
        self._refuse(f"{self.subcommand} needs --ckpt_path, the checkpoint of a trained {self.model.name}; {advice}")

    def instantiate_engine(self) -> None:
        """Build our Engine; evaluations keep the configuration of the training that shares their folder."""
        from anomalib.callbacks import get_callbacks
        from lightning.pytorch.cli import SaveConfigCallback

        from panda_anomalib.engine import Engine

        arguments = dict(self._get(self.config_init, "trainer", default={}))
        callbacks = arguments["callbacks"] or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if not arguments.get("fast_dev_run"):
            name = "config.yaml" if self.subcommand in _FITTING else f"config.{self.subcommand}.yaml"
            parser: Any = self._parser(self.subcommand)
            config = self.config[self.subcommand]
            callbacks.append(SaveConfigCallback(parser, config, config_filename=name, overwrite=True))
        arguments["callbacks"] = callbacks + get_callbacks(self.config[self.subcommand])
        self.engine = Engine(**arguments)

    def _run_subcommand(self) -> None:
        if self.subcommand == "benchmark":  # not through anomalib's run_pipeline, which calls it experimental
            from panda_anomalib.benchmark import Benchmark

            Benchmark().run(self.config.benchmark)
        else:
            super()._run_subcommand()


@cache
def _cli_class() -> "type[AnomalibCLI]":
    from anomalib.cli import AnomalibCLI as Host

    return type("PandaCLI", (_Mends, Host), {"__doc__": Host.__doc__, "__module__": __name__})
