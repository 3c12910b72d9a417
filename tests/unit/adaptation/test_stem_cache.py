"""Stem outputs: computed once, and bit for bit the same wherever they are kept."""

import gc
import logging
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from panda_anomalib import room
from panda_anomalib.adaptation.minibatches import MinibatchOrder
from panda_anomalib.adaptation.stem_cache import CacheName, StemOutputs

IMAGES = torch.randn(11, 3, 6, 5, generator=torch.Generator().manual_seed(0))
IMAGE_BYTES = 2 * 3 * 6 * 5 * 4  # two views of float32
KINDS = ("memory", "disk", "off")


class Images(Dataset[Tensor]):
    """Eleven images that count how often they are read."""

    def __init__(self) -> None:
        self.reads: Counter[int] = Counter()

    def __len__(self) -> int:
        """Number of images."""
        return len(IMAGES)

    def __getitem__(self, index: int) -> Tensor:
        """Image ``(3, 6, 5)``."""
        self.reads[index] += 1
        return IMAGES[index]


class Noisy(Images):
    """The same with a random augmentation."""

    def __getitem__(self, index: int) -> Tensor:
        """Image with noise."""
        return super().__getitem__(index) + torch.randn(3, 6, 5)


def two_views(batch: Tensor) -> Tensor:
    """Stem of image and mirror image ``(2, B, 3, 6, 5)``."""
    return torch.stack([batch.sin(), batch.flip(-1).cos()])


def channels_last_views(batch: Tensor) -> Tensor:
    """The same as convolutions on a CPU like it."""
    return two_views(batch.to(memory_format=torch.channels_last))


def make(cache: CacheName = "auto", **arguments: object) -> StemOutputs:
    """Stem outputs of two views, in batches of four."""
    return StemOutputs(
        **{"dataset": Images(), "encode": two_views, "batch_size": 4, "num_views": 2, **arguments}, cache=cache
    )


def open_maps(folder: Path) -> list[str]:
    """Memory maps of this process in a folder, deleted files included."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.mark.parametrize("cache", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_fetch_gives_what_encode_gave(cache: CacheName, workers: int, tmp_path: Path) -> None:
    """In any order, repeated or single; the pass itself hands out every image once, in order."""
    outputs = make(cache, folder=tmp_path, num_workers=workers)
    passed: list[tuple[Tensor, list[int]]] = []
    outputs.fill(lambda batch, indices: passed.append((batch.clone(), indices)))
    assert outputs.storage == cache
    assert len(outputs) == 11
    assert [indices for _, indices in passed] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert torch.equal(torch.cat([batch for batch, _ in passed], dim=1), two_views(IMAGES))
    for indices in ([10, 0, 3], [5], [2, 2]):
        assert torch.equal(outputs.fetch(indices), two_views(IMAGES[indices]))


@pytest.mark.parametrize("cache", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_stream_follows_the_order(cache: CacheName, workers: int, tmp_path: Path) -> None:
    """From any minibatch on, to a given one or without end."""
    outputs = make(cache, folder=tmp_path, num_workers=workers)
    outputs.fill()
    order = MinibatchOrder(11, 3, seed=4)
    streamed = list(outputs.stream(order, 2, 7))
    assert len(streamed) == 5
    endless = outputs.stream(order, 2)
    for position, minibatch in enumerate(streamed, start=2):
        assert torch.equal(minibatch, two_views(IMAGES[order.indices(position)]))
        assert torch.equal(minibatch, next(endless))


def test_each_image_is_read_once_unless_the_cache_is_off() -> None:
    """That is what a cache is for."""
    for cache, reads in (("memory", 1), ("off", 3)):
        images = Images()
        outputs = make(cache, dataset=images)
        outputs.fill()
        list(outputs.stream(MinibatchOrder(11, 4), 0, 6))
        assert set(images.reads.values()) == {reads}


@pytest.mark.parametrize("cache", KINDS)
def test_memory_format_is_kept(cache: CacheName, tmp_path: Path) -> None:
    """Convolutions round differently in another format, and are slower."""
    for encode, expected in ((channels_last_views, torch.channels_last), (two_views, torch.contiguous_format)):
        outputs = make(cache, folder=tmp_path, encode=encode)
        outputs.fill()
        fetched = outputs.fetch([7, 1, 4])
        assert torch.equal(fetched, two_views(IMAGES[[7, 1, 4]]))
        assert all(view.is_contiguous(memory_format=expected) for view in fetched)


@pytest.mark.parametrize("cache", KINDS)
@pytest.mark.parametrize(
    ("encode", "num_views"),
    [
        (lambda batch: batch.mean((1, 2, 3))[None], 1),  # (1, B)
        (lambda batch: batch.flatten(2)[None].bfloat16(), 1),  # tokens (1, B, 3, 30)
    ],
)
def test_other_shapes_and_types(cache: CacheName, encode: object, num_views: int, tmp_path: Path) -> None:
    """Numbers, tokens, bfloat16: whatever a stem makes."""
    outputs = make(cache, folder=tmp_path, encode=encode, num_views=num_views)
    outputs.fill()
    expected = encode(IMAGES[[9, 2]])
    assert outputs.fetch([9, 2]).dtype == expected.dtype
    assert torch.equal(outputs.fetch([9, 2]), expected)


def test_auto_takes_memory_then_disk_then_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says where, how much, and why nothing is kept; a byte decides."""
    caplog.set_level(logging.INFO, logger=room.__name__)
    needed = 11 * IMAGE_BYTES
    for budget, full, storage, message in (
        (needed, False, "memory", "Stem outputs of 11 images: 0.00792 MB, kept in memory."),
        (needed - 1, False, "disk", f"kept on disk (a memory map in '{tmp_path}')."),
        (needed - 1, True, "off", f"room for 0.007919 MB in memory and 0.0063 MB in '{tmp_path}'. Every minibatch is"),
    ):
        if full:
            monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 7000}))
        outputs = make(memory_budget=budget, folder=tmp_path)
        outputs.fill()
        assert outputs.storage == storage
        assert message in caplog.messages[-1]
        assert torch.equal(outputs.fetch([3]), two_views(IMAGES[[3]]))
    own = [record for record in caplog.records if record.name == room.__name__]  # not of the progress
    assert len(own) == 3


