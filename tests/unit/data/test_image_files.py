"""Image files are looked at and decoded once; what is kept is what the file shows."""

import logging
import multiprocessing
import os
import pickle
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panda_anomalib import room
from panda_anomalib.data import OneClassFolder, image_files
from panda_anomalib.data.image_files import ImageFiles, shared_image_files
from panda_anomalib.data.reading import read_image
from panda_anomalib.room import CacheName

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are not forked here")


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> list[Path]:
    """Images of several kinds: colour, grey, with alpha, turned by EXIF, palette, and 16 bits."""
    folder = tmp_path / "images"
    folder.mkdir()
    noise = Image.fromarray(rng.integers(0, 256, (9, 14, 3), np.uint8))
    noise.save(folder / "colour.png")
    noise.save(folder / "colour.jpg")
    noise.convert("L").save(folder / "grey.png")
    noise.convert("P").save(folder / "palette.png")
    transparent = noise.copy()
    transparent.putalpha(Image.fromarray(rng.integers(0, 256, (9, 14), np.uint8)))
    transparent.save(folder / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise.save(folder / "turned.jpg", exif=exif)
    noise.save(folder / "colour.tif")
    Image.fromarray(rng.integers(0, 65536, (9, 14)).astype(np.uint16)).save(folder / "deep.png")
    return sorted(folder.iterdir())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is decoded."""
    count: Counter[str] = Counter()
    decode = image_files.decode_image

    def counting(path: Any) -> Any:
        count[Path(path).name] += 1
        return decode(path)

    monkeypatch.setattr(image_files, "decode_image", counting)
    return count


@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_every_reading_is_that_of_the_file(
    cache: CacheName, images: list[Path], tmp_path: Path, decoded: Counter[str]
) -> None:
    """Bit for bit, first and later, in the layout that `read_image` gives, which rounding depends on."""
    files = ImageFiles(cache, folder=tmp_path)
    assert files.inspect(images) == {}
    for _ in range(3):
        for path in images:
            image, expected = files.read(str(path)), read_image(path)
            assert torch.equal(image, expected)
            assert (type(image), image.dtype, image.stride()) == (type(expected), expected.dtype, expected.stride())
    kept = Counter({path.name: 1 for path in images if path.name != "deep.png"})
    assert decoded == (kept if cache != "off" else Counter())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]  # the map has no name


def test_what_is_read_can_be_changed(images: list[Path]) -> None:
    """An augmentation in place leaves what is kept as it is."""
    files = ImageFiles("memory")
    files.inspect(images)
    for _ in range(2):
        image = files.read(images[1])
        assert torch.equal(image, read_image(images[1]))
        image.zero_()


def read_all(files: ImageFiles, images: list[Path]) -> None:
    """What a worker does."""
    for path in images:
        files.read(path)


@forks
def test_what_a_worker_decodes_all_have(images: list[Path], decoded: Counter[str], tmp_path: Path) -> None:
    """In memory and on disk; forked after the look at the files."""
    for cache in ("memory", "disk"):
        files = ImageFiles(cache, folder=tmp_path)  # type: ignore[arg-type]
        files.inspect(images)
        worker = multiprocessing.get_context("fork").Process(target=read_all, args=(files, images))
        worker.start()
        worker.join()
        assert worker.exitcode == 0
        for path in images:
            assert torch.equal(files.read(path), read_image(path))
    assert decoded == {}  # here


def test_half_written_pixels_are_not_taken(images: list[Path], decoded: Counter[str]) -> None:
    """What another process is writing has another checksum."""
    files = ImageFiles("memory")
    files.inspect(images)
    path = next(path for path in images if path.name == "colour.png")
    files.read(path)
    slot = files._slots[str(path)]
    slot[40] ^= 1
    assert torch.equal(files.read(path), read_image(path))
    slot[8] ^= 1  # of the width
    assert torch.equal(files.read(path), read_image(path))
    assert decoded["colour.png"] == 3


def test_changed_files_are_looked_at_again(tmp_path: Path) -> None:
    """And unchanged ones are not."""
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(path)
    files = ImageFiles("memory")
    files.inspect([path])
    files.read(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "truncated" in files.inspect([path])[path]
    Image.new("RGB", (5, 7), "blue").save(path)
    assert files.inspect([path]) == {}
    assert torch.equal(files.read(path), read_image(path))
    missing = tmp_path / "b.png"
    assert "No such file" in files.inspect([path, missing])[missing]


def test_files_are_looked_at_once_for_all_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The datamodules of one root share what they know and decode; those of another start anew."""
    for root, name in ((root, name) for root in ("one", "two") for name in ("cat", "dog")):
        (tmp_path / root / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (4, 4), (number,) * 3).save(tmp_path / root / name / f"{number}.png")
    looked: list[int] = []
    inspect = image_files.inspect_images
    monkeypatch.setattr(image_files, "inspect_images", lambda paths: looked.append(len(paths)) or inspect(paths))
    for root, name in (("one", "cat"), ("one", "dog"), ("one", "cat"), ("two", "cat"), ("one", "cat")):
        datamodule = OneClassFolder(tmp_path / root, name, num_workers=0)
        datamodule.setup()
        assert len(list(datamodule.train_dataloader())) == 1
    assert looked == [6, 4, 0, 6, 6]
    assert shared_image_files(tmp_path / "one") is shared_image_files(tmp_path / "two/../one")
    assert shared_image_files(tmp_path / "one") is not shared_image_files(tmp_path / "one", "off")


def test_memory_then_disk_then_nothing(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The budget is that of all the images together; each decision is one log line."""
    caplog.set_level(logging.INFO, logger="panda_anomalib.room")
    size = 3 * 9 * 14 + 12
    files = ImageFiles("auto", memory_budget=2 * size, folder=tmp_path)
    files.inspect(images[:2])
    files.inspect(images[:3])
    monkeypatch.setattr(room, "reserve", lambda *_: None)
    files.inspect(images)
    assert [record.message.partition(", ")[0] for record in caplog.records] == [
        "Decoded pixels of 2 images: 0.00078 MB",
        "Decoded pixels of 1 images: 0.00039 MB",
        "Decoded pixels of 4 images: 0.00156 MB",
    ]
    texts = ("kept in memory.", "kept on disk (a memory map", "Each is decoded again whenever it is read.")
    for record, text in zip(caplog.records, texts, strict=True):
        assert text in record.message
    for path in images:
        assert torch.equal(files.read(path), read_image(path))


def test_a_cache_without_room_is_refused(images: list[Path]) -> None:
    """Where it was asked for by name."""
    with pytest.raises(ValueError, match=r"memory_budget must be at least 0\.\d+ MB to keep the decoded pixels of 7"):
        ImageFiles("memory", memory_budget=100).inspect(images)
    with pytest.raises(ValueError, match="cache must be one of auto, memory, disk, off, got 'ram'"):
        ImageFiles("ram")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="memory_budget must be at least 0, got -1"):
        OneClassFolder("images", "cat", memory_budget=-1)


def test_copies_share_and_other_processes_do_without(images: list[Path], decoded: Counter[str]) -> None:
    """Anomalib copies datasets to split them; a process that is not forked gets an empty one."""
    files = ImageFiles("memory")
    files.inspect(images)
    assert deepcopy(files.read).__self__ is files
    sent = pickle.loads(pickle.dumps(files))  # noqa: S301 - our own
    for path in images:
        assert torch.equal(sent.read(path), read_image(path))
    assert decoded == {}  # it reads as without a cache
