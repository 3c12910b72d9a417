"""Image sets: what is drawn for DN2's two tasks, what lies in folders, and what batches hold."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panda_anomalib.data import ImageSets
from panda_anomalib.data.set_draws import draw_one_class, draw_one_of_each

CLASSES = ["ant", "bee", "cat", "dog"]


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and test with 4 classes of 12 images; the red of an image is its number, the green its class."""
    root = tmp_path_factory.mktemp("animals")
    for part in ("train", "test"):
        for green, name in enumerate(CLASSES):
            (root / part / name).mkdir(parents=True)
            for number in range(12):
                Image.new("RGB", (8, 8), (number, green, 0)).save(root / part / name / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets in folders, of 2 to 4 images: 5 normal ones to train, 2 normal and 3 mixed ones to test."""
    root = tmp_path_factory.mktemp("boxes")
    for place, count in (("train/normal", 5), ("train/mixed", 1), ("test/normal", 2), ("test/mixed", 3)):
        for number in range(count):
            (folder := root / place / f"box {number}").mkdir(parents=True)
            for image in range(2 + number % 3):
                Image.new("RGB", (8 + image, 8), (number, image, 0)).save(folder / f"{image}.png")
    return root


def set_up(root: Path, **arguments: Any) -> ImageSets:
    """A datamodule after setup, reading in this process."""
    datamodule = ImageSets(root, num_workers=0, **arguments)
    datamodule.setup()
    return datamodule


def drawn(root: Path, kind: Any, **arguments: Any) -> ImageSets:
    """With 30 training sets, and 40 test sets of either label."""
    return set_up(root, kind=kind, **{"num_train": 30, "num_test": 40, **arguments})


def classes_of(images: list[str]) -> Counter[str]:
    """How many images of each class a set has."""
    return Counter(Path(path).parent.name for path in images)


@pytest.mark.parametrize(("size", "expected"), [(None, CLASSES), (3, CLASSES[:3]), (2, CLASSES[:2])])
def test_one_of_each(animals: Path, size: int | None, expected: list[str]) -> None:
    """Normal sets hold each of the first M classes once; anomalous ones never do, and hold M images all the same."""
    datamodule = drawn(animals, "one_of_each", set_size=size)
    assert len(datamodule.train_data) == 30
    assert datamodule.train_data.labels == [0] * 30
    assert datamodule.test_data.labels == [0] * 40 + [1] * 40
    for data in (datamodule.train_data, datamodule.test_data):
        for images, label in zip(data.images, data.labels, strict=True):
            counts = classes_of(images)
            assert len(set(images)) == len(images) == len(expected)
            assert (counts == Counter(expected)) == (label == 0)
            assert set(counts) <= set(expected)


def test_orders_are_drawn(animals: Path) -> None:
    """A set has no order: all orders of the classes occur."""
    datamodule = drawn(animals, "one_of_each", set_size=3, num_train=200)
    orders = {tuple(Path(path).parent.name for path in images) for images in datamodule.train_data.images}
    assert len(orders) == 6


def test_one_class(animals: Path) -> None:
    """Normal sets are of one class, whichever; anomalous ones of several; sizes are spread over the range."""
    datamodule = drawn(animals, "one_class", set_size=[3, 6], num_train=100)
    normal = [classes_of(images) for images in datamodule.train_data.images]
    assert {name for counts in normal for name in counts} == set(CLASSES)
    assert {counts.total() for counts in normal} == {3, 4, 5, 6}
    for images, label in zip(datamodule.test_data.images, datamodule.test_data.labels, strict=True):
        assert len(set(images)) == len(images)
        assert (len(classes_of(images)) > 1) == bool(label)
    assert {len(images) for images in drawn(animals, "one_class", set_size=4).train_data.images} == {4}


def test_parts_and_seeds(animals: Path) -> None:
    """Training sets of train, test sets of test; the seed decides, and not the number of sets of the other part."""
    first = drawn(animals, "one_of_each")
    assert {Path(path).parts[-3] for images in first.train_data.images for path in images} == {"train"}
    assert {Path(path).parts[-3] for images in first.test_data.images for path in images} == {"test"}
    assert drawn(animals, "one_of_each").train_data.images == first.train_data.images
    assert drawn(animals, "one_of_each", num_train=7).test_data.images == first.test_data.images
    assert drawn(animals, "one_of_each", seed=1).test_data.images != first.test_data.images
    assert first.test_data.paths[0] == f"{animals}/test/normal-00000"
    assert len(set(first.test_data.paths)) == 80
    assert (first.name, first.category) == (animals.name, "one_of_each")
    assert ImageSets(animals, kind="one_class").category == "one_class-10-50"


def test_draws_that_happen_to_be_normal_are_drawn_again() -> None:
    """With two classes half of them are."""
    images = {name: [Path(f"{name}{number}") for number in range(5)] for name in "ab"}
    sets = draw_one_of_each(images, 0, 200, np.random.default_rng(0)).anomalous
    assert {len({path.name[0] for path in own}) for own in sets} == {1}
    sets = draw_one_class(images, (2, 2), 0, 200, np.random.default_rng(0)).anomalous
    assert {len({path.name[0] for path in own}) for own in sets} == {2}


def test_sets_in_folders(boxes: Path) -> None:
    """Named by their folders; other classes are anomalous, and train nothing."""
    datamodule = set_up(boxes)
    assert datamodule.train_data.paths == [f"{boxes}/train/normal/box {number}" for number in range(5)]
    assert [len(images) for images in datamodule.train_data.images] == [2, 3, 4, 2, 3]
    assert datamodule.test_data.labels == [1, 1, 1, 0, 0]
    assert datamodule.category == "normal"
    assert set_up(boxes, normal_class="mixed").test_data.labels == [0, 0, 0, 1, 1]


def test_batches_hold_whole_sets(animals: Path) -> None:
    """As many as fit into the number of images; each set keeps its images, its label and its name."""
    datamodule = drawn(animals, "one_of_each", eval_batch_size=11)
    batches = list(datamodule.test_dataloader())
    assert [len(batch.image_path) for batch in batches] == [2] * 40
    batch = batches[20]
    assert batch.image.shape == (8, 3, 8, 8)
    assert batch.image_path == datamodule.test_data.paths[40:42]
    assert batch.set_images == datamodule.test_data.images[40:42]
    assert batch.gt_label.tolist() == [True, True]
    for pixels, path in zip(batch.image, [path for images in batch.set_images for path in images], strict=True):
        number, green = int(Path(path).stem), CLASSES.index(Path(path).parent.name)
        assert (pixels[:2, 0, 0] * 255).round().tolist() == [number, green]
    assert [len(one.image_path) for one in drawn(animals, "one_of_each", eval_batch_size=1).test_dataloader()] == [
        1
    ] * 80


def test_workers_give_the_same(animals: Path) -> None:
    """What is known of the sets comes through the processes."""
    datamodule = ImageSets(animals, kind="one_class", set_size=3, num_train=4, num_test=4, num_workers=1)
    datamodule.setup()
    found = [(batch.image_path, batch.set_images) for batch in datamodule.test_dataloader()]
    assert [name for names, _ in found for name in names] == datamodule.test_data.paths
    assert [images for _, sets in found for images in sets] == datamodule.test_data.images


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "drawn"}, "kind must be one of folders, one_of_each, one_class, got 'drawn'"),
        ({"num_train": 1}, "num_train must be at least 2, got 1"),
        ({"num_test": 0}, "num_test must be at least 1, got 0"),
        ({"set_size": 3}, "set_size must be left out for folders, whose sets are as large as they are, got 3"),
        ({"kind": "one_of_each", "set_size": 1}, "set_size of one_of_each must be a number from 2 on, got 1"),
        ({"kind": "one_of_each", "set_size": [2, 3]}, "set_size of one_of_each must be a number from 2 on"),
        ({"kind": "one_class", "set_size": [5, 2]}, "a number, or the fewest and the most, from 2 on, got [5, 2]"),
    ],
)
def test_impossible_arguments_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    """Before a file is looked at."""
    with pytest.raises(ValueError, match=re.escape(message)):
        ImageSets("nowhere", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "one_of_each", "set_size": 5}, "set_size must be at most the number of classes, 4, got 5"),
        ({"kind": "one_class"}, "classes must have at least 50 images for sets of that size, got 12 in"),
        ({"kind": "one_class", "set_size": 2, "classes": ["ant"]}, "classes must be at least two for anomalous sets"),
        ({"kind": "one_of_each", "classes": ["ant", "cow"]}, "classes must be class folders of"),
        ({"normal_class": "ant"}, "classes must hold one folder per set, got none in"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_setup(animals: Path, arguments: dict[str, Any], message: str) -> None:
    """With what to do."""
    with pytest.raises(ValueError, match=re.escape(message)):
        set_up(animals, **arguments)


def test_missing_folders(tmp_path: Path) -> None:
    """Both parts are needed."""
    with pytest.raises(FileNotFoundError, match=r"root must hold the folders train and test, got .* without train"):
        set_up(tmp_path)


def test_sets_with_unreadable_images(boxes: Path, tmp_path: Path) -> None:
    """Named, or left out as a whole on request."""
    (tmp_path / "boxes").mkdir()
    for path in boxes.rglob("*.png"):
        (target := tmp_path / "boxes" / path.relative_to(boxes)).parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    damaged = tmp_path / "boxes/train/normal/box 1/0.png"
    damaged.write_bytes(b"no image")
    with pytest.raises(ValueError, match=re.escape(str(damaged))):
        set_up(tmp_path / "boxes")
    left = set_up(tmp_path / "boxes", on_corrupt="skip").train_data
    assert [Path(name).name for name in left.paths] == ["box 0", "box 2", "box 3", "box 4"]