def test_default_budget_is_a_quarter_of_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And a budget beyond what there is counts for nothing."""
    needed = 11 * IMAGE_BYTES
    for available, budget, storage in (
        (4 * needed, None, "memory"),
        (4 * needed - 4, None, "disk"),
        (needed - 1, 10 * needed, "disk"),
    ):
        monkeypatch.setattr(room, "available_memory", lambda available=available: available)
        outputs = make(memory_budget=budget, folder=tmp_path)
        outputs.fill()
        assert outputs.storage == storage


def test_disk_that_fills_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room that the disk then refuses (quota, another process) is no room."""
    monkeypatch.setattr(room, "reserve", lambda *_: None)
    outputs = make(memory_budget=0, folder=tmp_path)
    outputs.fill()
    assert outputs.storage == "off"
    with pytest.raises(ValueError, match="cache='disk'"):
        make("disk", folder=tmp_path).fill()


def test_cache_without_room_is_refused_before_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has what is needed and what there is; no more than one batch was encoded."""
    images = Images()
    with pytest.raises(
        ValueError,
        match=r"memory_budget must be at least 0\.00792 MB to keep the stem outputs of 11 images \(cache='memory'\), "
        r"got room for 0\.0079 MB; raise it, or use cache='auto'\.",
    ):
        make("memory", dataset=images, memory_budget=7900).fill()
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 7000}))
    with pytest.raises(
        ValueError,
        match=r"folder must have room for 0\.00792 MB .* \(cache='disk'\), got room for 0\.0063 MB in .*; free some",
    ):
        make("disk", dataset=images, folder=tmp_path).fill()
    assert sum(images.reads.values()) == 2 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cache": "ram"}, "cache must be one of auto, memory, disk, off, got 'ram'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_views": 0}, "num_views must be at least 1, got 0"),
        ({"memory_budget": -1}, "memory_budget must be at least 0, got -1"),
        ({"folder": Path("/no/such/folder")}, "folder must be an existing folder, got '/no/such/folder'"),
    ],
)
def test_impossible_arguments(arguments: dict[str, object], message: str) -> None:
    """Refused at once."""
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@linux
@pytest.mark.parametrize("end", ["close", "garbage", "exception", "fill again"])
def test_memory_map_vanishes(end: str, tmp_path: Path) -> None:
    """Its file has no name from the start, so not even ``kill -9`` leaves it; its room is given back in every case."""
    outputs = make("disk", folder=tmp_path)
    caught = None
    if end == "exception":

        def fail(_: Tensor, indices: list[int]) -> None:
            assert len(open_maps(tmp_path)) == 1
            if indices[0] == 4:
                raise RuntimeError("power failure")

        with pytest.raises(RuntimeError, match="power failure") as caught:  # a traceback that lives on
            outputs.fill(fail)
    else:
        outputs.fill()
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - hidden files too
        assert len(open_maps(tmp_path)) == 1
    if end == "close":
        outputs.close()
        assert outputs.storage == "off"
        assert torch.equal(outputs.fetch([3]), two_views(IMAGES[[3]]))
    elif end == "fill again":
        outputs.fill()
        assert len(open_maps(tmp_path)) == 1
        outputs.close()
    elif end == "garbage":
        del outputs
        gc.collect()
    assert open_maps(tmp_path) == []
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    assert (caught is not None) == (end == "exception")


def test_an_exception_leaves_nothing_half_filled() -> None:
    """What was not filled to the end is not read."""
    outputs = make("memory")
    broken = iter([two_views, None])

    def encode(batch: Tensor) -> Tensor:
        function = next(broken, two_views)
        if function is None:
            raise RuntimeError("broken image")
        return function(batch)

    outputs.encode = encode
    with pytest.raises(RuntimeError, match="broken image"):
        outputs.fill()
    assert outputs.storage == "off"
    assert torch.equal(outputs.fetch([10]), two_views(IMAGES[[10]]))


def test_encode_of_a_wrong_shape() -> None:
    """Views that are missing, and images of several sizes, are named."""
    with pytest.raises(
        ValueError, match=r"encode must give \(V, B, \.\.\.\) with V = num_views = 3, got \(2, 4, 3, 6, 5\)"
    ):
        make("memory", num_views=3).fill()
    with pytest.raises(ValueError, match=r"one shape for all images, got \(3, 4, 5\) after \(3, 6, 5\)"):
        make("memory", encode=lambda batch: two_views(batch if (batch == IMAGES[0]).any() else batch[:, :, :4])).fill()


@pytest.mark.parametrize("workers", [0, 2])
def test_random_augmentations_repeat_with_their_minibatch(workers: int) -> None:
    """Drawn anew from one minibatch to the next, and the same whoever reads them and wherever the stream starts."""
    plain = {"dataset": Noisy(), "encode": lambda batch: batch[None], "num_views": 1}
    order = MinibatchOrder(11, 11)
    first, second = make("off", num_workers=workers, **plain).stream(order, 0, 2)
    assert torch.equal(next(make("off", **plain).stream(order, 1)), second)
    noises = [minibatch[0] - IMAGES[order.indices(position)] for position, minibatch in enumerate((first, second))]
    assert len(torch.cat(noises).flatten(1)[:, 0].unique()) == 22, "images and minibatches must not share their draw"


@pytest.mark.parametrize("cache", KINDS)
def test_global_random_numbers_are_left_alone(cache: CacheName, tmp_path: Path) -> None:
    """Training draws the same numbers whatever is cached."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    outputs = make(cache, folder=tmp_path, dataset=Noisy())
    outputs.fill()
    list(outputs.stream(MinibatchOrder(11, 4), 0, 3))
    assert torch.equal(torch.rand(3), expected)


def test_outputs_carry_no_gradient() -> None:
    """A graph would hold on to every image."""
    weight = torch.ones((), requires_grad=True)
    outputs = make("memory", encode=lambda batch: two_views(batch) * weight)
    outputs.fill(lambda batch, _: pytest.fail("has a gradient") if batch.requires_grad else None)
    assert not outputs.fetch([1]).requires_grad
    outputs.close()
    assert not outputs.fetch([1]).requires_grad
