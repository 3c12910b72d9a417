"""What a report is made of, whether it becomes HTML or Markdown; text is plain text, and escaped by the page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

__all__ = ["Block", "Cell", "Details", "Figure", "Items", "Notice", "Picture", "Pictures", "Section", "Table", "Text"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        bold: Whether it stands out; the table's remark says why.
        mark: A sign behind the text that the table's remark explains.
        status: ok, warning or failed; coloured, beside the word that says it.
        note: A second line in small print.
    """

    text: str
    bold: bool = False
    mark: str = ""
    status: str = ""
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Notice:
    """A sentence that must not be overlooked; ``level`` is failed, warning, note or ok."""

    kind: ClassVar[str] = "notice"
    level: str
    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    kind: ClassVar[str] = "items"
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: What it shows, with the unit.
        remark: How to read it, below.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    remark: str = ""

    @property
    def cells(self) -> list[list[Cell]]:
        """All rows as cells."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]

    @property
    def styles(self) -> list[str]:
        """Of each column: number, long or text."""
        columns = [[cell.text for cell in column] for column in zip(*self.cells, strict=True)]
        return [_style(column) for column in columns] or ["text"] * len(self.header)


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        name: File name without suffix, unique in the report.
        svg: The drawing in the colours of print.
        alt: What it shows, for those who do not see it.
        caption: How to read it.
    """

    kind: ClassVar[str] = "figure"
    name: str
    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """A photograph; ``jpeg`` is None where the file could not be read, and then ``alt`` says why."""

    name: str
    jpeg: bytes | None
    alt: str
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Photographs side by side."""

    kind: ClassVar[str] = "pictures"
    caption: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Details:
    """What is folded away until it is asked for."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence["Block"]


def _style(column: list[str]) -> str:
    if all(re.match(r"$|-$|undefined|[<+\N{MINUS SIGN}]? ?\d", text) for text in column):
        return "number"
    return "long" if max(map(len, column)) > 40 else "text"


Block = Text | Notice | Items | Table | Figure | Pictures | Details


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading; ``anchor`` is its address on the page."""

    anchor: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    sections: list["Section"] = field(default_factory=list)
