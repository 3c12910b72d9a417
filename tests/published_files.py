"""Files of published data sets in their real formats, with a few small images, and torchvision's checksums for them."""

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets


def md5(path: Path) -> str:
    """Checksum as torchvision has it."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def draw(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> Path:
    """An image of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256,) * 3).save(path)
    return path


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray, labels: Sequence[int]) -> None:
    """The 6 batches: a fifth of the images in each training batch, and all again, reversed, in the test batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    parts = {f"data_batch_{i + 1}": slice(i * len(rows) // 5, (i + 1) * len(rows) // 5) for i in range(5)}
    for name, part in {**parts, "test_batch": slice(None, None, -1)}.items():
        content = {"data": rows[part], "labels": list(labels)[part]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    kind = datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [[name, md5(folder / name)] for name in parts])
    monkeypatch.setattr(kind, "test_list", [["test_batch", md5(folder / "test_batch")]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / "batches.meta")})


def write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray, coarse: Sequence[int]) -> None:
    """The 2 parts, each with all images; the fine labels are not those that count."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    for name in ("train", "test"):
        content = {"data": rows, "fine_labels": [7] * len(rows), "coarse_labels": list(coarse)}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"fine{i}" for i in range(100)]}, protocol=2))
    kind = datasets.CIFAR100
    monkeypatch.setattr(kind, "train_list", [["train", md5(folder / "train")]])
    monkeypatch.setattr(kind, "test_list", [["test", md5(folder / "test")]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / "meta")})


def write_mnist(root: Path, name: str, parts: dict[str, tuple[np.ndarray, Sequence[int]]]) -> Path:
    """The idx files, by "train" and "t10k"."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part, (images, labels) in parts.items():
        for kind, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, np.asarray(labels))):
            head = np.array([magic, *array.shape], ">u4").tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())
    return folder


def write_flowers(
    root: Path, monkeypatch: pytest.MonkeyPatch, labels: Sequence[int], parts: dict[str, Sequence[int]]
) -> Path:
    """The images and both MATLAB files; ``parts`` are image numbers from 1 by "train", "val" and "test"."""
    folder = root / "flowers-102"
    for number in range(1, len(labels) + 1):
        draw(folder / f"jpg/image_{number:05}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    keys = {"train": "trnid", "val": "valid", "test": "tstid"}
    savemat(folder / "setid.mat", {keys[part]: np.array([numbers], np.uint16) for part, numbers in parts.items()})
    names: dict[str, Any] = dict(datasets.Flowers102._file_dict)
    for kind, name in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        names[kind] = (name, md5(folder / name))
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", names)
    return folder


def write_birds(root: Path, rows: Sequence[tuple[int, bool]], classes: Sequence[str]) -> Path:
    """The lists and images of CUB-200-2011: class from 1 and whether it trains, of each image."""
    folder = root / "CUB_200_2011"
    names = [f"{classes[label - 1]}/bird_{number:04}.jpg" for number, (label, _) in enumerate(rows, start=1)]
    for number, name in enumerate(names):
        draw(folder / "images" / name, number)
    lists = {
        "images": names,
        "image_class_labels": [label for label, _ in rows],
        "train_test_split": [int(trains) for _, trains in rows],
        "classes": classes,
    }
    for kind, values in lists.items():
        lines = (f"{number} {value}\n" for number, value in enumerate(values, start=1))
        (folder / f"{kind}.txt").write_text("".join(lines))
    return folder


def write_pets(root: Path, parts: dict[str, Sequence[tuple[str, int]]]) -> Path:
    """The lists and images of Oxford-IIIT Pet: name and species (1 cat, 2 dog) by "trainval" and "test"."""
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, rows in parts.items():
        for number, (name, _) in enumerate(rows):
            draw(folder / f"images/{name}.jpg", number)
        lines = (f"{name} 3 {species} 1\n" for name, species in rows)
        (folder / f"annotations/{part}.txt").write_text("".join(lines))
    return folder


def write_wbc(root: Path, labels: Sequence[int]) -> Path:
    """Images, the segmentations beside them, and the label list with the line ends it has."""
    for number in range(1, len(labels) + 1):
        draw(root / f"Dataset 1/{number:03}.bmp", number)
        draw(root / f"Dataset 1/{number:03}.png", 0)
    lines = (f"{number},{label}\r\n" for number, label in enumerate(labels, start=1))
    (root / "Class Labels of Dataset 1.csv").write_bytes("".join(["image ID,class label\r\n", *lines]).encode())
    return root


Objects = Sequence[tuple[str, tuple[int, int, int, int]]]


def write_dior(root: Path, parts: dict[str, Sequence[Objects]], size: int = 400) -> Path:
    """Images and annotations of DIOR, numbered through "trainval" and "test"; an image has a number in every pixel."""
    annotations = root / "Annotations/Horizontal Bounding Boxes"
    annotations.mkdir(parents=True)
    number = 0
    for part, images in parts.items():
        (root / f"JPEGImages-{part}").mkdir(parents=True)
        for objects in images:
            number += 1
            pixels = np.add.outer(np.arange(size), np.arange(size)) % 256
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"JPEGImages-{part}/{number:05}.jpg", quality=95)
            elements = "".join(
                f"<object><name>{name}</name><bndbox>"
                + "".join(
                    f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
                )
                + "</bndbox></object>"
                for name, box in objects
            )
            (annotations / f"{number:05}.xml").write_text(f"<annotation>{elements}</annotation>")
    return root
