"""What runs the code blocks of README and docs.

A Python block is executed, its trainings a fiftieth as long. Commands that train ``Dn2`` as it is on a folder, or
predict with it, are run, once each. Of our other commands, whose training takes minutes, everything is built up to the
first image. A script gets its arguments as far as its parser. A configuration goes through the command line, as the
file that it would be. A block that cannot be run says so above it: ``<!-- skip: next "why" -->``.
"""

import argparse
import importlib.util
import itertools
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anomalib.models
import pytest
import yaml
from anomalib.cli import AnomalibCLI
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.evaluators.skip import Skipper
from sybil.parsers.markdown import CodeBlockParser, SkipParser

import panda_anomalib.data
from panda_anomalib.benchmark import read_configuration
from panda_anomalib.benchmark.sections import build_model
from panda_anomalib.cli import main
from panda_anomalib.commands import TOOLS
from panda_anomalib.host_cli import PandaCLI

__all__ = ["PAGES", "ROOT", "blocks", "fences", "reasons", "run_block"]

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_IMAGES = ["--data", "OneClassFolder", "--data.root", "images", "--data.normal_class", "good"]
_SHORTER = 50  # how many times shorter a training is here than on the page
_RUN: set[tuple[Any, ...]] = set()  # commands that have been run
_execute = PythonEvaluator()


def blocks(path: Path) -> Iterator[tuple[Example, ...]]:
    """Code blocks of a page in their order, each behind the directive that leaves it out, if there is one."""
    document = Document.parse(str(path), SkipParser(), *(CodeBlockParser(*kind) for kind in _EVALUATORS.items()))
    document.namespace.update(__name__=path.stem, _tools=TOOLS, _has_demo=hasattr(panda_anomalib.data, "Demo"))
    directives: list[Example] = []
    for example in document.examples():
        directives.append(example)
        if not isinstance(example.region.evaluator, Skipper):
            yield tuple(directives)
            directives = []


def run_block(parts: tuple[Example, ...]) -> None:
    """Run one of ``blocks`` in the working folder; raises where the block is wrong."""
    for part in parts:
        part.evaluate()


def fences(text: str) -> list[str]:
    """Languages of all fenced blocks of a page, ``""`` where none is named."""
    return re.findall(r"^[ \t]*(?:```|~~~)(.*)\n(?:.*\n)*?[ \t]*(?:```|~~~)$", text, flags=re.MULTILINE)


def reasons(text: str) -> list[str]:
    """Why blocks of a page are left out, one for each."""
    return re.findall(r"<!-- skip: (.*?) -->", text)


# ---- Python


def _run_python(example: Example) -> None:
    if module := re.match(r"# (\w+)\.py\n", example.parsed):  # a file that the reader saves
        Path(f"{module[1]}.py").write_text(example.parsed)
        sys.modules.pop(module[1], None)
        importlib.import_module(module[1])
        return
    shorter = re.sub(r"(?<=minibatches=)\d+", lambda number: str(max(1, int(number[0]) // _SHORTER)), example.parsed)
    example.parsed = type(example.parsed)(shorter, example.parsed.offset, example.parsed.line_offset)
    _execute(example)


# ---- commands


def _run_commands(example: Example) -> None:
    for line in example.parsed.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
                words.pop(0)
            if words:
                _run_command(*itertools.takewhile(lambda word: word != ">", words))


def _run_command(program: str, *arguments: str) -> None:
    if program.removeprefix(".venv/bin/") == "panda-anomalib":
        _run_ours(list(arguments))
    elif program == "anomalib":
        AnomalibCLI(arguments, run=False)
    elif program == "python":
        _parse_script(list(arguments))
    elif program in {"uv", "pip"}:
        _check_installation(arguments)
    elif program not in {".", ".venv/bin/python", "mkdocs"}:
        raise AssertionError(f"no test knows what to do with {program!r}; teach it, or leave the block out.")


def _run_ours(arguments: list[str]) -> None:
    if arguments[0] in TOOLS:
        parsed = importlib.import_module(f"panda_anomalib.tools.{arguments[0]}").make_parser().parse_args(arguments[1:])
        if arguments[0] == "benchmark":
            _build_models_of(parsed.config)
        return
    with pytest.MonkeyPatch.context() as patch:
        if not _takes_seconds(arguments):  # its constructor builds all there is
            patch.setattr(PandaCLI, "_run_subcommand", lambda _: None)
        try:
            main(arguments)
        except SystemExit as stop:
            if stop.code:
                raise AssertionError(f"exit code {stop.code}") from stop


def _takes_seconds(arguments: list[str]) -> bool:
    options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    options.pop("--seed_everything", None)
    plain = options.get("--model") == "Dn2" and not any(name.startswith("--model.") for name in options)
    at_hand = {"train": options.get("--data") == "OneClassFolder", "predict": True}
    command = (arguments[0], *sorted(options.items()))
    known = command in _RUN
    _RUN.add(command)
    return plain and at_hand.get(arguments[0], False) and not known


def _build_models_of(config: Path) -> None:
    """What no look at the configuration builds; data that a reader must bring are taken for those of this folder."""
    content = config.read_text()
    for place in re.findall(r"root: (\./datasets/\S+)", content):
        content = content.replace(place, "images")
    Path("read.yaml").write_text(content)
    jobs = read_configuration(Path("read.yaml")).jobs
    for model in {str(job.model): job.model for job in jobs}.values():  # not for each seed
        build_model(model)


def _parse_script(arguments: list[str]) -> None:
    """Give a script or module its arguments, and stop it behind their parsing."""
    if arguments[0] == "-m":
        name, spec = arguments[1], importlib.util.find_spec(arguments[1])
        assert spec is not None, name
        assert spec.origin is not None, name
        path, options = Path(spec.origin), arguments[2:]
    else:
        path, options = Path(arguments[0]), arguments[1:]
    source = path.read_text()
    if "argparse" not in source:
        compile(source, path, "exec")
        assert not options, f"{path} takes no arguments"
        return

    class Parsed(Exception):  # noqa: N818 - no error
        pass

    def parse(parser: argparse.ArgumentParser, *args: Any) -> None:
        parser.parse_known_args(*args)[1] and parser.error("unrecognized arguments")
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        patch.setattr(sys, "argv", [str(path), *options])
        patch.syspath_prepend(path.parent)
        with pytest.raises(Parsed):
            runpy.run_path(str(path), run_name="__main__")


def _check_installation(arguments: tuple[str, ...]) -> None:
    """The extras that it names exist."""
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    known = re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE)
    for extras in re.findall(r"(?:^|\s)(?:\.|panda-anomalib)\[(.*?)\]", " ".join(arguments)):
        assert not set(extras.split(",")) - set(known), f"extras are {known}, got {extras}"


# ---- configurations


def _build_configuration(example: Example) -> None:
    """Through the command line, as the file that it would be."""
    Path("block.yaml").write_text(example.parsed)
    content = yaml.safe_load(example.parsed)
    if "benchmark" in content:
        command = ["benchmark", "--config", "block.yaml"]
    elif "class_path" not in content:
        command = ["train", "--config", "block.yaml"]
    elif hasattr(anomalib.models, content["class_path"].rpartition(".")[2]):
        command = ["train", "--model", "block.yaml", *_IMAGES]
    else:
        command = ["train", "--model", "Panda", "--data", "block.yaml"]
    _run_ours(command)


_EVALUATORS: dict[str, Callable[[Example], None]] = {
    "python": _run_python,
    "sh": _run_commands,
    "bash": _run_commands,
    "yaml": _build_configuration,
}
