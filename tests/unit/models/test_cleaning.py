"""Cleaning: which images are removed, what is built from the others, and what the threshold comes from."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from PIL import Image
from runs import engine, seeded
from skimage import data

from panda_anomalib import Dn2, OneClassFolder
from panda_anomalib.bank import check_bank, list_images
from panda_anomalib.data.reading import read_image
from panda_anomalib.models.cleaning import find_removal
from panda_anomalib.models.panda import Panda
from panda_anomalib.models.panda_ses import PandaSes


@pytest.fixture(scope="module")
def impure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 crops of coffee and 3 of an astronaut to train on as normal; 8 and 8 others to test."""
    root = tmp_path_factory.mktemp("impure") / "crops"
    rng = np.random.default_rng(0)
    for folder, picture, count in (
        ("train/good", data.coffee(), 27),
        ("test/good", data.coffee(), 8),
        ("test/astronaut", data.astronaut(), 8),
    ):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            top, left = rng.integers(0, 250, 2)
            Image.fromarray(picture[top : top + 90, left : left + 90]).save(root / folder / f"{number:02}.png")
    for number in range(3):
        Image.fromarray(data.astronaut()[40 * number :][:90, 180:270]).save(root / f"train/good/wrong_{number}.png")
    return root


def one_class(root: Path, **arguments: Any) -> OneClassFolder:
    """The datamodule."""
    return OneClassFolder(root, "good", num_workers=0, train_batch_size=8, eval_batch_size=8, **arguments)


def fit(folder: Path, root: Path, model: Any) -> Any:
    """A fitted model, and where its checkpoint is in ``model.path``."""
    run = engine(folder)
    run.fit(model, datamodule=one_class(root))
    model.path = Path(run.best_model_path)
    return model


def embeddings_of(model: Any, root: Path) -> np.ndarray:
    """Embeddings of all training images one by one, as the scorer takes them."""
    paths = sorted((root / "train/good").iterdir())
    with torch.no_grad():
        images = [model.pre_processor.transform(read_image(path)) for path in paths]
        pooled = torch.cat([model.model.backbone(image[None].as_subclass(torch.Tensor)) for image in images])
        return model.model.normalization(pooled).numpy()


# ---- which images


def test_values_by_hand() -> None:
    """METHODS 7: leave-one-out distances 12.5, 17, 20.5, 74.5; a quarter is (10, 0), the half also (0, 4)."""
    bank = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [10.0, 0.0]])
    for share, positions, nearest in ((0.25, [3], [1]), (0.5, [3, 2], [1, 0])):
        removal = find_removal(bank, share)
        assert removal is not None
        assert removal.positions.tolist() == positions
        assert removal.distances.tolist() == [74.5, 20.5][: len(positions)]
        assert removal.nearest.tolist() == nearest
        assert removal.kept(4).tolist() == sorted({0, 1, 2, 3} - set(positions))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_removal_equals_brute_force(share: float, rng: np.random.Generator) -> None:
    """In order, with the distances that decided and the nearest images that are kept, also of near-duplicates."""
    bank = rng.normal(size=(60, 5)).astype(np.float32) + 30
    bank[7] = bank[11] + np.float32(1e-3)
    kept, removed = reference.cleaned(bank, share)
    removal = find_removal(torch.from_numpy(bank), share)
    assert removal is not None
    assert removal.positions.tolist() == removed
    assert removal.kept(60).tolist() == kept
    np.testing.assert_allclose(removal.distances, reference.leave_one_out_knn(bank, 2)[removed], rtol=1e-5)
    nearest = reference.squared_distances(bank[removed], bank[kept]).argmin(axis=1)
    assert removal.nearest.tolist() == [kept[position] for position in nearest]


def test_ties_go_by_position() -> None:
    """Four corners of a square are equally far from each other: the first goes first."""
    square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    removal = find_removal(square, 0.5)
    assert removal is not None
    assert removal.positions.tolist() == [0, 1]


