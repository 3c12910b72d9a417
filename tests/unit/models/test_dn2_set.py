"""Dn2Set through the Engine: sets are embedded, scored, kept, restored and drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from anomalib.models import list_models
from PIL import Image
from runs import engine, one_class, seeded
from skimage import data

from panda_anomalib import Dn2, Dn2Set, ImageSets
from panda_anomalib.bank import add_images, check_bank, list_images
from panda_anomalib.data.reading import read_image


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and test with crops of three photographs by class."""
    root = tmp_path_factory.mktemp("objects")
    pictures = {"astronaut": data.astronaut(), "coffee": data.coffee(), "rocket": data.rocket()}
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name, picture in pictures.items():
            (root / part / name).mkdir(parents=True)
            for number in range(9):
                top, left = rng.integers(0, 280, 2)
                Image.fromarray(picture[top : top + 90, left : left + 90]).save(root / part / name / f"{number}.png")
    return root


def sets(root: Path, **arguments: Any) -> ImageSets:
    """Small numbers of sets."""
    given = {"kind": "one_of_each", "num_train": 20, "num_test": 5, "num_workers": 0, **arguments}
    return ImageSets(root, **given)


def fit_and_test(folder: Path, root: Path, model: Dn2Set, **arguments: Any) -> tuple[Path, pd.DataFrame]:
    """Checkpoint and table of a fit and a test."""
    run, datamodule = engine(folder), sets(root, **arguments)
    run.fit(model, datamodule=datamodule)
    run.test(model, datamodule=datamodule)
    checkpoint = Path(run.best_model_path)
    return checkpoint, pd.read_csv(checkpoint.parents[2] / "test/predictions.csv")


def embedded(model: Dn2Set, images: list[str], pooling: str) -> np.ndarray:
    """Embedding of a set, its images one by one."""
    with torch.no_grad():
        prepared = [model.pre_processor.transform(read_image(path)) for path in images]
        pooled = torch.cat([model.model.backbone(image[None].as_subclass(torch.Tensor)) for image in prepared])
        return reference.set_embedding(model.model.normalization(pooled).numpy(), pooling)


@pytest.fixture(scope="module")
def trained(objects: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dn2Set, Path, pd.DataFrame]:
    """Mean pooling, fitted and tested, with pictures."""
    model = seeded(Dn2Set, visualizer=True)
    return model, *fit_and_test(tmp_path_factory.mktemp("trained"), objects, model)


def test_anomalib_lists_it() -> None:
    """A subclass of Dn2 alone would not be found."""
    assert "dn2_set" in list_models()
    assert Dn2Set().name == "Dn2Set"


def test_the_table_has_a_row_for_each_set(trained: tuple[Dn2Set, Path, pd.DataFrame], objects: Path) -> None:
    """With its label, its images, and the sets nearest to it."""
    model, _, table = trained
    assert list(table["path"]) == [
        f"{objects}/test/{kind}-0000{i}" for kind in ("normal", "anomalous") for i in range(5)
    ]
    assert list(table["label"]) == [0] * 5 + [1] * 5
    for row in table.to_dict("records"):
        classes = [Path(path).parent.name for path in row["images"].split(";")]
        assert len(classes) == 3
        assert (len(set(classes)) == 3) == (row["label"] == 0)
    assert set(table["neighbor_1"]) <= set(model.training_paths)
    assert len(model.training_paths) == 20


@pytest.mark.parametrize("pooling", ["mean", "max", "concatenation"])
def test_distances_are_those_of_the_formula(pooling: Any, objects: Path, tmp_path: Path) -> None:
    """From the files to the table, against numpy; the threshold is that of the training sets."""
    model = seeded(Dn2Set, set_pooling=pooling)
    _, table = fit_and_test(tmp_path, objects, model, train_batch_size=7)
    bank = np.array([embedded(model, images, pooling) for images in model.training_sets])
    queries = np.array([embedded(model, row.split(";"), pooling) for row in table["images"]])
    np.testing.assert_allclose(table["distance"], reference.knn(queries, bank, 2), rtol=1e-3)
    threshold = reference.conformal_threshold(reference.leave_one_out_knn(bank, 2), 0.05)
    assert float(model.post_processor.threshold) == pytest.approx(threshold, rel=1e-3)


