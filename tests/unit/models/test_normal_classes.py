"""Several normal classes: one bank for all, and the class that an image is nearest to."""

import logging
from pathlib import Path
from typing import Any

import anomalib.data
import pandas as pd
import pytest
import torch
from PIL import Image
from runs import SMALL, engine
from skimage import data
from torch.utils.data import DataLoader

from panda_anomalib import Dn2, OneClassFolder
from panda_anomalib.data import PredictImages


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of three photographs by class; a file's folder is not always named after its class."""
    root = tmp_path_factory.mktemp("objects")
    photographs = {"astronaut": data.astronaut(), "coffee": data.coffee(), "rocket": data.rocket()}
    for part, count, left in (("train", 12, 150), ("test", 4, 155)):
        for name, picture in photographs.items():
            folder = root / part / name / "batch"
            folder.mkdir(parents=True)
            for number in range(count):
                top = 15 * number
                Image.fromarray(picture[top : top + 90, left : left + 90]).save(folder / f"{number:02}.png")
    return root


def seeded(**arguments: Any) -> Dn2:
    """Small model with the same random backbone every time."""
    torch.manual_seed(0)
    return Dn2(**{**SMALL, **arguments})


def fit_and_test(root: Path, objects: Path, normal_class: Any, **arguments: Any) -> tuple[Dn2, Path, pd.DataFrame]:
    """Model, checkpoint and table of a training and test."""
    datamodule = OneClassFolder(objects, normal_class, num_workers=0)
    model, run = seeded(**arguments), engine(root)
    run.fit(model, datamodule=datamodule)
    run.test(model, datamodule=datamodule)
    (folder,) = root.rglob("v0")
    return model, folder / "weights/lightning/model.ckpt", pd.read_csv(folder / "test/predictions.csv")


def class_of(path: str) -> str:
    """Class folder of an image."""
    return Path(path).parents[1].name


@pytest.mark.parametrize("visualizer", [True, False])
def test_nearest_class_is_that_of_the_nearest_image(visualizer: bool, objects: Path, tmp_path: Path) -> None:
    """Also where no picture asks for neighbours; both classes are normal, and told apart."""
    model, _, table = fit_and_test(tmp_path, objects, ["coffee", "astronaut"], visualizer=visualizer)
    assert len(model.training_paths) == 24
    assert table["nearest_class"].tolist() == table["neighbor_1"].map(class_of).tolist()
    truth = table["path"].map(class_of)
    normal = table["label"] == 0
    assert set(truth[normal]) == {"coffee", "astronaut"}
    assert (table["nearest_class"][normal] == truth[normal]).all()
    assert set(truth[~normal]) == {"rocket"}


def test_checkpoint_keeps_the_classes(objects: Path, tmp_path: Path) -> None:
    """It tells them of new images, without the data that it was trained on."""
    model, checkpoint, _ = fit_and_test(tmp_path, objects, ["coffee", "astronaut"])
    loaded = Dn2.load_from_checkpoint(checkpoint)
    assert loaded.normal_classes == model.normal_classes
    assert set(loaded.normal_classes) == set(model.training_paths)
    images = PredictImages(objects / "test/coffee")
    loaded.pre_processor.install(images)
    loader = DataLoader(images, batch_size=4, collate_fn=images.collate_fn)
    engine(tmp_path / "new").predict(loaded, dataloaders=loader)
    (path,) = (tmp_path / "new").rglob("predictions.csv")
    assert pd.read_csv(path)["nearest_class"].tolist() == ["coffee"] * 4

    saved = torch.load(checkpoint, weights_only=True)
    del saved["panda_anomalib"]["normal_classes"]  # of an older version
    torch.save(saved, tmp_path / "old.ckpt")
    assert Dn2.load_from_checkpoint(tmp_path / "old.ckpt").normal_classes == {}


def test_one_normal_class_has_no_such_column(objects: Path, tmp_path: Path) -> None:
    """There is nothing to tell; a model fitted again forgets what it was told."""
    model, _, table = fit_and_test(tmp_path / "one", objects, "coffee")
    assert "nearest_class" not in table
    assert "neighbor_1" not in table
    several = OneClassFolder(objects, ["coffee", "rocket"], num_workers=0)
    engine(tmp_path / "two").fit(model, datamodule=several)
    assert set(model.normal_classes.values()) == {"coffee", "rocket"}
    engine(tmp_path / "three").fit(model, datamodule=OneClassFolder(objects, "rocket", num_workers=0))
    assert model.normal_classes == {}


def test_other_datamodules_name_no_classes(objects: Path, tmp_path: Path) -> None:
    """Anomalib's."""
    folder = anomalib.data.Folder(
        name="plain",
        root=objects,
        normal_dir="train/coffee",
        abnormal_dir="test/rocket",
        val_split_mode="same_as_test",
        num_workers=0,
        seed=0,
    )
    model = seeded()
    engine(tmp_path).fit(model, datamodule=folder)
    assert model.normal_classes == {}


def test_scorers_without_neighbors_say_so(objects: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One bank for all they have, too; what they cannot tell is said in the log, once."""
    with caplog.at_level(logging.WARNING, logger="panda_anomalib"):
        _, _, table = fit_and_test(tmp_path, objects, ["coffee", "astronaut"], scorer="center")
    assert "nearest_class" not in table
    assert caplog.text.count("Scorer center compares with no single image: no nearest_class.") == 1
