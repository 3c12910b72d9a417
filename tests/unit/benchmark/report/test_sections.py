"""What the report says, in sentences and cells, on results whose numbers are known."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_results import Job, job, measured, scores, typical_results, write_results
from PIL import Image

from panda_anomalib.benchmark.report.analysis import analyse
from panda_anomalib.benchmark.report.blocks import Block, Cell, Details, Figure, Notice, Pictures, Section, Table, Text
from panda_anomalib.benchmark.report.reading import read_results
from panda_anomalib.benchmark.report.sections import make_sections


class Report:
    """Sections of the results in a folder, and ways to look into them."""

    def __init__(self, folder: Path) -> None:
        self.sections = make_sections(analyse(read_results([folder])))

    def blocks(self, anchor: str = "") -> list[Block]:
        """All blocks of a section, or of all sections, folded ones included."""
        chosen = [section for section in _all(self.sections) if anchor in ("", section.anchor)]
        assert chosen, f"no section {anchor}"
        return [block for section in chosen for block in _flat(section.blocks)]

    def table(self, caption: str) -> list[dict[str, Cell]]:
        """Rows of the only table with these words in its caption."""
        (table,) = [block for block in self.blocks() if isinstance(block, Table) and caption in block.caption]
        return [dict(zip(table.header, row, strict=True)) for row in table.cells]

    def notices(self) -> dict[str, str]:
        """Text -> level."""
        return {block.text: block.level for block in self.blocks("glance") if isinstance(block, Notice)}

    def text(self, anchor: str = "") -> str:
        """All paragraphs."""
        return "\n".join(block.text for block in self.blocks(anchor) if isinstance(block, Text))

    def names(self, anchor: str = "") -> list[str]:
        """Names of figures."""
        return [block.name for block in self.blocks(anchor) if isinstance(block, Figure)]


def _all(sections: Iterable[Section]) -> Iterator[Section]:
    for section in sections:
        yield section
        yield from _all(section.sections)


def _flat(blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Details):
            yield from _flat(block.blocks)


@pytest.fixture(scope="module")
def typical(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Three models, two data sets, one failure; see ``typical_results``."""
    return Report(typical_results(tmp_path_factory.mktemp("results"), np.random.default_rng(0)))


def rows_report(folder: Path, rows: list[dict[str, Any]], checks: list[dict[str, Any]] | None = None) -> Report:
    """Report on rows without scores."""
    return Report(write_results(folder, [(row, None) for row in rows], checks))


def test_order_of_sections(typical: Report) -> None:
    """What must be known first comes first, and nothing is missing."""
    anchors = [section.anchor for section in typical.sections]
    assert anchors == ["glance", "datasets", "ranks", "thresholds", "cost", "checks", "failures", "provenance"]


def test_best_is_bold(typical: Report) -> None:
    """The best of each column of the first table, and only that."""
    rows = typical.table("Mean AUROC over classes")
    assert [row["model"].text for row in rows if row["cifar10"].bold] == ["Dn2 knn"]
    assert [row["mean rank"].text for row in rows] == ["1.00", "3.00", "2.00"]


def test_alike_is_marked(typical: Report) -> None:
    """Where DeLong cannot tell a model from the best it has a mark, and where it can it has none."""
    marks = {row["class"].text: row["Patchcore"].mark for row in typical.table("wbc, by class")}
    tests = {(row["class"].text, row["other"].text): row["p after Holm"] for row in _paired(typical, "wbc")}
    assert marks["monocyte"] == "≈"
    for category in ("lymphocyte", "monocyte"):
        assert (marks[category] == "") == tests[category, "Patchcore"].bold
    assert not any(row["Dn2 knn"].mark for row in typical.table("wbc, by class"))


def _paired(report: Report, name: str) -> list[dict[str, Cell]]:
    blocks = [block for block in report.blocks(f"dataset-{name}") if isinstance(block, Table)]
    (table,) = [block for block in blocks if "minus each other one" in block.caption]
    return [dict(zip(table.header, row, strict=True)) for row in table.cells]


def test_sign_of_paired_differences(tmp_path: Path) -> None:
    """The best minus the other is positive, whichever was named first in the table."""
    good, bad = scores([0.0, 1, 2, 3.5], [3, 4, 5, 6]), scores([0.0, 1, 2, 3], [0.5, 2.5, 1.5, 4])
    jobs = [measured(job("bad", "wbc", "a"), bad), measured(job("good", "wbc", "a"), good)]
    (row,) = _paired(Report(write_results(tmp_path, jobs)), "wbc")
    assert (row["best"].text, row["other"].text) == ("good", "bad")
    assert row["difference"].text == f"+{100 * (15 / 16 - 10 / 16):.2f}"
    low, high = (float(part.replace("\N{MINUS SIGN}", "-")) for part in row["95 % interval"].text.split(" to "))
    assert low < 31.25 < high


