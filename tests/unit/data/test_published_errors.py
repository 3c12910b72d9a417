"""What is wrong with a published data set is said before any work, with what to do."""

import re
import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from published_files import draw, write_birds, write_cifar10, write_dior, write_flowers, write_mnist, write_wbc
from torchvision import datasets

from panda_anomalib.data import Birds200, CatsVsDogs, Cifar10, Dior, FashionMnist, Flowers102, Mnist, Wbc, unpacking
from panda_anomalib.data.published import PublishedSet


def assert_refused(
    kind: type[PublishedSet], root: Path, normal_class: Any, error: type[Exception], message: str, **arguments: Any
) -> None:
    """Setup raises the error, whose message holds the text literally and is one line."""
    with pytest.raises(error, match=re.escape(message)) as caught:
        kind(root, normal_class, num_workers=0, **arguments).setup()
    assert "\n" not in str(caught.value)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """20 images of dogs and cats as published."""
    write_cifar10(tmp_path, monkeypatch, rng.integers(0, 256, (20, 32, 32, 3), np.uint8), [5, 3] * 10)
    return tmp_path


def test_nothing_at_root(tmp_path: Path) -> None:
    """What to put there, where it is from, and whether something downloads it."""
    advice = (
        "put cifar-10-batches-py/ there (from https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz), or images as "
        "train/<class>/ and test/<class>/, or set download to true."
    )
    for root in (tmp_path, tmp_path / "nowhere"):
        message = f"root must hold the files of CIFAR-10, got '{root}' without 'cifar-10-batches-py/data_batch_1'; "
        assert_refused(Cifar10, root, "cat", FileNotFoundError, message + advice)
    message = (
        "without them; put 'Dataset 1/' and 'Class Labels of Dataset 1.csv' there (from https://github.com/zxaoyou"
    )
    assert_refused(Wbc, tmp_path, "monocyte", FileNotFoundError, message)


@pytest.mark.parametrize("kind", [CatsVsDogs, Dior, Wbc])
def test_nothing_downloads_these(kind: type[PublishedSet], tmp_path: Path) -> None:
    """So asking for it is an error, and the advice does not ask for it."""
    message = f"download must be false for {kind.title}, which nothing here downloads; put "
    assert_refused(kind, tmp_path, (*kind.known, "ship")[0], ValueError, message, download=True)
    with pytest.raises(FileNotFoundError, match=r"test/<class>/\.$"):
        kind(tmp_path, "ship").setup()


