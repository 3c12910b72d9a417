"""Training sets of so many normal images, and impure ones: what is drawn, what never is, and what is refused."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from panda_anomalib.data import OneClassFolder
from panda_anomalib.models.normal_classes import find_normal_classes

COUNTS = {"apple": 50, "pear": 25, "plum": 10}


@pytest.fixture
def fruit(tmp_path: Path) -> Path:
    """root/<class>: 50 apples, 25 pears, 10 plums."""
    for name, count in COUNTS.items():
        (tmp_path / "fruit" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "fruit" / name / f"{number:02}.png")
    return tmp_path / "fruit"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """root/train and root/test: the same names of files in both."""
    for part, counts in {"train": {"good": 9, "used": 6}, "test": {"good": 3, "used": 6, "scratch": 4}}.items():
        for name, count in counts.items():
            (tmp_path / "parts" / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "parts" / part / name / f"{number}.png")
    return tmp_path / "parts"


def set_up(root: Path, normal_class: str | list[str] = "apple", **arguments: Any) -> OneClassFolder:
    """A datamodule after setup."""
    datamodule = OneClassFolder(root, normal_class, num_workers=0, **arguments)
    datamodule.setup()
    return datamodule


def training(datamodule: OneClassFolder) -> list[str]:
    """Paths of the training set."""
    return list(datamodule.train_data.samples["image_path"])


def test_fewer_images_are_a_part_of_more(fruit: Path) -> None:
    """So that a curve over the number of images is not one over draws; another seed draws others."""
    whole = set(training(set_up(fruit)))
    sets = [set(training(set_up(fruit, num_train=count))) for count in (3, 10, 39)]
    assert [len(own) for own in sets] == [3, 10, 39]
    assert sets[0] < sets[1] < sets[2] < whole
    assert training(set_up(fruit, num_train=10)) == training(set_up(fruit, num_train=10))
    assert set(training(set_up(fruit, num_train=10, seed=1))) != sets[1]
    assert set(training(set_up(fruit, num_train=40))) == whole


def test_the_draw_is_not_the_beginning_of_the_class(fruit: Path) -> None:
    """Images that follow each other on disk are often alike."""
    assert training(set_up(fruit, num_train=8)) != sorted(training(set_up(fruit)))[:8]


def test_several_normal_classes_share_evenly(fruit: Path) -> None:
    """In turn, until a class has no more: 40 apples, 20 pears and 8 plums are there."""
    for count, expected in {3: [1, 1, 1], 11: [4, 4, 3], 30: [11, 11, 8], 60: [32, 20, 8]}.items():
        datamodule = set_up(fruit, ["apple", "pear", "plum"], num_train=count)
        classes = list(datamodule.train_data.samples["class_name"])
        assert [classes.count(name) for name in ("apple", "pear", "plum")] == expected


def test_the_test_set_stays_as_it_is(fruit: Path) -> None:
    """What is changed is what is learnt from, not what is measured."""
    tables = [
        set_up(fruit, **arguments).test_data.samples
        for arguments in ({}, {"num_train": 5}, {"impurity": 0.2}, {"num_train": 5, "impurity": 0.2})
    ]
    for table in tables[1:]:
        assert table.equals(tables[0])


@pytest.mark.parametrize(("impurity", "expected"), [(0.05, 2), (0.1, 4), (0.2, 10), (0.4, 27)])
def test_impurity_is_the_share_of_the_whole(fruit: Path, impurity: float, expected: int) -> None:
    """Beside 40 normal images: m of 40 + m."""
    datamodule = set_up(fruit, impurity=impurity)
    assert len(datamodule.impurities) == expected
    assert len(datamodule.train_data) == 40 + expected
    assert expected / (40 + expected) == pytest.approx(impurity, abs=0.5 / 40)
    normal = set(training(datamodule)) - set(map(str, datamodule.impurities))
    assert {Path(path).parent.name for path in normal} == {"apple"}
    assert len(normal) == 40


def test_impurities_are_labelled_normal_and_of_other_classes(fruit: Path) -> None:
    """They are what nobody has noticed."""
    datamodule = set_up(fruit, impurity=0.4)
    assert set(datamodule.train_data.samples["label_index"]) == {0}
    assert {path.parent.name for path in datamodule.impurities} == {"pear", "plum"}
    assert datamodule.impurities == sorted(datamodule.impurities)
    assert set(set_up(fruit, impurity=0.1).impurities) < set(datamodule.impurities)
    assert set_up(fruit, impurity=0.1, num_train=10).impurities == set_up(fruit, impurity=0.1, num_train=10).impurities


@pytest.mark.parametrize("seed", range(5))
def test_no_image_of_the_test_set_is_an_impurity(fruit: Path, folders: Path, seed: int) -> None:
    """Drawn splits and folders alike; the classes to use are heeded."""
    datamodule = set_up(fruit, impurity=0.41, seed=seed)
    assert not set(training(datamodule)) & set(datamodule.test_data.samples["image_path"])
    datamodule = set_up(folders, "good", impurity=0.4, seed=seed)
    assert {path.parent for path in datamodule.impurities} == {folders / "train" / "used"}
    assert len(datamodule.impurities) == 6
    assert {path.parent.name for path in set_up(fruit, impurity=0.15, classes=["apple", "plum"]).impurities} == {"plum"}


def test_a_split_that_trains_and_tests_on_one_folder_gives_no_impurity(folders: Path) -> None:
    """An image that is tested on is never taken, wherever it lies."""
    (folders / "test" / "used" / "6.png").write_bytes((folders / "test" / "used" / "5.png").read_bytes())
    with pytest.raises(ValueError, match="impurity must be 0 for data without training images of other classes"):
        set_up(folders, "good", impurity=0.1, train_dir="test", test_dir="test")


def test_impurities_make_no_further_normal_class(fruit: Path) -> None:
    """The nearest normal class is named where there are several, not because a set is impure."""

    class Trainer:
        datamodule = set_up(fruit, impurity=0.1)

    assert find_normal_classes(Trainer()) == {}  # type: ignore[arg-type]
    Trainer.datamodule = set_up(fruit, ["apple", "plum"], impurity=0.1)
    found = find_normal_classes(Trainer())  # type: ignore[arg-type]
    assert set(found.values()) == {"apple", "plum", ""}
    assert {path for path, name in found.items() if not name} == set(map(str, Trainer.datamodule.impurities))


def test_one_line_says_what_was_drawn(fruit: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With counts, beside those of the test set."""
    with caplog.at_level(logging.INFO, logger="panda_anomalib"):
        set_up(fruit, num_train=20, impurity=0.1, seed=3)
    expected = (
        "fruit, normal class 'apple': 20 normal training images (of 40, drawn with seed 3) and 2 anomalous ones "
        "labelled normal (impurity 0.0909); test: 10 normal, 7 anomalous (0.2 of each class drawn with seed 3)."
    )
    assert expected in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train": 0}, "num_train must be at least 1, got 0; leave it out to use all."),
        ({"impurity": 1.0}, "impurity must be from 0 to below 1, got 1.0; one image in twenty is 0.05."),
        ({"impurity": -0.1}, "impurity must be from 0 to below 1, got -0.1"),
        (
            {"normal_class": ["apple", "plum"], "num_train": 1},
            "num_train must be at least one for each of the 2 normal classes, got 1",
        ),
    ],
)
def test_impossible_values_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    """Before a file is looked at."""
    with pytest.raises(ValueError, match=re.escape(message)):
        OneClassFolder(**{"root": "nowhere", "normal_class": "apple", **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train": 41}, "num_train must be at most the number of normal training images, 40, got 41; lower it"),
        ({"impurity": 0.5}, "impurity must be at most 0.412, for which the 28 training images of other classes are"),
        ({"impurity": 0.01}, "make at least one image beside 40 normal ones, got 0.01, which makes 0."),
        ({"impurity": 0.1, "classes": ["apple"]}, "impurity must be 0 for data without training images of other"),
    ],
)
def test_more_than_there_is_is_refused_in_setup(fruit: Path, arguments: dict[str, Any], message: str) -> None:
    """Before an image is read: none of these can be."""
    for path in fruit.rglob("*.png"):
        path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=re.escape(message)):
        set_up(fruit, **arguments)


def test_unreadable_impurities_are_left_out_on_request(fruit: Path) -> None:
    """As all images are."""
    damaged = set_up(fruit, impurity=0.1).impurities[0]
    damaged.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=re.escape(str(damaged))):
        set_up(fruit, impurity=0.1)
    datamodule = set_up(fruit, impurity=0.1, on_corrupt="skip")
    assert damaged not in datamodule.impurities
    assert len(datamodule.train_data) == 43