def test_threshold_from_test_images_is_marked(typical: Report) -> None:
    """In the table and at the top; the others say where theirs is from."""
    rows = {(row["data set"].text, row["model"].text): row for row in typical.table("where the threshold came from")}
    assert rows["wbc", "Patchcore"]["threshold from"] == Cell("test images: optimistic", status="warning")
    assert rows["wbc", "Dn2 knn"]["threshold from"] == Cell("training images")
    assert rows["wbc", "Dn2 knn"]["95 % interval"].text.endswith("[400]")  # two classes of 200, not times two seeds
    (said,) = [text for text in typical.notices() if "test images themselves" in text]
    assert said.startswith("The threshold of Patchcore was set")


def test_too_many_false_alarms_are_marked(tmp_path: Path) -> None:
    """20 of 100 where 5 % were asked is above; an unknown rate is not recorded."""
    jobs = [
        measured(job("loose", "wbc", "a"), scores(np.arange(100.0), [200], threshold=79.5)),
        (job("Dfm", "wbc", "a", image_AUROC=0.9, false_positive_rate=None, threshold_source=""), None),
    ]
    rows = {row["model"].text: row for row in Report(write_results(tmp_path, jobs)).table("threshold came from")}
    assert rows["loose"]["realised"].text == "20.00"
    assert rows["loose"]["verdict"] == Cell("above what was asked", status="warning")
    assert [rows["Dfm"][name].text for name in ("threshold from", "asked", "verdict")] == [
        "not recorded",
        "-",
        "not recorded",
    ]


def test_failures_are_listed(typical: Report) -> None:
    """Each with its error, where the traceback is, and at the top how many."""
    (row,) = typical.table("1 of 24 jobs")
    assert [row[name].text for name in ("model", "data set", "class", "seed")] == ["Patchcore", "wbc", "monocyte", "1"]
    assert row["error"].text == "RuntimeError: coreset is <empty> & 'odd'"
    assert typical.notices()["1 of 24 jobs failed; they are listed under Failures, and missing elsewhere."] == "failed"


def test_only_failures(tmp_path: Path) -> None:
    """Nothing done: a report of failures, without tables of nothing."""
    report = rows_report(tmp_path, [job("Dn2", "wbc", "a", status="failed", error="x" * 600)])
    assert [section.anchor for section in report.sections] == ["glance", "checks", "failures", "provenance"]
    assert report.table("1 of 1 jobs")[0]["error"].text == "x" * 500 + " ..."


def test_incomplete_model_is_said_and_not_bold(tmp_path: Path) -> None:
    """A model that failed on the hard class leads the table of no one."""
    rows = [
        *(job("Dn2", "wbc", category, image_AUROC=value) for category, value in (("easy", 0.9), ("hard", 0.6))),
        *(job("Padim", "wbc", category, image_AUROC=value) for category, value in (("easy", 0.8), ("hard", 0.5))),
        job("Dfm", "wbc", "easy", image_AUROC=0.95),
        job("Dfm", "wbc", "hard", status="failed", error="no"),
    ]
    report = rows_report(tmp_path, rows)
    cells = {row["model"].text: row["wbc"] for row in report.table("Mean AUROC over classes")}
    assert cells == {"Dn2": Cell("75.00", bold=True), "Padim": Cell("65.00"), "Dfm": Cell("95.00", mark="*")}
    assert any("the means of Dfm (1 of 2 classes)" in text for text in report.notices())


@pytest.mark.parametrize(
    ("checks", "level", "text"),
    [
        (None, "warning", "was not checked"),
        ([{"name": "x", "status": "ok"}], "ok", "All 1 protocol checks passed"),
        ([{"name": "x", "status": "failed"}, {"name": "y", "status": "ok"}], "failed", "1 protocol check failed"),
        ([{"name": "x", "status": "not run"}], "warning", "1 protocol check could not be run"),
    ],
)
def test_checks_at_a_glance(tmp_path: Path, checks: list[dict[str, Any]] | None, level: str, text: str) -> None:
    """Checks that are missing or were not run are never taken for passed."""
    notices = rows_report(tmp_path, [job("Dn2", "wbc", "a", image_AUROC=0.9)], checks).notices()
    assert [found for said, found in notices.items() if text in said] == [level]
    assert level == "ok" or "ok" not in notices.values()