@pytest.mark.parametrize("kind", [Birds200, Cifar10, FashionMnist, Flowers102])
def test_no_network(kind: type[PublishedSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests have none: what failed, and how to do without."""

    def fail(*_: Any, **__: Any) -> None:
        raise URLError("no route\nto host")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    message = f"{kind.title} must be in root or in reach, got "
    assert_refused(kind, tmp_path, (*kind.known, "any")[0], RuntimeError, message, download=True)
    with pytest.raises(RuntimeError, match=r"no route to host.*; put .* there \(from http.*test/<class>/\.$"):
        kind(tmp_path, (*kind.known, "any")[0], download=True).setup()


def test_download_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cifar: Path) -> None:
    """It happens when nothing is there and not otherwise, into root."""
    asked: list[tuple[str, ...]] = []

    def download(url: str, root: str, **_: Any) -> None:
        asked.append((url, root))
        shutil.copytree(cifar / "cifar-10-batches-py", Path(root) / "cifar-10-batches-py")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", download)
    with pytest.raises(ValueError, match="did you mean one of 'dog'"):
        Cifar10(tmp_path / "new", "dogs", download=True).setup()
    assert asked == []  # not before the class is known
    for _ in range(2):
        Cifar10(tmp_path / "new", "dog", download=True, num_workers=0).setup()
    Cifar10(cifar, "dog", download=True, num_workers=0).setup()
    assert asked == [(datasets.CIFAR10.url, str(tmp_path / "new"))]


def test_unknown_class_before_the_images_are_written(cifar: Path) -> None:
    """Near ones first."""
    message = "normal_class must be classes of CIFAR-10, got 'plane'; did you mean one of 'airplane', "
    assert_refused(Cifar10, cifar, "plane", ValueError, message)
    assert [path.name for path in cifar.iterdir()] == ["cifar-10-batches-py"]


def test_unknown_class_of_a_list(tmp_path: Path) -> None:
    """Where the classes are known from the files only."""
    write_birds(tmp_path, [(1, True), (1, False), (2, False)], ["001.Tern", "002.Wren"])
    message = "normal_class must be classes of Caltech-UCSD Birds 200, got '001.Turn'; did you mean one of '001.Tern'?"
    assert_refused(Birds200, tmp_path, "001.Turn", ValueError, message)
    draw(tmp_path / "t/train/a/1.png", 1)
    draw(tmp_path / "t/test/a/1.png", 1)
    message = "normal_class must be class folders of"
    assert_refused(Birds200, tmp_path / "t", "b", ValueError, message)


def test_another_checksum(cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is named."""
    (cifar / "cifar-10-batches-py/data_batch_3").write_bytes(b"damaged")
    message = (
        "the files of CIFAR-10 must be complete and unchanged, got another checksum of "
        f"'{cifar / 'cifar-10-batches-py/data_batch_3'}'; remove it, and unpack or download it again."
    )
    assert_refused(Cifar10, cifar, "dog", ValueError, message)
    (cifar / "cifar-10-batches-py/data_batch_3").unlink()
    assert_refused(Cifar10, cifar, "dog", FileNotFoundError, "without 'cifar-10-batches-py/data_batch_3'; put")
    folder = write_flowers(tmp_path / "f", monkeypatch, [1, 2], {"train": [1], "val": [2], "test": []})
    (folder / "setid.mat").write_bytes(b"damaged")
    assert_refused(Flowers102, tmp_path / "f", "001_pink_primrose", ValueError, "got another checksum of")


def test_cut_idx_file(tmp_path: Path, rng: np.random.Generator) -> None:
    """Torchvision has no checksums for these."""
    images = rng.integers(0, 256, (4, 28, 28), np.uint8)
    folder = write_mnist(tmp_path, "MNIST", {"train": (images, [0, 1, 2, 3]), "t10k": (images, [0, 1, 2, 3])})
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(
        Mnist, tmp_path, "1", ValueError, f"the files of MNIST must be complete and unchanged, got '{folder}' ("
    )
    path.unlink()
    assert_refused(Mnist, tmp_path, "1", FileNotFoundError, "without 'MNIST/raw/t10k-images-idx3-ubyte'; put")
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]


def test_lists_that_name_too_much_or_too_little(tmp_path: Path) -> None:
    """A missing image, a missing line, a missing list."""
    folder = write_birds(tmp_path, [(1, True), (1, False), (2, False)], ["001.Tern", "002.Wren"])
    gone = folder / "images/002.Wren/bird_0003.jpg"
    gone.rename(tmp_path / "kept.jpg")
    assert_refused(Birds200, tmp_path, "001.Tern", FileNotFoundError, f"got none at '{gone}'; unpack")
    (tmp_path / "kept.jpg").rename(gone)
    (folder / "image_class_labels.txt").write_text("1 1\n")
    assert_refused(Birds200, tmp_path, "001.Tern", ValueError, "got no line for number '2' in a list of")
    (folder / "classes.txt").unlink()
    assert_refused(Birds200, tmp_path, "001.Tern", ValueError, f"got no file '{folder / 'classes.txt'}'")


def test_label_file_of_wbc(tmp_path: Path) -> None:
    """A line without a label, and an image that is not there."""
    write_wbc(tmp_path, [1, 2, 3, 4] * 3)
    (tmp_path / "Dataset 1/005.bmp").unlink()
    assert_refused(Wbc, tmp_path, "monocyte", ValueError, f"got no file '{tmp_path / 'Dataset 1/005.bmp'}'")
    (tmp_path / "Class Labels of Dataset 1.csv").write_text("image ID,class label\n1,two\n")
    assert_refused(Wbc, tmp_path, "monocyte", ValueError, "with a line that is not 'number,label'")


def test_cats_and_dogs_of_other_numbers(tmp_path: Path) -> None:
    """A small collection has no test part by the rule; which datamodule it is for."""
    for number in range(3):
        draw(tmp_path / f"PetImages/Cat/{number}.jpg", number)
        draw(tmp_path / f"PetImages/Dog/{number}.jpg", number)
    message = (
        "images of class 'cat' on one side of number 10000 only (of cats and dogs of your own, OneClassFolder makes"
    )
    assert_refused(CatsVsDogs, tmp_path, "cat", ValueError, message)


def test_annotations_of_dior(tmp_path: Path) -> None:
    """A broken one is named; few objects leave no class."""
    box = (0, 0, 200, 200)
    write_dior(tmp_path, {"trainval": [[("ship", box)]], "test": [[("ship", box)]]})
    annotation = tmp_path / "Annotations/Horizontal Bounding Boxes/00002.xml"
    text = annotation.read_text()
    annotation.write_text(text[:40])
    assert_refused(Dior, tmp_path, "ship", ValueError, f"got '{annotation}', which cannot be read")
    annotation.write_text(text.replace("<ymax>200</ymax>", ""))
    assert_refused(Dior, tmp_path, "ship", ValueError, f"got '{annotation}', which cannot be read")
    annotation.unlink()
    assert_refused(Dior, tmp_path, "ship", ValueError, f"got no file '{annotation}'")
    annotation.write_text(text)
    message = "normal_class must be classes of DIOR with more than 50 crops, got 'ship'; there is none"
    assert_refused(Dior, tmp_path, "ship", ValueError, message)


def test_a_disk_that_fills_up_while_images_are_written(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half written stays, and the next try starts anew."""
    write = Path.write_bytes
    written: list[Path] = []

    def fail(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == 7:
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        message = f"root must be a folder that images can be written to once, got '{cifar}' ([Errno 28] No space left"
        assert_refused(Cifar10, cifar, "dog", RuntimeError, message)
    assert [path.name for path in cifar.iterdir()] == ["cifar-10-batches-py"]
    Cifar10(cifar, "dog").setup()


def test_two_processes_that_write_at_once(tmp_path: Path) -> None:
    """The slower one takes what the faster one has written, and cleans up."""

    def images() -> Any:
        yield "a/1.png", np.zeros((4, 4), np.uint8)
        unpacking.write_images(tmp_path / "set", [("b/2.png", np.ones((4, 4), np.uint8))], description="", total=1)
        yield "a/3.png", np.zeros((4, 4), np.uint8)

    unpacking.write_images(tmp_path / "set", images(), description="", total=2)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")] == ["set/b/2.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("normal_class", [[], ["dog", "dog"], [1, "1"]])
def test_normal_classes_are_different_ones(normal_class: Any, tmp_path: Path) -> None:
    """At construction."""
    with pytest.raises(ValueError, match=r"normal_class must be a class or several different ones, got \["):
        Cifar10(tmp_path, normal_class)


def test_unknown_argument(tmp_path: Path) -> None:
    """Further arguments are those of the base, and no others."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'sede'"):
        Cifar10(tmp_path, "dog", sede=1)
