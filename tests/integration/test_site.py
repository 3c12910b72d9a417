"""The documentation as a site: built without a warning, complete, and without a byte from the internet."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT

import panda_anomalib
from panda_anomalib import callbacks, data, scorers

LOADED = re.compile(  # what a browser fetches by itself; links that a reader follows are not
    r"""<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the site, as ``mkdocs build --strict`` writes it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # the theme's, about itself
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_nothing_is_loaded_from_the_internet(site: Path) -> None:
    """It is read behind firewalls, too."""
    pages = [path for path in site.rglob("*") if path.suffix in {".html", ".css"}]
    assert len(pages) > 15
    found = {path.name: match[0] for path in pages for match in LOADED.finditer(path.read_text())}
    assert not found


def test_public_names_are_on_a_page_of_the_api(site: Path) -> None:
    """With an anchor to link to."""
    text = "".join(path.read_text() for path in (site / "api").glob("*.html"))
    anchors = {name.rpartition(".")[2] for name in re.findall(r'id="(panda_anomalib\.[\w.]+)"', text)}
    public = {*panda_anomalib.__all__, *scorers.__all__, *callbacks.__all__, *data.__all__}
    assert public - anchors <= {"ScorerName", "__version__"}
