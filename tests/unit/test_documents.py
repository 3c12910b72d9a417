"""Every code block of README and docs does what it says."""

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from documents import PAGES, ROOT, blocks, fences, reasons, run_block
from PIL import Image
from skimage import data

from panda_anomalib.backbones import runtimes
from panda_anomalib.cli import main

LEFT_OUT = 6
"""Blocks of all pages that no test runs."""
NUMBERS = [f"{number:03}" for number in range(25)]


def _crops(folder: Path, picture: Any, names: list[str], left: int = 150) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        top = 8 * number
        Image.fromarray(picture[top : top + 96, left : left + 96]).save(folder / f"{name}.png")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: a checkout, good parts, defects, new and other images, a detector and a training cut short."""
    folder = tmp_path_factory.mktemp("reader")
    for root in ("images", "demo"):
        _crops(folder / root / "good", data.coffee(), NUMBERS)
        _crops(folder / root / "scratch", data.astronaut(), NUMBERS[:5])
    for root in ("new", "new_images"):
        _crops(folder / root, data.coffee(), ["a", "b", "c"], left=170)
    _crops(folder / "other_images", data.astronaut(), NUMBERS[:12], left=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["train", "--model", "Dn2", "--model.backbone", "test_resnet", "--model.weights", "random",
              "--model.runtime", "eager", "--model.visualizer", "false", "--data", "OneClassFolder",
              "--data.root", "images", "--data.normal_class", "good"])  # fmt: skip
    (run := folder / "results/Panda/images/good/v0").mkdir(parents=True)
    run.with_name("latest").symlink_to(run.name)
    (weights := run / "weights/lightning").mkdir(parents=True)
    with zipfile.ZipFile(weights / "model.ckpt", "w") as file:  # of commands that are built, and do not read it
        file.writestr("data.pkl", "")
    return folder


@pytest.fixture(scope="module")
def folder_of(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A reader's folder for each page: what its blocks leave is there for its later ones, and for no other page."""
    folders: dict[str, Path] = {}

    def find(page: str) -> Path:
        if page not in folders:
            folder = folders[page] = tmp_path_factory.mktemp("page") / "reader"
            shutil.copytree(template, folder, symlinks=True)
            for name in ("configs", "benchmarks"):
                (folder / name).symlink_to(ROOT / name)
        return folders[page]

    return find


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    # as without the extra: converting a network takes longer than all that is done with it here
    monkeypatch.setattr(runtimes, "find_spec", lambda _: None)
    # anomalib's models want the hub when they are built
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, **{**kwargs, "pretrained": False}))


@pytest.mark.parametrize(
    ("page", "parts"),
    [
        pytest.param(str(page), parts, id=f"{page.relative_to(ROOT)}:{parts[-1].line}")
        for page in PAGES
        for parts in blocks(page)
    ],
)
def test_block(page: str, parts: Any, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, without network."""
    monkeypatch.chdir(folder_of(page))
    monkeypatch.syspath_prepend(folder_of(page))
    run_block(parts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_escapes(page: Path) -> None:
    """What is shown as ``text`` is no code; all else is found, and run."""
    languages = [language for language in fences(page.read_text()) if language != "text"]
    assert len(languages) == len(list(blocks(page))), languages


def test_blocks_left_out_are_counted_and_say_why() -> None:
    """A block that no test runs is an exception."""
    found = [reason for page in PAGES for reason in reasons(page.read_text())]
    assert len(found) == LEFT_OUT
    assert all(re.fullmatch(r'next (".{10,}"|if\(.*, reason=".{10,}"\))', reason) for reason in found), found


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("```python\nfrom panda_anomalib import Dn3\n```", "cannot import name 'Dn3'"),
        ("```python\nassert 1 == 2, 'no'\n```", "no"),
        ("```sh\npanda-anomalib trane --model Dn2\n```", "exit code 2"),
        ("```sh\npanda-anomalib train --model Dn2 --data OneClassFolder --data.rot images\n```", "exit code 2"),
        ("```sh\npanda-anomalib train --model Dn2 --data OneClassFolder --data.root no --data.normal_class a\n```",
         "exit code 1"),
        ("```sh\npanda-anomalib train --model PandaSes --model.stop auto --data OneClassFolder --data.root images \\\n"
         "  --data.normal_class good\n```", "exit code 2"),
        ("```sh\npanda-anomalib predict --model Dn2 --data new --ckpt_path no.ckpt\n```", "exit code 1"),
        ("```sh\nanomalib train --model panda_anomalib.Dn3\n```", "2"),
        ("```sh\npython benchmarks/one_class.py --sets cifar11\n```", "2"),
        ("```sh\npython benchmarks/one_class.py --roots datasets\n```", "2"),
        ("```sh\npython benchmarks/none.py\n```", "No such file"),
        ('```sh\nuv pip install -e ".[openvinno]"\n```', "extras are"),
        ("```sh\nrm -rf images\n```", "no test knows what to do with 'rm'"),
        ("```yaml\nclass_path: panda_anomalib.Dn2\ninit_args: {scorer: nearest}\n```", "exit code 2"),
        ("```yaml\nclass_path: OneClassFolder\ninit_args: {rot: images, normal_class: good}\n```", "exit code 2"),
        ("```yaml\naccelerator: cpu\nbenchmark: {seed: 0, model: {class_path: Dn2, init_args: {k: 3}}, "
         "data: {class_path: OneClassFolder, init_args: {root: images, normal_class: good}}}\n```",
         "model.init_args must be arguments of Dn2, got 'k'"),
    ],
)  # fmt: skip
def test_wrong_block_is_found(
    block: str, error: str, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of every kind: a test that passes whatever a page says is none."""
    (tmp_path / "page.md").write_text(f"{block}\n")
    (parts,) = blocks(tmp_path / "page.md")
    monkeypatch.chdir(folder_of("wrong"))
    with pytest.raises((Exception, SystemExit), match=error):
        run_block(parts)
