"""The help on one screen, held to the parser that does the work."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from panda_anomalib.cli import PandaCLI, main
from panda_anomalib.commands import SUBCOMMANDS
from panda_anomalib.data import OneClassFolder
from panda_anomalib.models import Dn2
from panda_anomalib.short_help import SHORT_HELP, ShortHelp

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def parsers() -> dict[str, ArgumentParser]:
    """The real parser of each subcommand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PandaCLI, "before_instantiate_classes", lambda _: None)
        patch.setattr(PandaCLI, "instantiate_classes", lambda _: None)
        return PandaCLI(["train", "--model", "Dn2", "--data", "Demo"], run=False).subcommand_parsers


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_help_fits_on_a_screen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With an example, and where there is more."""
    for flag in ("-h", "--help"):
        with pytest.raises(SystemExit) as stop:
            main([command, flag])
        assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 2 * 45
    assert f"  panda-anomalib {command} --" in shown
    assert (f"panda-anomalib {command} --help -vv" in shown) == SHORT_HELP[command].has_more


def _default(flag: str, parser: ArgumentParser) -> Any:
    """Default of an option, from a signature where it belongs to a model or a datamodule."""
    for prefix, owner in (("--model.", Dn2), ("--data.", OneClassFolder)):
        if flag.startswith(prefix):
            return inspect.signature(owner).parameters[flag.removeprefix(prefix)].default
    (action,) = (action for action in parser._actions if flag in action.option_strings)
    return action.default


@pytest.mark.parametrize(("command", "text"), SHORT_HELP.items())
def test_options_exist_and_have_these_defaults(
    command: str, text: ShortHelp, parsers: dict[str, ArgumentParser]
) -> None:
    """What is shown is what is done."""
    for option in text.options:
        default = _default(option.flag, parsers[command])
        if option.default:
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            assert option.default == shown, option.flag


@pytest.mark.parametrize(
    "example", [example for command, text in SHORT_HELP.items() if command != "install" for example in text.examples]
)
def test_examples_are_understood(
    example: str, parsers: dict[str, ArgumentParser], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the parser; they were run by hand, one after the other."""
    monkeypatch.chdir(ROOT)
    program, command, *arguments = shlex.split(example.replace("\\\n", ""))
    assert program == "panda-anomalib"
    parsers[command].parse_args(arguments)
    for path in re.findall(r"configs/\S+", example):
        assert (ROOT / path).is_file()
