"""The command ``panda-anomalib``: anomalib's command line with our models, and with its faults mended.

The top of this module imports nothing heavy: ``--version``, ``--help`` and wrong commands answer at once, while
importing anomalib takes many seconds. That is also why the class ``PandaCLI`` has a module of its own.

Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 interrupted. What our own code or the operating system refuses is
told in one line; ``PANDA_ANOMALIB_TRACEBACK=1`` shows its traceback, and every other error keeps it.
"""

import argparse
import contextlib
import difflib
import importlib
import importlib.metadata
import io
import itertools
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from panda_anomalib import __version__
from panda_anomalib.commands import (
    EVALUATING,
    FITTING,
    PROGRAM,
    SUBCOMMANDS,
    TOOLS,
    UnknownNameError,
    did_you_mean,
    nearest_path,
    unknown_option,
)
from panda_anomalib.failures import describe_failure
from panda_anomalib.quiet import LIGHTNING_LOGGERS

if TYPE_CHECKING:
    from panda_anomalib.host_cli import PandaCLI

__all__ = ["main"]

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
    r"\s*Detected KeyboardInterrupt",  # our own line says it
    r".*\[litlogger\]\(https://pypi\.org/project/litlogger/\)",  # an advertisement
)
_INTERRUPTED = "interrupted; no file is left half-written, and what was there before is as it was."
_CHATTY_LOGGERS = ("onnx_ir", "onnxscript")  # hundreds of lines about the names of constants in an export

logger = logging.getLogger(__name__)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Arguments after the program's name; those of the process when None.

    Raises:
        SystemExit: With code 1, 2 or 130 when the command has not done its work.
        Exception: Whatever the command raised that is not the user's to mend.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    _answer_lightly(arguments)
    try:
        with _without_harmless_warnings():
            if arguments[0] in TOOLS:
                _run_tool(*arguments)
            else:
                _configure_logging()
                _cli_class()(arguments)
    except KeyboardInterrupt:
        _stop(130, _INTERRUPTED)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
            _stop(130, _INTERRUPTED)
        raise
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        message = describe_failure(error)
        if message is None or os.environ.get("PANDA_ANOMALIB_TRACEBACK") == "1":
            raise
        _stop(2 if isinstance(error, UnknownNameError) else 1, f"error: {message}")


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
    for name, description in {**TOOLS, **SUBCOMMANDS}.items():
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
    known = [*TOOLS, *SUBCOMMANDS]
    if not command.startswith("-") and command not in known:
        near = did_you_mean(command, known)
        _stop(2, f"error: subcommand must be one of {', '.join(known)}, got {command!r}{near}")
    from panda_anomalib.short_help import SHORT_HELP, asks_for_short_help, short_parser

    if asks_for_short_help(command, arguments[1:]):
        short_parser(command).print_help()
        raise SystemExit(0)
    if command in SHORT_HELP and not SHORT_HELP[command].has_more:
        short_parser(command).parse_known_args(arguments[1:])  # which refuses what it does not know
    _check_config_files(arguments[1:])
    _require_model_and_data(command, arguments[1:])


def _check_config_files(options: list[str]) -> None:
    """Refuse configuration files that are not there or no YAML."""
    pairs = [option.split("=", 1) for option in options if "=" in option]
    for name, value in [*itertools.pairwise(options), *pairs]:
        if name in {"-c", "--config"} or (name in {"--model", "--data"} and value.endswith((".yaml", ".yml"))):
            _check_config_file("--config" if name == "-c" else name, Path(value))


def _check_config_file(option: str, path: Path) -> None:
    import yaml

    try:
        with path.open(encoding="utf-8") as text:
            yaml.compose(text)
    except FileNotFoundError:
        _stop(2, f"error: {option} must be an existing file, got '{path}'{nearest_path(path)}")
    except OSError as error:
        _stop(2, f"error: {option} must be a file that can be read, got '{path}' ({error.strerror}); check it.")
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        _stop(2, f"error: {option} must be a YAML file, got '{path}': {' '.join(str(error).split())}")


def _require_model_and_data(command: str, options: list[str]) -> None:
    names = [option.split("=")[0] for option in options]
    if any(name in {"-h", "-c", "--config"} or name.endswith("help") for name in names):
        return  # help needs neither, and a configuration file may bring both
    needed = {}
    if command in {*FITTING, *EVALUATING, "export"}:
        needed["--model"] = "the name of a model, such as Dn2"
    if command in {*FITTING, *EVALUATING}:
        images = ", or an image, or a folder of images" if command == "predict" else ""
        needed["--data"] = f"the name of a datamodule, such as OneClassFolder{images}"
    if command == "fisher":
        needed["--images"] = "a folder of images for each class of the backbone's classifier"
        needed["--output"] = "the file to write, ending in .safetensors"
    for option, meaning in needed.items():
        if not any(name == option or name.startswith(f"{option}.") for name in names):
            if misspelt := difflib.get_close_matches(option, [name for name in names if name.startswith("--")], n=1):
                _stop(2, f"error: {unknown_option(misspelt[0], [option])}")
            _stop(2, f"error: {command} needs {option} ({meaning}), or a file that sets it with --config.")


def _run_tool(name: str, *options: str) -> None:
    tool = importlib.import_module(f"panda_anomalib.tools.{name}")
    arguments = tool.make_parser().parse_args(options)
    if hasattr(tool, "check"):  # refuses at once what would fail after the long import
        tool.check(arguments)
    if getattr(tool, "USES_HOST", True):  # the doctor must answer where anomalib cannot be imported
        _configure_logging()
    if code := tool.run(arguments):
        raise SystemExit(code)


def _versions() -> str:
    hosts = ("anomalib", "torch", "torchvision", "timm", "lightning")
    return "\n".join([f"panda_anomalib {__version__}", *(f"{host} {_installed(host)}" for host in hosts)])


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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
    for name in LIGHTNING_LOGGERS:  # each may bring a handler of its own
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
def _cli_class() -> "type[PandaCLI]":
    from panda_anomalib.host_cli import PandaCLI

    return PandaCLI
