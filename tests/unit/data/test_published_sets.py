"""The published data sets, from their files in their real formats: the papers' split, and the pixels."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from published_files import (
    draw,
    write_birds,
    write_cifar10,
    write_cifar100,
    write_dior,
    write_flowers,
    write_mnist,
    write_pets,
    write_wbc,
)

from panda_anomalib.data import (
    Birds200,
    CatsVsDogs,
    Cifar10,
    Cifar100,
    Dior,
    FashionMnist,
    Flowers102,
    Mnist,
    OneClassFolder,
    OxfordPets,
    Wbc,
)
from panda_anomalib.data.published import PublishedSet

FLOWER, ORCHID = "001_pink_primrose", "002_hard-leaved_pocket_orchid"


def set_up(kind: type[PublishedSet], root: Path, normal_class: Any, **arguments: Any) -> PublishedSet:
    """A datamodule after setup, reading in this process."""
    datamodule = kind(root, normal_class, num_workers=0, **arguments)
    datamodule.setup()
    return datamodule


def counts(datamodule: PublishedSet) -> tuple[int, int, int]:
    """Training, normal test and anomalous test images."""
    test = datamodule.test_data.samples["label_index"]
    return len(datamodule.train_data), int((test == 0).sum()), int((test == 1).sum())


def names_of(dataset: Any) -> list[str]:
    """File names without endings."""
    return [Path(path).stem for path in dataset.samples["image_path"]]


def assert_shows(image: torch.Tensor, pixels: np.ndarray) -> None:
    """The image ``(3, H, W)`` in [0, 1] is of these pixels ``(H, W, 3)``."""
    np.testing.assert_array_equal((image * 255).round().permute(1, 2, 0), pixels)


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Each image arrives, with its own label and pixels, and is called after its position in the published part."""
    pixels = rng.integers(0, 256, (20, 32, 32, 3), np.uint8)
    labels = [5, 3] * 10
    write_cifar10(tmp_path, monkeypatch, pixels, labels)
    datamodule = set_up(Cifar10, tmp_path, "dog")
    assert counts(datamodule) == (10, 10, 10)
    assert names_of(datamodule.train_data) == [f"{number:05}" for number in range(0, 20, 2)]
    for item in datamodule.train_data:
        assert_shows(item.image, pixels[int(Path(item.image_path).stem)])
    for item in datamodule.test_data:  # the test batch is the other way round
        number = 19 - int(Path(item.image_path).stem)
        assert_shows(item.image, pixels[number])
        assert bool(item.gt_label) == (labels[number] != 5)
    assert Path(datamodule.train_data.samples["image_path"][0]).parent == tmp_path / "cifar10-images/train/dog"
    assert datamodule.class_names() == list(Cifar10.known)
    assert (datamodule.name, datamodule.category) == ("cifar10", "dog")


