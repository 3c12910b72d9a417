"""The argument parser of our tools: short help with an example, and the nearest option to a misspelt one."""

import argparse
import itertools
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from rich_argparse import RawDescriptionRichHelpFormatter
from typing_extensions import override

from panda_anomalib.commands import PROGRAM, SUBCOMMANDS, TOOLS, did_you_mean, unknown_option

__all__ = ["ToolParser"]


class ToolParser(argparse.ArgumentParser):
    """Parser of one tool.

    Args:
        tool: Its name, a key of ``TOOLS`` or ``SUBCOMMANDS``, which also describe it.
        examples: Commands that work, shown at the end of the help.
        more: Where there is more to read: what, and the command that shows it.
    """

    def __init__(self, tool: str, *examples: str, more: Mapping[str, str] | None = None) -> None:
        lines = [f"example{'s' * (len(examples) > 1)}:", *(f"  {example}" for example in examples)]
        if more:
            width = max(map(len, more))
            lines += ["", "more:", *(f"  {what:{width}}  {command}" for what, command in more.items())]
        super().__init__(
            prog=f"{PROGRAM} {tool}",
            description={**SUBCOMMANDS, **TOOLS}[tool],
            epilog="\n".join(lines),
            formatter_class=RawDescriptionRichHelpFormatter,
            allow_abbrev=False,
        )

    @override
    def parse_known_args(self, args: Any = None, namespace: Any = None, **rest: Any) -> Any:
        # before argparse misses the required option that was misspelt
        if args is not None and self._subparsers is None:
            known = [name for action in self._actions for name in action.option_strings]
            for option in (word.partition("=")[0] for word in itertools.takewhile("--".__ne__, args)):
                if option.startswith("--") and option not in known:
                    self.error(unknown_option(option, known))
        return super().parse_known_args(args, namespace, **rest)

    @override
    def error(self, message: str) -> NoReturn:
        if choice := re.match(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message):
            known = [name.strip("'") for name in choice[3].split(", ")]
            message = (
                f"{choice[1]} must be one of {', '.join(known)}, got {choice[2]!r}{did_you_mean(choice[2], known)}"
            )
        message = re.sub(r"^argument (--\S+): must", r"\1 must", message)
        self.exit(2, f"error: {message}\n")
