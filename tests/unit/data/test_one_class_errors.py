"""Each mistake with OneClassFolder is named before training, with what to do."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from panda_anomalib.data import OneClassFolder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """root/<class>: 10 images of cats and 10 of dogs."""
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(10):
            Image.effect_noise((32, 32), 50).save(tmp_path / "pets" / name / f"{index}.jpg")
    return tmp_path / "pets"


def assert_refused(message: str, root: Path, normal_class: str = "cat", **arguments: Any) -> None:
    """Setup raises a ValueError that holds the message literally."""
    datamodule = OneClassFolder(root, normal_class, num_workers=0, **arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        datamodule.setup()


def truncate(path: Path) -> Path:
    """Cut off the end of a file."""
    path.write_bytes(path.read_bytes()[:-100])
    return path


def test_missing_root(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(FileNotFoundError, match=r"root must be an existing folder, got '.*nowhere'; check the path"):
        OneClassFolder(tmp_path / "nowhere", "cat").setup()


def test_no_class_folders(tmp_path: Path) -> None:
    """Images directly in root, and hidden folders, are no classes."""
    (tmp_path / "image.png").touch()
    (tmp_path / ".cache").mkdir()
    assert_refused(f"root must hold one folder per class, got none in '{tmp_path}'", tmp_path)


def test_unknown_classes_name_the_nearest_first(root: Path) -> None:
    """For the normal class and for the classes to use."""
    (root / "dogs2").mkdir()
    message = f"normal_class must be class folders of '{root}', got 'dig'; did you mean one of 'dog', 'dogs2', 'cat'?"
    assert_refused(message, root, "dig")
    message = f"classes must be class folders of '{root}', got 'caat'; did you mean one of 'cat', "
    assert_refused(message, root, classes=["cat", "caat"])


def test_one_of_the_two_folders(root: Path) -> None:
    """Half a split is an error, unless train_dir says that it is none."""
    (root / "train").mkdir()
    message = f"root must hold both 'train' and 'test' or neither, got '{root / 'train'}' without '{root / 'test'}'"
    assert_refused(message, root)
    (root / "train").rename(root / "test")
    assert_refused(f"got '{root / 'test'}' without '{root / 'train'}'; add that folder, or set train_dir to null", root)
    (root / "test").rmdir()
    (root / "cat").rename(root / "train")  # a class of that name
    datamodule = OneClassFolder(root, "train", train_dir=None)
    datamodule.setup()
    assert len(datamodule.train_data) == 8


def test_class_without_images(root: Path) -> None:
    """An empty class folder stops setup unless classes leave it out."""
    (root / "bird").mkdir()
    (root / "bird" / "notes.txt").touch()
    assert_refused(f"got none in '{root / 'bird'}'; remove the folder, or name the others in classes", root)
    OneClassFolder(root, "cat", classes=["cat", "dog"]).setup()


def test_normal_class_without_training_images(root: Path) -> None:
    """One image of the normal class all goes to the test set."""
    for path in sorted((root / "cat").iterdir())[1:]:
        path.unlink()
    assert_refused("normal_class must have training images, got none for 'cat', whose 1 are to test; add some.", root)


def test_one_training_image_is_warned_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Scorers raise their own error where they need more."""
    OneClassFolder(root, "cat", test_split_ratio=0.85).setup()
    assert "One normal training image" in caplog.text


def test_unreadable_images_stop_setup(root: Path) -> None:
    """Only those that are used: the training part of an anomalous class is not read."""
    cut = truncate(root / "cat" / "3.jpg")
    assert_refused(f"images must be readable, got 1 of 12 that are not ('{cut}': image file is truncated", root)
    for path in sorted((root / "cat").iterdir()):
        truncate(path) if path != cut else None
    assert_refused("got 10 of 12 that are not", root)
    assert_refused("; and 5 more); repair or remove them, or set on_corrupt to 'skip'", root)
    assert_refused("normal_class must have training images, got none for 'cat'", root, on_corrupt="skip")


def test_unreadable_images_are_skipped_on_request(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The others keep their places in the split, and a log line names the file."""
    reference = OneClassFolder(root, "cat")
    reference.setup()
    cut = truncate(Path(reference.train_data.samples.image_path[0]))
    (root / "dog" / "empty.jpg").touch()
    datamodule = OneClassFolder(root, "cat", on_corrupt="skip", classes=["cat"])
    datamodule.setup()
    assert set(datamodule.train_data.samples.image_path) == set(reference.train_data.samples.image_path) - {str(cut)}
    assert f"Left out 1 of 10 images that cannot be read: '{cut}': image file is truncated" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_split_ratio": 1.0}, r"test_split_ratio must be between 0 and 1 \(exclusive\), got 1\.0"),
        ({"val_split_ratio": 0.0}, r"val_split_ratio must be between 0 and 1 \(exclusive\), got 0\.0"),
        ({"on_corrupt": "ignore"}, "on_corrupt must be 'error' or 'skip', got 'ignore'"),
        ({"classes": ["dog"]}, r"normal_class must be one of classes \['dog'\], got 'cat'; add it"),
        ({"val_split_mode": "some"}, "'some' is not a valid ValSplitMode"),
    ],
)
def test_arguments_are_checked_at_once(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Before setup, as no file is needed to see it."""
    with pytest.raises(ValueError, match=message):
        OneClassFolder(tmp_path, "cat", **arguments)
