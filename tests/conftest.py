"""Fixtures of all tests: no network, a seeded generator, the real images and a browser where they are at hand."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported anywhere
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # else every one would start a thread per core
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

DATA_ROOT = Path(os.environ.get("PANDA_DATA", Path.home() / ".cache/panda_anomalib/data"))


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves the machine."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if self.family != getattr(socket, "AF_UNIX", None) and host not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"tests are offline, tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded generator."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real image sets: ``PANDA_DATA``, or the cache folder."""
    if not DATA_ROOT.is_dir():
        pytest.skip(f"real images are not in {DATA_ROOT}; set PANDA_DATA")
    return DATA_ROOT


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """A headless Chromium: the system's, or else the one that playwright has installed."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        try:
            # Without a sandbox: containers cannot make one, and only our own pages are opened.
            chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error:
            pytest.skip("there is no Chromium: apt install chromium, or playwright install chromium")
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of two photographs in class folders, of differing shapes: 40 astronaut (normal), 12 coffee."""
    from skimage import data

    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name, image, count in (("astronaut", data.astronaut(), 40), ("coffee", data.coffee(), 12)):
        (root / name).mkdir()
        for i in range(count):
            top, left = rng.integers(0, 200, 2)
            height, width = rng.integers(100, 180, 2)
            Image.fromarray(image[top : top + height, left : left + width]).save(root / name / f"{i:02}.png")
    return root