def test_checks_show_what_failed_first_and_pictures(tmp_path: Path) -> None:
    """Order by state; an unknown state counts as not run; pictures are read from the folder, lost ones named."""
    checks = [
        {"name": "sign", "status": "ok", "value": 1.0},
        {"name": "odd", "status": "great"},
        {"name": "twins", "status": "failed", "value": 2, "text": "two", "pictures": ["twins/0.png", "gone.png"]},
    ]
    (tmp_path / "twins").mkdir()
    Image.new("RGB", (900, 300), "teal").save(tmp_path / "twins/0.png")
    report = rows_report(tmp_path, [job("Dn2", "wbc", "a", image_AUROC=0.9)], checks)
    rows = report.table("Checks of the protocol")
    assert [(row["check"].text, row["result"].text) for row in rows] == [
        ("twins", "failed"),
        ("odd", "not run"),
        ("sign", "ok"),
    ]
    (strip,) = [block for block in report.blocks("checks") if isinstance(block, Pictures)]
    assert [picture.jpeg is not None for picture in strip.pictures] == [True, False]
    assert "moved or deleted" in strip.pictures[1].alt


def test_one_seed_is_said(tmp_path: Path) -> None:
    """No spread is shown where there is none, and the reader is told."""
    report = rows_report(tmp_path, [job(m, "wbc", "a", image_AUROC=0.9) for m in ("Dn2", "Dfm")])
    assert "Every job was run with one seed: there is no spread over seeds." in report.notices()
    assert report.table("Mean AUROC over classes")[0]["wbc"].text == "90.00"


def test_below_chance_is_said(tmp_path: Path) -> None:
    """An AUROC below 50 % may be a wrong sign."""
    (said,) = [t for t in rows_report(tmp_path, [job("Dn2", "wbc", "a", image_AUROC=0.3)]).notices() if "chance" in t]
    assert said == "Worse than chance, or scores with the wrong sign: Dn2 on wbc, a (30.0 %)."


def test_other_machines_and_commits_are_said(tmp_path: Path) -> None:
    """Times of two machines, rows of two commits."""
    rows = [job("Dn2", "wbc", "a", image_AUROC=0.9), job("Dfm", "wbc", "a", image_AUROC=0.9, machine="x", commit="y")]
    notices = rows_report(tmp_path, rows).notices()
    assert "The jobs come from 2 machines: times are not comparable between them." in notices
    assert any("2 commits" in text for text in notices)


def test_evaluators_that_differ_are_said(tmp_path: Path) -> None:
    """By how many points the raw distances have another AUROC."""
    jobs: list[Job] = [measured(job("Patchcore", "wbc", "a", image_AUROC=0.5), scores([1.0, 2, 3], [2.5, 4]))]
    notices = Report(write_results(tmp_path, jobs)).notices()
    assert any(text.startswith("The evaluator of Patchcore") and "33.3 points" in text for text in notices)


def test_few_data_sets_are_said(typical: Report) -> None:
    """Two data sets: ranks, no pairs, no diagram, and why; classes are not taken for data sets."""
    text = typical.text("ranks")
    assert "no independent data sets" in text
    assert "2 data sets are too few to tell models apart" in text
    assert typical.names("ranks") == []


def test_one_data_set_has_no_ranks(tmp_path: Path) -> None:
    """Ten classes of one data set remain one data set."""
    rows = [job(m, "wbc", f"{c}", image_AUROC=0.9 - 0.1 * (m == "b")) for c in range(10) for m in ("a", "b", "c")]
    report = rows_report(tmp_path, rows)
    assert "There is one data set, so models cannot be compared over data sets." in report.text("ranks")
    assert "mean rank" not in report.table("Mean AUROC over classes")[0]


def test_enough_data_sets_are_tested(tmp_path: Path, rng: np.random.Generator) -> None:
    """Eight data sets: p-values and the diagram; a model missing on one of them is left out by name."""
    pytest.importorskip("scikit_posthocs")
    rows = []
    for number, difficulty in enumerate(rng.uniform(0.1, 0.3, size=8)):
        for model, gain in (("a", 0.05), ("b", 0.02), ("c", 0.0), ("rare", 0.09)):
            if model != "rare" or number:
                auroc = 1 - difficulty + gain + rng.normal(scale=0.002)
                rows.append(job(model, f"set {number}", "all", image_AUROC=auroc))
    report = rows_report(tmp_path, rows)
    assert "Left out, because not every data set is complete: rare." in report.text("ranks")
    cells = {row["model"].text: row for row in report.table("Mean rank over data sets")}
    assert cells["a"]["b"].text == f"{3 * 2 / 2**8:.3f}"  # the three pairs agree on all eight
    assert cells["a"]["b"].bold
    assert cells["a"]["a"].text == ""
    assert report.names("ranks") == ["critical-difference"]


