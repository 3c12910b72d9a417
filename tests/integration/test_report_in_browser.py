"""The report's page in a real browser, on a laptop and a phone, in light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from benchmark_results import job, typical_results, write_results

from panda_anomalib.benchmark.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
LAPTOP, PHONE = (1280, 800), (390, 844)

# Texts of a drawing that lie over another, or stick out of it.
COLLISIONS = """svg => {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    const found = boxes.filter(([, box]) => box.left < frame.left - 1 || box.right > frame.right + 1
        || box.top < frame.top - 1 || box.bottom > frame.bottom + 1).map(([text]) => text + " sticks out");
    boxes.forEach(([text, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 2 && high > 4) found.push(text + " lies over " + other);
    }));
    return found;
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Page on typical results and on eight data sets with long names, so that every kind of block is there."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("results")
    rows = [
        job(model, f"data set {number}", "all", image_AUROC=0.7 + 0.02 * number + gain, fit_seconds=seconds)
        for number in range(8)
        for model, gain, seconds in (
            ("Dn2 knn", 0.1, 2.0),
            ("Dn2 center", 0.0, 1.5),
            ("Patchcore", 0.05 * rng.random(), 700.0),
            ("A model with a name that is much longer than others", -0.1, 30.0),
        )
    ]
    write_results(folder / "many", [(row, None) for row in rows])
    return write_report([typical_results(folder / "typical", rng), folder / "many"], folder / "report").html


@pytest.fixture(
    scope="module",
    params=[(LAPTOP, "light"), (PHONE, "dark"), (PHONE, "light")],
    ids=["laptop", "phone", "phone-light"],
)
def page(request: pytest.FixtureRequest, browser: "Browser", report: Path) -> Iterator["Page"]:
    """The page with everything unfolded; ``page.faults`` collects errors and what it fetches."""
    (width, height), scheme = request.param
    chosen: Literal["light", "dark"] = scheme
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=chosen)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda message: faults.append(message.text))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda sent: faults.append(sent.url) if not sent.url.startswith(("file:", "data:")) else None)
    opened.goto(report.as_uri())
    opened.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    opened.faults = faults  # type: ignore[attr-defined]
    yield opened
    context.close()


def test_nothing_is_fetched_and_nothing_fails(page: Any) -> None:
    """No error in the console, and no request but for the page itself."""
    assert page.faults == []


def test_page_does_not_scroll_sideways(page: "Page") -> None:
    """Wide tables scroll inside; the page itself is as wide as the window."""
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    inside = page.evaluate("[...document.querySelectorAll('.scroll')].some(one => one.scrollWidth > one.clientWidth)")
    assert inside or page.evaluate("innerWidth") > 1000


def test_first_column_stays(page: "Page") -> None:
    """Scrolled to the right, a table still shows what its rows are."""
    left = """() => {
        const wide = [...document.querySelectorAll('.scroll')].find(one => one.scrollWidth > one.clientWidth + 20);
        if (!wide) return 0;
        wide.scrollLeft = 20;
        return wide.querySelector('tbody th').getBoundingClientRect().left - wide.getBoundingClientRect().left;
    }"""
    assert abs(page.evaluate(left)) < 1


def test_accessible(page: "Page") -> None:
    """No rule of axe-core is broken: contrast, names, headings, landmarks, regions one can scroll by keyboard."""
    found = Axe().run(page).response["violations"]
    assert {rule["id"]: [node["html"][:200] for node in rule["nodes"][:3]] for rule in found} == {}


def test_drawings_can_be_read(page: "Page") -> None:
    """Texts stay inside their drawing, do not lie over each other, and are at least 8 pixels high on a phone."""
    for number in range(page.locator("svg").count()):
        drawing = page.locator("svg").nth(number)
        assert drawing.evaluate(COLLISIONS) == []
    size = "text => text.ownerSVGElement.getScreenCTM().a * parseFloat(getComputedStyle(text).fontSize)"
    assert min(page.evaluate(f"[...document.querySelectorAll('svg text')].map({size})")) >= 8


def test_colours_follow_the_scheme(page: "Page") -> None:
    """Paper and drawings are dark in the dark: the drawing's ground is that of the page."""
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert ground == ("rgb(15, 20, 26)" if dark else "rgb(255, 255, 255)")
    assert page.evaluate("getComputedStyle(document.querySelector('svg path')).fill") == ground