def test_the_trace_is_the_score(objects: Path, tmp_path: Path) -> None:
    """No training set is compared with; sets of different things are more anomalous than sets of one."""
    model = seeded(Dn2Set, set_pooling="covariance_trace")
    _, table = fit_and_test(tmp_path, objects, model, kind="one_class", set_size=[4, 6], num_test=10)
    expected = [embedded(model, row.split(";"), "covariance_trace")[0] for row in table["images"]]
    np.testing.assert_allclose(table["distance"], expected, rtol=1e-3)
    own = [embedded(model, images, "covariance_trace")[0] for images in model.training_sets]
    np.testing.assert_allclose(model.post_processor.distances, np.sort(own), rtol=1e-3)
    assert reference.auroc(table["distance"].to_numpy(), table["label"].to_numpy(dtype=int)) > 0.8
    assert "neighbor_1" not in table


def test_a_checkpoint_gives_the_same_scores(
    trained: tuple[Dn2Set, Path, pd.DataFrame], objects: Path, tmp_path: Path
) -> None:
    """By predict, with the datamodule; it knows the images of its sets."""
    model, checkpoint, table = trained
    restored = Dn2Set.load_from_checkpoint(checkpoint)
    assert restored.training_sets == model.training_sets
    assert [len(images) for images in restored.training_sets] == [3] * 20
    batches = engine(tmp_path).predict(restored, datamodule=sets(objects))
    distances = torch.cat([batch.distance for batch in batches])
    np.testing.assert_allclose(distances, table["distance"], rtol=1e-6)
    assert [name for batch in batches for name in batch.image_path] == list(table["path"])


def test_sets_of_different_sizes(objects: Path, tmp_path: Path) -> None:
    """Pooled they can be compared; concatenated they cannot, which is said."""
    fit_and_test(tmp_path / "mean", objects, seeded(Dn2Set), kind="one_class", set_size=[2, 4])
    with pytest.raises(ValueError, match="sets must be of one size for concatenation"):
        fit_and_test(
            tmp_path / "whole", objects, seeded(Dn2Set, set_pooling="concatenation"), kind="one_class", set_size=[2, 4]
        )


def test_pictures_show_the_images_of_sets(trained: tuple[Dn2Set, Path, pd.DataFrame]) -> None:
    """One for each set, none with the grey tile of a missing image, and the overview."""
    folder = trained[1].parents[2] / "test"
    pictures = sorted((folder / "images").rglob("*.png"))
    assert [path.name for path in pictures[:2]] == ["anomalous-00000.png", "anomalous-00001.png"]
    assert len(pictures) == 10
    assert (folder / "overview.png").exists()
    for path in pictures:
        with Image.open(path) as picture:
            colors = dict((color, count) for count, color in picture.convert("RGB").getcolors(2**24))  # noqa: C402
        assert colors.get((0xE3, 0xE3, 0xE3), 0) < 1000
        assert len(colors) > 5000  # photographs


def test_single_images_are_refused(
    trained: tuple[Dn2Set, Path, pd.DataFrame], photographs: Path, tmp_path: Path
) -> None:
    """With what to use; the other way round, too."""
    with pytest.raises(ValueError, match="data of Dn2Set must be sets of images, got single images"):
        engine(tmp_path / "fit").fit(seeded(Dn2Set), datamodule=one_class(photographs))
    with pytest.raises(ValueError, match="data of Dn2Set must be sets of images, got single images"):
        engine(tmp_path / "test").test(trained[0], datamodule=one_class(photographs))


def test_other_models_refuse_sets(objects: Path, tmp_path: Path) -> None:
    """They would take the images for samples."""
    with pytest.raises(ValueError, match="data of Dn2 must be single images, got sets of images; use Dn2Set"):
        engine(tmp_path).fit(seeded(Dn2), datamodule=sets(objects))


def test_the_bank_is_listed_and_checked_and_not_changed(
    trained: tuple[Dn2Set, Path, pd.DataFrame], objects: Path
) -> None:
    """Sets have names and no files."""
    _, checkpoint, _ = trained
    assert len(list_images(checkpoint)) == 20
    findings = {finding.topic: finding for finding in check_bank(checkpoint)}
    assert findings["scorer"].level == "ok"
    assert "images" not in findings
    with pytest.raises(ValueError, match="bank to change must be of single images, got one of Dn2Set"):
        add_images(checkpoint, objects / "test/coffee/0.png")


def test_exports_are_refused(trained: tuple[Dn2Set, Path, pd.DataFrame], tmp_path: Path) -> None:
    """An exported graph takes a batch of images, each for itself."""
    with pytest.raises(ValueError, match="model to export must score single images, got Dn2Set"):
        trained[0].to_torch(tmp_path)


def test_unknown_pooling() -> None:
    """When the model is built."""
    with pytest.raises(
        ValueError, match="set_pooling must be one of mean, max, concatenation, covariance_trace, got 'sum'"
    ):
        Dn2Set(set_pooling="sum")  # type: ignore[arg-type]
