"""The argument parser of our tools: short help with an example, and the nearest option to a misspelt one."""

import argparse
import re
from typing import NoReturn

from rich_argparse import RawDescriptionRichHelpFormatter
from typing_extensions import override

from panda_anomalib.commands import PROGRAM, TOOLS, did_you_mean

__all__ = ["ToolParser"]


class ToolParser(argparse.ArgumentParser):
    """Parser of one tool.

    Args:
        tool: Its name, a key of ``TOOLS``, which also describes it.
        example: A command that works, shown at the end of the help.
    """

    def __init__(self, tool: str, example: str) -> None:
        super().__init__(
            prog=f"{PROGRAM} {tool}",
            description=TOOLS[tool],
            epilog=f"example:\n  {example}",
            formatter_class=RawDescriptionRichHelpFormatter,
            allow_abbrev=False,
        )

    @override
    def error(self, message: str) -> NoReturn:
        if option := re.match(r"unrecognized arguments: (--[^\s=]+)", message):
            known = [option for action in self._actions for option in action.option_strings]
            message += did_you_mean(option[1], known)
        self.exit(2, f"error: {message}\n")