def test_share_is_rounded_to_whole_images() -> None:
    """Less than half an image is none."""
    rows = torch.arange(20.0)[:, None]
    assert find_removal(rows, 0.02) is None
    assert [len(find_removal(rows, share).positions) for share in (0.03, 0.1, 0.12)] == [1, 2, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize("cleaning", [-0.1, 1.0, float("nan")])
def test_impossible_shares_are_refused_at_once(cleaning: float) -> None:
    """When the model is built."""
    with pytest.raises(ValueError, match=re.escape("cleaning must be from 0 to below 1, got")):
        Dn2(cleaning=cleaning)


def test_two_images_must_be_left() -> None:
    """One has no other to be compared with."""
    message = (
        "cleaning must leave at least 2 of the 4 training images, got 0.7, which leaves 1; lower it or add images."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        find_removal(torch.eye(4), 0.7)


# ---- DN2


@pytest.fixture(scope="module")
def cleaned(impure: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """DN2 that has removed a tenth."""
    return fit(tmp_path_factory.mktemp("cleaned"), impure, seeded(Dn2, cleaning=0.1, visualizer=True))


def test_bank_and_threshold_are_those_of_the_formula(cleaned: Any, impure: Path) -> None:
    """The bank is that of the others; all images set the threshold, each by its distance to the bank without itself."""
    rows = embeddings_of(cleaned, impure)
    kept, removed = reference.cleaned(rows, 0.1)
    assert len(removed) == 3
    paths = sorted(str(path) for path in (impure / "train/good").iterdir())
    assert cleaned.training_paths == [paths[position] for position in kept]
    assert cleaned.bank_record.removed.paths == [paths[position] for position in removed]
    np.testing.assert_allclose(cleaned.model.scorer.memory_bank, rows[kept], rtol=1e-5, atol=1e-6)
    own, others = reference.leave_one_out_knn(rows[kept], 2), reference.knn(rows[removed], rows[kept], 2)
    np.testing.assert_allclose(cleaned.bank_record.removed.distances, others, rtol=1e-4)
    np.testing.assert_allclose(cleaned.post_processor.distances, np.sort([*own, *others]), rtol=1e-4)
    threshold = reference.conformal_threshold(np.array([*own, *others]), 0.05)
    assert float(cleaned.post_processor.threshold) == pytest.approx(threshold, rel=1e-4)


def test_without_the_tail_the_threshold_would_be_too_low(rng: np.random.Generator) -> None:
    """Why all images count: half of the normal images removed, 5 % asked for, and what new normal images get."""
    rows = torch.from_numpy(rng.normal(size=(1200, 8)).astype(np.float32))
    model = Dn2(backbone="test_resnet", weights="random", scorer="knn", cleaning=0.5)
    model.fit_embeddings(rows[:600], [""] * 600)
    distances = model.model.scorer(rows[600:])
    realised = float((distances > model.post_processor.threshold).float().mean())
    assert 0.02 < realised < 0.09
    kept_only = float((distances > model.model.scorer.calibration_distances().quantile(0.95)).float().mean())
    assert kept_only > 0.3


def test_distances_are_those_of_a_fit_without_the_removed_images(cleaned: Any, impure: Path, tmp_path: Path) -> None:
    """What is removed has no further influence on them; only the thresholds differ."""
    for part, paths in (("train", cleaned.training_paths), ("test", cleaned.training_paths[:1])):
        (folder := tmp_path / "kept" / part / "good").mkdir(parents=True)
        for path in paths:
            (folder / Path(path).name).symlink_to(path)
    plain = fit(tmp_path, tmp_path / "kept", seeded(Dn2))
    assert torch.equal(plain.model.scorer.memory_bank, cleaned.model.scorer.memory_bank)
    assert plain.post_processor.threshold < cleaned.post_processor.threshold


def test_what_was_removed_is_listed_beside_the_checkpoint(cleaned: Any, impure: Path) -> None:
    """Table and picture; the bank commands say it too."""
    folder = cleaned.path.parents[2]
    table, record = pd.read_csv(folder / "removed.csv"), cleaned.bank_record.removed
    assert list(table.columns) == ["path", "distance", "nearest", "bank_distance", "sha256"]
    assert list(table["path"]) == record.paths
    assert set(table["nearest"]) <= set(cleaned.training_paths)
    assert (table["distance"].diff().dropna() <= 0).all()
    assert table["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    with Image.open(folder / "removed.png") as picture:
        assert picture.size[0] > 800
    listed = list_images(cleaned.path)
    assert len(listed) == 30
    assert set(listed[listed["removed"]]["path"]) == set(record.paths)
    assert listed["sets_threshold"].all()
    np.testing.assert_allclose(listed["p_value"].max(), 1.0)
    (finding,) = [finding for finding in check_bank(cleaned.path) if finding.topic == "cleaning"]
    assert finding.items == record.paths
    assert finding.text.startswith("cleaning=0.1 has left 3 images out of the bank")


def test_checking_fits_a_cleaned_bank_again(cleaned: Any) -> None:
    """It comes out as it is in the file, cleaning included."""
    findings = {finding.topic: finding for finding in check_bank(cleaned.path)}
    assert findings["scorer"].text == "scorer and threshold are, bit for bit, what the embeddings give."
    assert "from 30 images" in findings["threshold"].text


def test_a_checkpoint_keeps_what_was_removed(cleaned: Any) -> None:
    """In a form that older versions refuse to change."""
    plain = torch.load(cleaned.path, weights_only=True)["panda_anomalib"]["bank"]
    assert plain["format"] == 2
    loaded = Dn2.load_from_checkpoint(cleaned.path)
    assert loaded.hparams["cleaning"] == 0.1
    assert loaded.bank_record.removed.paths == cleaned.bank_record.removed.paths
    assert torch.equal(loaded.bank_record.removed.removal.nearest, cleaned.bank_record.removed.removal.nearest)


def test_too_small_a_share_is_said(impure: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is removed without a word; the file is that of a model without cleaning, and there is no table."""
    with caplog.at_level(logging.WARNING):
        model = fit(tmp_path, impure, seeded(Dn2, cleaning=0.01))
    assert "cleaning=0.01 of 30 images is less than one: nothing is removed." in caplog.text
    assert len(model.training_paths) == 30
    assert torch.load(model.path, weights_only=True)["panda_anomalib"]["bank"]["format"] == 1
    assert not (model.path.parents[2] / "removed.csv").exists()


def test_no_picture_without_a_visualizer(impure: Path, tmp_path: Path) -> None:
    """The table is there."""
    model = fit(tmp_path, impure, seeded(Dn2, cleaning=0.1, visualizer=False))
    assert (model.path.parents[2] / "removed.csv").exists()
    assert not (model.path.parents[2] / "removed.png").exists()


# ---- the adapted models


ADAPTED: dict[str, Any] = {"minibatches": 4, "calibration_share": 0.5, "cleaning": 0.2}


def test_removed_images_are_in_no_minibatch_and_not_in_the_centre(
    impure: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are chosen before the training, by unadapted embeddings."""
    seen: list[int] = []
    plain = seeded(Dn2)
    plain.model.backbone.load_weights()
    rows = embeddings_of(plain, impure)
    kept, removed = reference.cleaned(rows, 0.2)
    model = seeded(Panda, **ADAPTED)

    prepare = model.prepare_adaptation
    monkeypatch.setattr(
        model, "prepare_adaptation", lambda embeddings: (seen.append(len(embeddings)), prepare(embeddings))
    )
    order = model.minibatch_order
    orders: list[Any] = []
    monkeypatch.setattr(
        model, "minibatch_order", lambda *args, **kwargs: orders.append(order(*args, **kwargs)) or orders[-1]
    )
    fit(tmp_path, impure, model)
    assert seen == [24]
    np.testing.assert_allclose(model.adaptation_center(), rows[kept].mean(axis=0), rtol=1e-4, atol=1e-6)
    drawn = {index for position in range(orders[0].per_pass) for index in orders[0].indices(position)}
    assert drawn == set(kept) - set(model.held_out.tolist())
    paths = sorted(str(path) for path in (impure / "train/good").iterdir())
    assert model.training_paths == [paths[position] for position in kept]
    assert model.bank_record.removed.paths == [paths[position] for position in removed]


def test_held_out_images_set_the_threshold_whether_removed_or_not(impure: Path, tmp_path: Path) -> None:
    """In the proportion in which they are among all: those held out were drawn before the cleaning."""
    model = fit(tmp_path, impure, seeded(Panda, **ADAPTED))
    record = model.bank_record
    assert model.post_processor.num_calibration == len(model.held_out) == 15
    assert len(record.calibrated) + sum(record.removed.calibrating) == 15
    assert 0 < sum(record.removed.calibrating) < 6
    own = model.model.scorer.calibration_distances()[record.calibrated]
    others = record.removed.distances[torch.tensor(record.removed.calibrating)]
    assert torch.equal(model.post_processor.distances, torch.cat([own, others]).sort().values)
    assert {finding.level for finding in check_bank(model.path) if finding.topic == "scorer"} <= {"ok", "note"}
    listed = list_images(model.path)
    assert (listed["removed"].sum(), listed["sets_threshold"].sum()) == (6, 15)


def test_a_resumed_training_keeps_what_was_removed(impure: Path, tmp_path: Path) -> None:
    """Its embeddings are not unadapted any more: the checkpoint knows."""
    whole = fit(tmp_path / "whole", impure, seeded(Panda, **ADAPTED))
    part = fit(tmp_path / "part", impure, seeded(Panda, **{**ADAPTED, "minibatches": 2}))
    checkpoint = torch.load(part.path, weights_only=True)
    checkpoint["hyper_parameters"]["minibatches"] = 4
    removal = checkpoint["panda_anomalib"]["removal"]
    assert torch.equal(removal["positions"], whole.removal.positions)
    swapped = torch.tensor([0, 1, 2, 3, 4, 5])  # not what would be found, to see that it is not looked for
    checkpoint["panda_anomalib"]["removal"] = {**removal, "positions": swapped}
    torch.save(checkpoint, tmp_path / "resumed.ckpt")
    model, run = seeded(Panda, **ADAPTED), engine(tmp_path / "resumed")
    run.fit(model, datamodule=one_class(impure), ckpt_path=tmp_path / "resumed.ckpt")
    assert model.minibatches_done == 4
    assert model.removal.positions.tolist() == swapped.tolist()
    paths = sorted(str(path) for path in (impure / "train/good").iterdir())
    assert model.bank_record.removed.paths == paths[:6]


def test_snapshots_are_cleaned_too(impure: Path, tmp_path: Path) -> None:
    """One choice for all of them, by the unadapted embeddings."""
    model = fit(tmp_path, impure, seeded(PandaSes, every_n_minibatches=2, **ADAPTED))
    removed, snapshots = model.bank_record.removed, len(model.model.members)
    assert len(model.training_paths) == 24
    assert removed.embeddings.shape[:2] == (6, snapshots)
    assert torch.equal(removed.distances, model.model.scorer(removed.embeddings))
    assert torch.equal(removed.removal.positions, fit(tmp_path, impure, seeded(Panda, **ADAPTED)).removal.positions)