def test_published_numbers_beside_ours(tmp_path: Path) -> None:
    """Only for the same method over all classes, with its source; all others are folded away below."""
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    rows = [job(model, "cifar10", one, image_AUROC=0.9) for one in classes for model in ("Dn2", "Patchcore")]
    report = rows_report(tmp_path, rows)
    beside = {row["model"].text: row["published"].text for row in report.table("cifar10: AUROC in percent")}
    assert beside == {"Dn2": "92.5 (Unadapted kNN; PANDA, arXiv 2010.05903v1, Tab. 1)", "Patchcore": "-"}
    by_class = {row["class"].text: row["PANDA"].text for row in report.table("published AUROC in percent, by class")}
    assert by_class["horse"] == "97.53"


def test_shared_passes_are_marked(tmp_path: Path) -> None:
    """Times that contain a share of a common pass say so; unknown ones are a dash, not zero."""
    rows = [
        job("Dn2", "wbc", "a", image_AUROC=0.9, shared_embeddings=True, num_test_normal=30, num_test_anomalous=20),
        job("Dfm", "wbc", "a", image_AUROC=0.9, fit_seconds=None, test_seconds=None, job_seconds=90, bank_mib=None),
    ]
    found = {row["model"].text: row for row in rows_report(tmp_path, rows).table("memory: the largest")}
    assert found["Dn2"]["fit"] == Cell("2 s", mark="§")
    assert found["Dn2"]["images tested per second"].text == "50"
    assert [found["Dfm"][name].text for name in ("fit", "whole job", "memory bank")] == ["-", "1.5 min", "-"]


def test_no_costs_recorded(tmp_path: Path) -> None:
    """Without any time or memory there is no such section."""
    costs = dict.fromkeys(("fit_seconds", "test_seconds", "job_seconds", "peak_memory_mib", "bank_mib"))
    report = rows_report(tmp_path, [job("Dn2", "wbc", "a", image_AUROC=0.9) | costs])
    assert "cost" not in [section.anchor for section in report.sections]


def test_example_pictures(tmp_path: Path) -> None:
    """The worst images of the hardest class, where the files are still there."""
    table = scores([0.0, 1, 6], [2, 5, 7, 8], prefix=str(tmp_path / "images"))
    for number, path in enumerate(table["image_path"]):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if number != 2:
            Image.new("RGB", (20, 20), "teal").save(path)
    report = Report(write_results(tmp_path / "results", [measured(job("Dn2", "wbc", "a"), table)]))
    normal, anomalous = [block for block in report.blocks("dataset-wbc") if isinstance(block, Pictures)]
    assert [picture.jpeg is not None for picture in normal.pictures] == [False, True, True]
    assert normal.pictures[0].alt == "0/00002.png: moved or deleted"
    assert normal.pictures[0].caption == "more distant than 50 % of anomalous"
    assert anomalous.pictures[0].caption == "less distant than 33 % of normal"


def test_lost_pictures_are_one_sentence(typical: Report) -> None:
    """Twelve empty frames would say less."""
    assert "The images are not on this machine, or cannot be read ('test/0/" in typical.text("dataset-wbc")


def test_figures_of_a_data_set(typical: Report) -> None:
    """Bars and ROC for each data set, time against AUROC, each with an alternative text that has numbers."""
    assert typical.names("dataset-wbc") == ["wbc-classes", "wbc-roc"]
    assert typical.names("cost") == ["cifar10-cost", "wbc-cost"]
    bars = next(block for block in typical.blocks("dataset-wbc") if isinstance(block, Figure))
    shown = {row["class"].text: float(row["Dn2 knn"].text.split(" ")[0]) for row in typical.table("wbc, by class")}
    told = re.search(r"Dn2 knn goes from ([\d.]+) percent on lymphocyte to ([\d.]+) on monocyte", bars.alt)
    assert told
    assert [float(x) for x in told.groups()] == pytest.approx([shown["lymphocyte"], shown["monocyte"]], abs=0.06)


def test_provenance_is_shown(typical: Report) -> None:
    """Commit, versions and machine as recorded."""
    values = {row["what"].text: row["value"].text for row in typical.table("What the jobs recorded")}
    assert values["commit"] == "1234567"
    assert values["versions"] == "python 3.11.7, torch 2.10.0"
    assert values["jobs started"] == "2026-01-02T03:04:00 to 2026-01-02T03:04:01"
