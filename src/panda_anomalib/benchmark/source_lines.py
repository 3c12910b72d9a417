"""Where in a YAML file the word stands that an error is about."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

__all__ = ["line_of"]


def line_of(path: Path, message: str) -> int | None:
    """Line of the value or key that a message quotes behind "got", counted from 1; None where there is none."""
    quoted = re.search(r"got '([^']*)'", message)
    if quoted is None:
        return None
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    lines = [node.start_mark.line + 1 for node in _scalars(root) if node.value == quoted[1]]
    return lines[0] if lines else None


def _scalars(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for element in node.value:
            yield from _scalars(element)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(key)
            yield from _scalars(value)
