"""The pages in a real browser, as a user uses them: drop, choose, look, go on."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from runs import engine, one_class, seeded
from served import serving

from panda_anomalib import Dn2
from panda_anomalib.app import Gallery, make_site
from panda_anomalib.scoring import ImageInspector

pytestmark = pytest.mark.browser

_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]  # root has no sandbox, a container little shared memory
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    names = (os.environ.get("PANDA_BROWSER", ""), "chromium", "chromium-browser", "google-chrome")
    executable = next((found for name in names if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip("no Chromium found; install it, or set PANDA_BROWSER")
    driver = pytest.importorskip("playwright.sync_api")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def inspector(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageInspector:
    """A small model of astronauts."""
    run = engine(tmp_path_factory.mktemp("run"))
    run.fit(seeded(Dn2), datamodule=one_class(photographs))
    return ImageInspector(run.trainer.checkpoint_callback.best_model_path, runtime="eager")


@pytest.fixture
def page(browser: Any, inspector: ImageInspector, tmp_path: Path) -> Iterator[Any]:
    """First page of a new server. At the end: nothing came from elsewhere, and nothing was complained about."""
    (tmp_path / "uploads").mkdir()
    with serving(make_site(Gallery(inspector), tmp_path / "uploads")) as address:
        context = browser.new_context(base_url=f"http://{address}", viewport={"width": 1280, "height": 900})
        page = context.new_page()
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto("/")
        yield page
        context.close()
        assert [url for url in asked if not url.startswith(f"http://{address}/")] == []
        # the browser's own line about a file that was refused, which the page tells as well
        assert [text for text in complaints if "status of 422" not in text] == []


def _drop(page: Any, *paths: Path) -> None:
    """Drag files from the desktop onto the page, by the browser's own protocol."""
    tools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        tools.send("Input.dispatchDragEvent", {"type": kind, "data": data, "x": 100, "y": 150})


def _wait_for_pictures(page: Any) -> None:
    page.wait_for_load_state("networkidle")
    assert page.evaluate("[...document.images].filter((image) => !image.naturalWidth).map((image) => image.src)") == []


def test_a_dropped_image_is_shown_with_its_verdict(page: Any, photographs: Path, inspector: ImageInspector) -> None:
    """What the model says, with the pictures it was compared with."""
    path = photographs / "coffee/05.png"
    row = inspector.inspect(path)
    _drop(page, path)
    page.wait_for_url("**/image/1")
    assert page.locator("h1").inner_text() == "05.png"
    assert page.locator(".figure").inner_text() == f"score {row['score']:.3f}"
    assert page.locator(".badge").inner_text().lower() == ("anomalous" if row["predicted_label"] else "normal")
    share = page.evaluate(
        "document.querySelector('.value').getBoundingClientRect().width / "
        "document.querySelector('.ground').getBoundingClientRect().width"
    )
    assert share == pytest.approx(row["score"], abs=0.01)
    told = [text.split("\n")[0] for text in page.locator(".neighbors li").all_inner_texts()]
    assert told == [f"distance {row[f'neighbor_{rank}_distance']:.4g}" for rank in range(1, 6)]
    assert page.locator(".neighbors img").count() == 5
    _drop(page, photographs / "coffee/06.png")  # the next one, onto this page
    page.wait_for_url("**/image/2")
    page.goto("/image/1")
    _wait_for_pictures(page)
    with page.expect_download() as download:
        page.get_by_text("Save as a picture").click()
    assert download.value.suggested_filename == "05.png.verdict.png"
    with Image.open(download.value.path()) as picture:
        assert picture.width == 880


def test_a_dropped_folder_is_sorted_and_looked_through(
    page: Any, photographs: Path, tmp_path: Path, inspector: ImageInspector
) -> None:
    """By mouse and by keys; what cannot be used is told, and does not hold up the rest."""
    folder = tmp_path / "mixed"
    shutil.copytree(photographs / "coffee", folder / "deep/inside")
    (folder / "broken.png").write_bytes(b"half")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden").touch()
    from playwright.sync_api import expect

    distances = {path.name: inspector.inspect(path)["distance"] for path in (photographs / "coffee").iterdir()}
    expected = sorted(distances, key=lambda name: -distances[name])
    _drop(page, folder)
    page.wait_for_selector(".grid")
    assert page.locator("h1").inner_text().startswith("12 images, ")
    assert page.locator(".card .name").all_inner_texts() == expected
    problems = page.locator("details li").all_inner_texts()
    assert [text.split(":")[0] for text in sorted(problems)] == ["broken.png", "notes.txt"]
    page.locator(".card").first.click()
    page.wait_for_selector("article")
    for name in expected[:3]:
        expect(page.locator("h1")).to_have_text(name)
        page.wait_for_load_state()  # the heading is there before the page listens to keys
        page.keyboard.press("ArrowRight")
    expect(page.locator("h1")).to_have_text(expected[3])
    page.wait_for_load_state()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("h1")).to_have_text(expected[2])
    page.get_by_text("3 of 12").click()
    page.wait_for_url("**/?page=0")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".grid")).to_have_count(0)
    expect(page.locator("details")).to_have_count(0)


def test_chosen_files_and_a_named_folder(page: Any, photographs: Path, tmp_path: Path) -> None:
    """The ways without a mouse that drags."""
    from playwright.sync_api import expect

    page.set_input_files("#files", [photographs / "coffee/00.png", photographs / "coffee/01.png"])
    expect(page.locator(".card")).to_have_count(2)
    page.wait_for_load_state()
    page.fill("#path", str(tmp_path / "nowhere"))
    page.keyboard.press("Enter")
    page.wait_for_selector("#problem:visible")
    assert page.locator("#problem").inner_text() == f"folder must exist on this machine, got '{tmp_path / 'nowhere'}'."
    page.fill("#path", str(photographs / "coffee"))
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(14)


def test_a_file_that_is_no_image_is_told_in_the_page(page: Any, tmp_path: Path) -> None:
    """Where it was dropped."""
    (tmp_path / "broken.png").write_bytes(b"half")
    _drop(page, tmp_path / "broken.png")
    page.wait_for_selector("details.problem")
    assert "broken.png: image 'broken.png' cannot be read" in page.locator("details li").inner_text()


def test_a_server_that_is_gone_is_told(page: Any, photographs: Path) -> None:
    """Not a page on which nothing happens."""
    page.route("**/upload*", lambda route: route.fulfill(status=200, body="not what was asked for"))
    _drop(page, photographs / "coffee/00.png")
    page.wait_for_selector("#problem:visible")
    assert page.locator("#problem").inner_text().startswith("The server does not answer (")


def test_everything_fits_on_a_phone(page: Any, photographs: Path) -> None:
    """Nothing is cut off at the side, on either page, whatever the names."""
    page.set_viewport_size(PHONE)
    long_name = page.evaluate("'a'.repeat(120) + '.png'")
    content = {"name": long_name, "mimeType": "image/png", "buffer": (photographs / "coffee/00.png").read_bytes()}
    for expected in ("/image/1", "/"):
        page.goto("/")
        page.set_input_files("#files", [content] * (1 if expected != "/" else 2))
        page.wait_for_url(f"**{expected}")
        _wait_for_pictures(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        outside = (
            "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)"
        )
        assert page.evaluate(f"{outside}.map((e) => e.outerHTML)") == []
