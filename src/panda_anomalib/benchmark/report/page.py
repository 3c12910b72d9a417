"""Sections -> one HTML page that needs nothing else, and Markdown with its pictures beside it."""

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from panda_anomalib.benchmark.report.blocks import Block, Details, Figure, Pictures, Section
from panda_anomalib.benchmark.report.figures.style import recoloured

__all__ = ["Page", "files_of", "to_html", "to_markdown"]


@dataclass(frozen=True)
class Page:
    """A report before it is written: its title, one sentence on what was run, and its sections."""

    title: str
    lead: str
    sections: list[Section] = field(default_factory=list)


def to_html(page: Page) -> str:
    """One page without anything from elsewhere: no script, style, font or picture is fetched."""
    return _environment().get_template("page.html.j2").render(page=page)


def to_markdown(page: Page, folder: str) -> str:
    """Markdown (GitHub's) whose pictures lie in ``folder`` beside it, by the names of ``files_of``."""
    text = _environment().get_template("page.md.j2").render(page=page, folder=folder)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def files_of(page: Page) -> dict[str, bytes]:
    """Pictures that the Markdown shows, by file name."""
    files = {}
    for block in _flat(block for section in _all(page.sections) for block in section.blocks):
        if isinstance(block, Figure):
            files[f"{block.name}.svg"] = block.svg.encode()
        elif isinstance(block, Pictures):
            files |= {f"{picture.name}.jpg": picture.jpeg for picture in block.pictures if picture.jpeg}
    return files


def _all(sections: Iterable[Section]) -> Iterator[Section]:
    for section in sections:
        yield section
        yield from _all(section.sections)


def _flat(blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        if isinstance(block, Details):
            yield from _flat(block.blocks)
        else:
            yield block


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("panda_anomalib.benchmark.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(markdown=_escaped, data=_data, svg=_svg)
    return environment


def _escaped(text: Any) -> str:
    """Plain text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", " ".join(str(text).split()))


def _data(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _svg(figure: Figure) -> Markup:
    return Markup(recoloured(figure.svg, figure.name))  # noqa: S704 - drawn by us; matplotlib escapes its texts
