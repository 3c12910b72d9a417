"""The demo data are what their table says, and hold nothing of the training images in the test set."""

import csv
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from panda_anomalib.data import OneClassFolder
from panda_anomalib.data.demo import make_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo data, drawn once for all tests here."""
    return make_demo(tmp_path_factory.mktemp("demo") / "gravel")


def read_table(demo: Path) -> list[dict[str, str]]:
    """Rows of crops.csv."""
    with (demo / "crops.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def crop_again(row: dict[str, str]) -> np.ndarray:
    """The crop that the row describes, from the photograph."""
    left, top, side = int(row["left"]), int(row["top"]), int(row["side"])
    photo = Image.fromarray(skimage.data.gravel()[top : top + side, left : left + side])
    pixels = np.rot90(np.asarray(photo.resize((224, 224), Image.Resampling.BICUBIC), dtype=float), int(row["turns"]))
    pixels = pixels[:, ::-1] if row["mirrored"] == "1" else pixels
    return np.clip(pixels * float(row["light"]), 0, 255)


def test_it_is_a_one_class_folder(demo: Path) -> None:
    """OneClassFolder takes it as it is: 120 to train, 40 good and 40 defective to test."""
    datamodule = OneClassFolder(demo, "good", num_workers=0)
    datamodule.setup()
    assert len(datamodule.train_data) == 120
    assert datamodule.test_data.samples.label_index.value_counts().to_dict() == {0: 40, 1: 40}
    assert datamodule.test_data[0].image.shape == (3, 224, 224)


def test_images_are_the_crops_of_the_table(demo: Path) -> None:
    """Normal images throughout; defects change a part of theirs, visibly."""
    rows = read_table(demo)
    assert {row["path"] for row in rows} == {path.relative_to(demo).as_posix() for path in demo.rglob("*.png")}
    for row in rows:
        with Image.open(demo / row["path"]) as image:
            difference = np.abs(np.asarray(image, dtype=float) - crop_again(row))
        changed = (difference > 25).mean()
        if row["defect"]:
            assert row["path"].startswith("test/defect")
            assert 0.001 < changed < 0.2
        else:
            assert difference.max() <= 1


def test_no_pixel_is_in_training_and_test(demo: Path) -> None:
    """The parts of the photograph that the two sets cover do not touch."""
    covered = {"train": np.zeros((512, 512), bool), "test": np.zeros((512, 512), bool)}
    for row in read_table(demo):
        left, top, side = int(row["left"]), int(row["top"]), int(row["side"])
        covered[row["path"].split("/")[0]][top : top + side, left : left + side] = True
    assert not (covered["train"] & covered["test"]).any()
    assert covered["train"].any()
    assert covered["test"].any()


def test_the_seed_decides(demo: Path, tmp_path: Path) -> None:
    """The same seed gives the same bytes, another seed gives others."""
    again, other = make_demo(tmp_path / "again"), make_demo(tmp_path / "other", seed=1)
    contents = [
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (demo, again, other)
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_other_files_are_never_touched(tmp_path: Path) -> None:
    """A demo is completed; a changed file, or one of somebody else's, stops it."""
    root = make_demo(tmp_path / "demo")
    missing = root / "test/good" / next((root / "test/good").iterdir()).name
    content = missing.read_bytes()
    missing.unlink()
    assert make_demo(root) == root
    assert missing.read_bytes() == content  # completed
    missing.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=rf"root must be empty or hold this demo unchanged, got '{missing}'"):
        make_demo(root)
    assert missing.read_bytes() == b"mine"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.png").touch()
    with pytest.raises(FileExistsError, match=r"got '.*holiday\.png'; choose another folder"):
        make_demo(tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["holiday.png"]