def test_unpacked_images_are_read_without_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """They are written once; another class takes them as they are, and nothing half written is left."""
    write_cifar10(tmp_path, monkeypatch, rng.integers(0, 256, (20, 32, 32, 3), np.uint8), [5, 3] * 10)
    set_up(Cifar10, tmp_path, "dog")
    (tmp_path / "cifar-10-batches-py").rename(tmp_path / "elsewhere")
    assert counts(set_up(Cifar10, tmp_path, "cat")) == (10, 10, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar10-images", "elsewhere"]


def test_cifar100_by_coarse_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Not by fine ones; class 17, the papers' example of a collapse, is trees."""
    coarse = [17] * 4 + [*range(20)]
    write_cifar100(tmp_path, monkeypatch, rng.integers(0, 256, (24, 32, 32, 3), np.uint8), coarse)
    datamodule = set_up(Cifar100, tmp_path, "trees")
    assert counts(datamodule) == (5, 5, 19)
    assert names_of(datamodule.train_data) == ["00000", "00001", "00002", "00003", "00021"]
    assert len(datamodule.class_names()) == 20


@pytest.mark.parametrize(
    ("kind", "name", "normal_class"), [(Mnist, "MNIST", 7), (FashionMnist, "FashionMNIST", "7_sneaker")]
)
def test_mnist_and_fashion_mnist(
    kind: type[PublishedSet], name: str, normal_class: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Grey pixels in all three channels; a digit may be a number."""
    images = rng.integers(0, 256, (12, 28, 28), np.uint8)
    labels = [7, 0, 7, 1, 2, 3, 4, 5, 6, 8, 9, 7]
    write_mnist(tmp_path, name, {"train": (images, labels), "t10k": (images[:10], labels[:10])})
    datamodule = set_up(kind, tmp_path, normal_class)
    assert counts(datamodule) == (3, 2, 8)
    assert names_of(datamodule.train_data) == ["00000", "00002", "00011"]
    assert_shows(datamodule.train_data[1].image, np.stack([images[2]] * 3, axis=-1))
    assert len(datamodule.class_names()) == 10


def test_flowers_test_on_all_but_the_training_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """METHODS: 7,169 = 1,020 of the official validation + 6,149 of the test split."""
    labels = [1, 1, 1, 2, 2, 2, 102, 1]
    parts = {"train": [1, 4, 8], "val": [2, 5], "test": [3, 6, 7]}
    write_flowers(tmp_path, monkeypatch, labels, parts)
    datamodule = set_up(Flowers102, tmp_path, FLOWER)
    assert counts(datamodule) == (2, 2, 3)
    assert names_of(datamodule.train_data) == ["image_00001", "image_00008"]
    assert names_of(datamodule.test_data) == [f"image_{number:05}" for number in (2, 3, 5, 6, 7)]
    classes = datamodule.class_names()
    assert (len(classes), classes[:2], classes[-1]) == (20, [FLOWER, ORCHID], "020_giant_white_arum_lily")
    assert len(Flowers102.known) == 102


def test_birds_by_their_lists(tmp_path: Path) -> None:
    """The official split; classes as the list has them, the first 20 in turn."""
    classes = [f"{number:03}.Bird_{number}" for number in range(1, 31)]
    rows = [(label, position % 3 > 0) for label in (1, 2, 30) for position in range(6)]
    folder = write_birds(tmp_path, rows, classes)
    datamodule = set_up(Birds200, tmp_path, "002.Bird_2")
    assert counts(datamodule) == (4, 2, 4)
    assert datamodule.class_names() == classes[:20]
    assert counts(set_up(Birds200, folder, "002.Bird_2")) == (4, 2, 4)  # root may be the folder itself


@pytest.mark.parametrize("layout", ["PetImages/Cat/{}.jpg PetImages/Dog/{}.jpg", "train/cat.{}.jpg train/dog.{}.jpg"])
def test_cats_and_dogs_by_number(layout: str, tmp_path: Path) -> None:
    """The first 10,000 files train, those behind test; as numbers, not as text, and whatever is missing."""
    for pattern in layout.split():
        for number in (0, 9, 9999, 10_000, 12_499):
            draw(tmp_path / pattern.format(number), number)
    (tmp_path / layout.split(maxsplit=1)[0].format(9)).unlink()
    datamodule = set_up(CatsVsDogs, tmp_path, "cat")
    assert counts(datamodule) == (2, 2, 2)
    assert [name.rsplit(".", maxsplit=1)[-1] for name in names_of(datamodule.train_data)] == ["0", "9999"]
    assert counts(set_up(CatsVsDogs, tmp_path, "dog")) == (3, 2, 2)


def test_pets_by_species(tmp_path: Path) -> None:
    """Not by breed; both published parts."""
    parts = {
        "trainval": [("Abyssinian_1", 1), ("beagle_1", 2), ("Birman_7", 1)],
        "test": [("Abyssinian_2", 1), ("beagle_2", 2), ("pug_2", 2)],
    }
    write_pets(tmp_path, parts)
    datamodule = set_up(OxfordPets, tmp_path, "cat")
    assert counts(datamodule) == (2, 1, 2)
    assert names_of(datamodule.train_data) == ["Abyssinian_1", "Birman_7"]


def test_wbc_takes_four_fifths_of_four_classes(tmp_path: Path) -> None:
    """METHODS: floor(0.8 n) train; the class of one image is left out; segmentations are no images."""
    labels = [1] * 11 + [2] * 9 + [3] * 6 + [4] * 5 + [5]
    write_wbc(tmp_path, labels)
    found = {name: counts(set_up(Wbc, tmp_path, name)) for name in Wbc.known}
    tests = {"neutrophil": 3, "lymphocyte": 2, "monocyte": 2, "eosinophil": 1}
    trains = {"neutrophil": 8, "lymphocyte": 7, "monocyte": 4, "eosinophil": 4}
    assert found == {name: (trains[name], tests[name], 8 - tests[name]) for name in Wbc.known}
    datamodule = set_up(Wbc, tmp_path, "neutrophil")
    assert {Path(path).suffix for path in datamodule.train_data.samples["image_path"]} == {".bmp"}
    assert names_of(set_up(Wbc, tmp_path, "neutrophil", seed=1).train_data) != names_of(datamodule.train_data)


def test_wbc_splits_folders_as_its_own_files(tmp_path: Path) -> None:
    """Sorted by number, a seed draws the same images from either layout, and from OneClassFolder."""
    labels = [1, 2, 3, 4] * 6 + [5]
    write_wbc(tmp_path / "files", labels)
    for number, label in enumerate(labels, start=1):
        draw(tmp_path / f"tree/{(*Wbc.known, 'basophil')[label - 1]}/{number:03}.png", number)
    files, tree = (set_up(Wbc, tmp_path / layout, "monocyte", seed=3) for layout in ("files", "tree"))
    assert names_of(files.train_data) == names_of(tree.train_data)
    assert sorted(names_of(files.test_data)) == sorted(names_of(tree.test_data))
    folder = OneClassFolder(tmp_path / "tree", "monocyte", classes=Wbc.known, seed=3)
    folder.setup()
    assert names_of(folder.train_data) == names_of(tree.train_data)


SMALL, LARGE = (10, 10, 130, 200), (10, 20, 131, 141)  # a side of 120 is not larger than 120


def test_dior_crops_large_objects_of_large_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """METHODS: crops of more than 120 pixels, classes with more than 50; an image is on one side only."""
    from panda_anomalib.data import dior

    monkeypatch.setattr(dior, "_MORE_THAN", 3)  # instead of 50 images
    parts = {
        "trainval": [[("ship", LARGE), ("ship", SMALL), ("dam", LARGE)], [("ship", LARGE)], [("vehicle", SMALL)]],
        "test": [[("ship", LARGE), ("dam", LARGE)], [("ship", LARGE), ("dam", LARGE), ("harbor", LARGE)]],
    }
    write_dior(tmp_path, {part: [[*objects, ("dam", SMALL)] for objects in images] for part, images in parts.items()})
    datamodule = set_up(Dior, tmp_path, "ship")
    assert datamodule.class_names() == ["ship"]  # 3 crops of a dam are not more than 3
    assert counts(datamodule) == (2, 2, 0)
    assert names_of(datamodule.train_data) == ["00001_000", "00002_000"]
    monkeypatch.setattr(dior, "_MORE_THAN", 2)
    assert counts(set_up(Dior, tmp_path, "ship")) == (2, 2, 2)
    (tmp_path / "JPEGImages-test").rename(tmp_path / "gone")
    crop = Image.open(datamodule.train_data.samples["image_path"][0])
    assert crop.size == (121, 121)
    original = Image.open(tmp_path / "JPEGImages-trainval/00001.jpg").convert("RGB")
    np.testing.assert_array_equal(np.asarray(crop), np.asarray(original)[20:141, 10:131])
    assert counts(set_up(Dior, tmp_path, "dam")) == (1, 2, 2)  # from the crops


@pytest.mark.parametrize(
    "kind", [Birds200, CatsVsDogs, Cifar10, Cifar100, Dior, FashionMnist, Flowers102, Mnist, OxfordPets, Wbc]
)
def test_a_tree_of_class_folders_will_do(kind: type[PublishedSet], tmp_path: Path) -> None:
    """With whatever classes it has, where nothing checks them against published ones."""
    names = list(kind.known[:2]) or ["one", "two"]
    for part, number in (("train", 4), ("test", 2)):
        for name in names:
            for image in range(number):
                draw(tmp_path / part / name / f"{image}.png", image)
    datamodule = set_up(kind, tmp_path, names[0])
    assert counts(datamodule) == (4, 2, 2)
    if kind is not Wbc:
        assert datamodule.class_names() == sorted(names)


def test_several_normal_classes_share_one_training_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rng: np.random.Generator
) -> None:
    """Each image keeps its class; all else is anomalous."""
    images = rng.integers(0, 256, (12, 28, 28), np.uint8)
    labels = [7, 0, 7, 1, 2, 3, 4, 5, 6, 8, 9, 7]
    write_mnist(tmp_path, "MNIST", {"train": (images, labels), "t10k": (images, labels)})
    with caplog.at_level(logging.INFO, logger="panda_anomalib"):
        datamodule = set_up(Mnist, tmp_path, [7, "1"])
    assert "mnist, normal classes '7', '1': 4 normal training images; test: 4 normal, 8 anomalous" in caplog.text
    assert Counter(datamodule.train_data.samples["class_name"]) == {"7": 3, "1": 1}
    anomalous = datamodule.test_data.samples.query("label_index == 1")["class_name"]
    assert sorted(anomalous) == ["0", "2", "3", "4", "5", "6", "8", "9"]
    assert datamodule.category == "7+1"


@pytest.mark.data
def test_real_trees_have_the_papers_counts(data_root: Path) -> None:
    """CIFAR-10 with all its images, Fashion-MNIST with a part of them, WBC."""
    assert counts(set_up(Cifar10, data_root / "cifar10", "frog")) == (5000, 1000, 9000)
    assert counts(set_up(FashionMnist, data_root / "fashion_mnist_1000", "7_sneaker")) == (1000, 500, 4500)
    found = {name: counts(set_up(Wbc, data_root / "wbc", name)) for name in Wbc.known}
    assert [train for train, *_ in found.values()] == [140, 42, 38, 17]
    assert all(normal + anomalous == 62 for _, normal, anomalous in found.values())
