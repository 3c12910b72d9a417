"""What jsonargparse says of wrong arguments, in one line: which option, what it takes, what it got, what is near."""

import ast
import inspect
import pydoc
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from panda_anomalib.commands import did_you_mean, unknown_option

__all__ = ["refusal_of_constructor", "say_in_one_line"]


@dataclass
class _Refusal:
    """A message of jsonargparse; errors of what is inside a value stand in it before those around it."""

    message: str
    options: Iterable[str]
    classes: Mapping[str, tuple[str, Sequence[str]]]

    def __post_init__(self) -> None:
        self.keys = re.findall(r'Parser key "([^"]+)"', self.message)
        self.option = f"--{'.'.join(self.keys)}"
        self.value = self.first(r"(?:Given|Got) value: (.*)")

    def first(self, pattern: str) -> str:
        found = re.search(pattern, self.message)
        return found[1] if found else ""


def say_in_one_line(message: str, options: Iterable[str], classes: Mapping[str, tuple[str, Sequence[str]]]) -> str:
    """A message of jsonargparse without its tree of types.

    Args:
        message: As its parser has it.
        options: Names of the options that the parser has, for suggestions.
        classes: Of the options ``model`` and ``data``, what they take in words, and the names of the classes.
    """
    refusal = _Refusal(message, options, classes)
    explanations = (_unknown_option, _missing_option, _wrong_choice, _wrong_class, _wrong_argument, _wrong_kind)
    lines = (explain(refusal) for explain in explanations)
    return next(filter(None, lines), " ".join(message.split()))


def refusal_of_constructor(message: str) -> str:
    """What the constructor of a model or datamodule has against its arguments, in a message of jsonargparse; or ''."""
    reasons: list[str] = re.findall(r"^ *- (.*)", message.partition("Errors:")[2], flags=re.MULTILINE)
    known = ("Expected a", "Problem with", "Does not validate")
    return next((reason for reason in reasons if not reason.startswith(known)), "")


def _unknown_option(refusal: _Refusal) -> str:
    if name := refusal.first(r"^Unrecognized arguments: (\S+)"):
        return unknown_option(name.partition("=")[0], refusal.options)
    if name := refusal.first(r"does not accept option '([^']+)'"):
        return unknown_option(f"--{name}", refusal.options)
    name = refusal.first(r"Option '([^']+)' is not accepted")
    if not name:
        return ""
    paths = re.findall(r"Problem with given class_path '([^']+)'", refusal.message)
    owner = pydoc.locate(paths[-1]) if paths else None
    of, known = "", []
    if inspect.isclass(owner):
        of = f" of {owner.__name__}"
        known = [f"{refusal.option}.{parameter}" for parameter in inspect.signature(owner).parameters]
    return unknown_option(f"{refusal.option}.{name}", known, of)


def _missing_option(refusal: _Refusal) -> str:
    name = refusal.first(r"Option '([^']+)' is required")
    full = ".".join([*refusal.keys, name]) if refusal.keys else name.rpartition(".")[2]
    return f"--{full} must be given, on the command line or by --config." if name else ""


def _wrong_choice(refusal: _Refusal) -> str:
    choices = refusal.first(r"Literal(\[.*?\])")
    names = [str(choice) for choice in ast.literal_eval(choices)] if choices else []
    near = did_you_mean(refusal.value, names)
    return f"{refusal.option} must be one of {', '.join(names)}, got {refusal.value!r}{near}" if names else ""


def _wrong_class(refusal: _Refusal) -> str:
    name = refusal.first(r"dot import path string: (\S+)") or refusal.first(r"^Unexpected import path format: (\S+)")
    key = refusal.keys[0] if refusal.keys else refusal.first(r"^--(\w+)\.help")
    if not name or key not in refusal.classes or len(refusal.keys) > 1:
        return ""
    what, known = refusal.classes[key]
    return f"--{key} must be {what}, got {name!r}{did_you_mean(name, known)}"


def _wrong_argument(refusal: _Refusal) -> str:
    return refusal_of_constructor(refusal.message)


def _wrong_kind(refusal: _Refusal) -> str:
    expected = re.findall(r"Expected an? (?:<class ')?([^'>\n]+)", refusal.message)
    expected = [kind for kind in expected if not kind.startswith(("dot import", "path but"))]
    if not (expected and refusal.keys and refusal.value):
        return ""
    if expected[0] == "NoneType" and len(refusal.keys) > 1:
        expected = expected[1:]  # of the value inside of which it is
    kinds = dict.fromkeys("null" if kind == "NoneType" else kind.rpartition(".")[2] for kind in expected)
    return f"{refusal.option} must be {' or '.join(kinds)}, got {refusal.value!r}; check it."
