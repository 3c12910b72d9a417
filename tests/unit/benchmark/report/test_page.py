"""Blocks as HTML and Markdown: nothing from outside, nothing unescaped, every block shown."""

import html.parser
import re
from pathlib import Path

import numpy as np
import pytest
from benchmark_results import job, typical_results, write_results

from panda_anomalib.benchmark.report import write_report
from panda_anomalib.benchmark.report.blocks import (
    Cell,
    Details,
    Figure,
    Items,
    Notice,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
)
from panda_anomalib.benchmark.report.figures.style import LINE, PAPER, SERIES, TEXT, draw, recoloured
from panda_anomalib.benchmark.report.page import Page, files_of, to_html, to_markdown

ODD = "a <b> & 'c' | _d_ * `e` $f$"


class Outline(html.parser.HTMLParser):
    """Tags that are opened and closed, ids, and what is fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note ids and addresses."""
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in {"src", "href", "xlink:href"} and not str(value).startswith(("#", "data:")):
                self.fetched.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        """Every end has its beginning."""
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written report."""
    results = typical_results(tmp_path_factory.mktemp("results"), np.random.default_rng(0))
    write_report([results])
    return results / "report"


def test_page_stands_alone(folder: Path) -> None:
    """Tags match, ids are unique, headings do not jump, and nothing is fetched, not by the style sheet either."""
    text = (folder / "report.html").read_text()
    outline = Outline(text)
    assert outline.open == []
    assert outline.fetched == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert outline.headings[:4] == ["h1", "h2", "h2", "h3"]
    assert not re.search(r"<script|@import|url\((?!#)|https?://(?!www\.w3\.org)", text)


def test_links_lead_somewhere(folder: Path) -> None:
    """Every address inside the page is there."""
    text = (folder / "report.html").read_text()
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(Outline(text).ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(Outline(text).ids)


def test_markdown_shows_its_pictures(folder: Path) -> None:
    """Every picture of the Markdown lies beside it, and no other."""
    shown = re.findall(r"\]\((report_files/[^)]+)\)", (folder / "report.md").read_text())
    assert sorted(shown) == sorted(str(path.relative_to(folder)) for path in (folder / "report_files").iterdir())
    assert len(shown) == 6


def test_tables_of_markdown_are_whole(folder: Path) -> None:
    """Rows of a table follow each other and have as many cells as its head."""
    lines = (folder / "report.md").read_text().splitlines()
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"\|(-+:?\|)+", line)]
    assert len(rules) > 8
    for i in rules:
        columns = len(re.findall(r"(?<!\\)\|", lines[i]))
        assert len(re.findall(r"(?<!\\)\|", lines[i - 1])) == columns
        assert lines[i - 2] == ""
        assert lines[i + 1].startswith("|")
        assert len(re.findall(r"(?<!\\)\|", lines[i + 1])) == columns


def page_of(*blocks: object) -> Page:
    """A page of one section."""
    return Page(ODD, ODD, [Section("one", ODD, list(blocks))])  # type: ignore[arg-type]


def test_text_is_escaped_everywhere() -> None:
    """Names of models and errors may hold anything; no block lets it become markup."""
    blocks = [
        Text(ODD),
        Notice("failed", ODD),
        Items([ODD]),
        Table(ODD, [ODD, "x"], [[ODD, Cell(ODD, bold=True, mark=ODD, note=ODD)]], ODD),
        Pictures(ODD, [Picture("p", b"jpeg", ODD, ODD), Picture("q", None, ODD, ODD)]),
        Details(ODD, [Text(ODD)]),
        Figure("f", "<svg></svg>", ODD, ODD),
    ]
    text = to_html(page_of(*blocks))
    assert "<b>" not in text
    assert Outline(text).open == []
    plain = text.replace("<svg></svg>", "")
    assert plain.count("a &lt;b&gt; &amp; &#39;c&#39;") == plain.count("&lt;b&gt;") > 20
    lines = to_markdown(page_of(*blocks), "files").splitlines()
    lines.remove("<summary>a &lt;b&gt; &amp; &#39;c&#39; | _d_ * `e` $f$</summary>")  # HTML there, too
    odd = [line for line in lines if "d" in line and "e" in line and "c" in line]
    assert len(odd) >= 12
    assert not [line for line in odd if re.search(r"(?<!\\)(<|>|_d|`e|\$f|' \|)", line.removeprefix("> "))]


def test_files_of_folded_blocks() -> None:
    """Figures and pictures inside details are written, too; a lost picture has no file."""
    strip = Pictures("", [Picture("p", b"jpeg", "", ""), Picture("q", None, "", "")])
    assert files_of(page_of(Details("", [strip, Figure("f", "<svg/>", "", "")]))) == {
        "p.jpg": b"jpeg",
        "f.svg": b"<svg/>",
    }


def test_bold_marks_and_states_are_words() -> None:
    """What is bold or coloured is also said to those who do not see it."""
    table = Table("t", ["m", "x", "y"], [["a", Cell("1", bold=True, mark="≈"), Cell("failed", status="failed")]])
    text = to_html(page_of(table))
    assert '<strong>1</strong><span class="unseen"> (bold)</span><span class="mark">≈</span>' in text
    assert '<span class="status failed">failed</span>' in text
    assert "| a | **1** ≈ | failed |" in to_markdown(page_of(table), "files")


def test_columns_of_numbers_stand_right() -> None:
    """Numbers, signs, dashes and p-values make a column of numbers; a word makes it text."""
    rows = [["a", "-", "< 0.001", "one"], ["b", "\N{MINUS SIGN}1.5", "0.2", "2"], ["c", "+2 s", "undefined", "x" * 50]]
    assert Table("", ["", "", "", ""], rows).styles == ["text", "number", "number", "long"]


def test_drawing_takes_the_pages_colours() -> None:
    """All our colours become variables, ids get the figure's name, and its size gives way to the page's."""

    def paint(canvas: object) -> None:
        axes = canvas.subplots()  # type: ignore[attr-defined]
        axes.plot([0, 1], [0, 1], color=SERIES[0])
        axes.bar([0], [1], color=SERIES[1], hatch="/")

    svg = draw(3, 2, paint)
    assert svg == draw(3, 2, paint)  # the same bytes, whenever it is drawn
    assert "<text" in svg  # not outlines
    inside = recoloured(svg, "mine")
    assert not any(color in inside for color in (TEXT, PAPER, LINE, *SERIES))
    assert "var(--series-1)" in inside
    ids = re.findall(r' id="([^"]+)"', inside)
    assert ids
    assert all(name.startswith("mine-") for name in ids)
    assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', inside))
    assert all(f"#{name}" not in inside for name in re.findall(r' id="([^"]+)"', svg))
    assert not re.search(r'<svg[^>]* width="', inside)


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_contrast_of_both_schemes() -> None:
    """Texts have 4.5 to 1 on paper and on raised paper, drawings 3 to 1 and more, in light and dark."""
    style = (Path(write_report.__code__.co_filename).parent / "templates/page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    for scheme in (light, dark):
        colors = dict(re.findall(r"--([\w-]+): (#\w{6})", scheme))
        for name, color in colors.items():
            for paper in ("paper", "raised"):
                bright, dim = sorted((luminance(color), luminance(colors[paper])), reverse=True)
                needed = {"paper": 1, "raised": 1, "line": 1}.get(name, 3 if name.startswith("series") else 4.5)
                assert (bright + 0.05) / (dim + 0.05) >= needed, f"{name} {color} on {paper}"
    assert [f"#{color[1:]}" for color in re.findall(r"--series-\d: (#\w{6})", light)] == list(SERIES)


def test_report_of_one_row(tmp_path: Path) -> None:
    """The least there can be: one model, one class, one seed, no scores, no times, no checks."""
    write_results(tmp_path, [({"job_id": "x", "model": "Dn2", "dataset": "wbc", "image_AUROC": 0.9}, None)])
    written = write_report([tmp_path])
    text = written.markdown.read_text()
    assert "| Dn2 | 90.00 |" in text
    assert "**90.00**" not in text
    assert Outline(written.html.read_text()).open == []


def test_same_results_same_bytes(tmp_path: Path, folder: Path) -> None:
    """Nothing of the day or the process enters a report."""
    written = write_report([folder.parent], tmp_path / "again")
    assert written.html.read_bytes() == (folder / "report.html").read_bytes()


def test_earlier_report_is_replaced(tmp_path: Path) -> None:
    """Pictures of an earlier report go, files of others stay; an output that is a file is refused before any work."""
    results = write_results(tmp_path / "results", [(job("Dn2", "wbc", "a", image_AUROC=0.9), None)])
    files = tmp_path / "out/report_files"
    files.mkdir(parents=True)
    (files / "old-roc.svg").write_text("old")
    (files / "notes.txt").write_text("mine")
    write_report([results], tmp_path / "out")
    assert sorted(path.name for path in files.iterdir()) == ["notes.txt", "wbc-classes.svg"]
    with pytest.raises(ValueError, match=r"output must be a folder, got the file '.*notes\.txt'"):
        write_report([results], files / "notes.txt")
    with pytest.raises(ValueError, match="at least one results folder"):
        write_report([])
