"""From results folders to the files of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from panda_anomalib.atomic import check_writable, write_atomically
from panda_anomalib.benchmark.report.analysis import Analysis, analyse
from panda_anomalib.benchmark.report.blocks import Notice
from panda_anomalib.benchmark.report.cautions import cautions
from panda_anomalib.benchmark.report.page import Page, files_of, to_html, to_markdown
from panda_anomalib.benchmark.report.reading import read_results
from panda_anomalib.benchmark.report.sections import make_sections

__all__ = ["Written", "write_report"]

_PICTURES = "report_files"


@dataclass(frozen=True)
class Written:
    """The files of a report, and what it says first."""

    html: Path
    markdown: Path
    lead: str
    notices: list[Notice]


def write_report(folders: Sequence[Path | str], output: Path | str | None = None) -> Written:
    """Read results and write ``report.html``, ``report.md`` and the pictures of the latter, ``report_files/``.

    An earlier report in the same place is replaced. The same results give the same bytes.

    Args:
        folders: Results folders, at least one; several are read as one benchmark.
        output: Folder to write to, made if it is not there; by default ``report`` in the first folder.

    Raises:
        FileNotFoundError: If a folder is not there or holds no results.
        OSError: If the output cannot be written to.
        ValueError: If results cannot be understood, or the output is a file.
    """
    if not folders:
        raise ValueError("folders must name at least one results folder, got none.")
    target = Path(output) if output is not None else Path(folders[0]) / "report"
    if target.exists() and not target.is_dir():
        raise ValueError(f"output must be a folder, got the file '{target}'; name another.")
    check_writable(target, "output")
    analysis = analyse(read_results([Path(folder) for folder in folders]))
    page = Page(_title(analysis), _lead(analysis), make_sections(analysis))
    html, markdown = target / "report.html", target / "report.md"
    texts = {html: to_html(page), markdown: to_markdown(page, _PICTURES)}
    _write_pictures(target / _PICTURES, files_of(page))
    for path, text in texts.items():
        write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))
    return Written(html, markdown, page.lead, cautions(analysis))


def _write_pictures(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, partial(Path.write_bytes, data=content))
    for path in folder.iterdir():  # of an earlier report
        if path.suffix in (".svg", ".jpg") and path.name not in files:
            path.unlink()


def _title(analysis: Analysis) -> str:
    names = [str(name) for name in analysis.results.jobs["dataset"].unique()]
    return f"Benchmark: {', '.join(names[:4])}{' and others' if len(names) > 4 else ''}"


def _lead(analysis: Analysis) -> str:
    jobs = analysis.results.jobs
    counts = {
        "model": jobs["model"].nunique(),
        "data set": jobs["dataset"].nunique(),
        "class": jobs[["dataset", "category"]].drop_duplicates().shape[0],
        "seed": jobs["seed"].nunique(),
    }
    plural = {"class": "classes"}
    parts = [f"{count} {name if count == 1 else plural.get(name, name + 's')}" for name, count in counts.items()]
    failed = len(analysis.results.failed)
    return f"{len(jobs)} jobs ({failed} failed): {', '.join(parts)}."
