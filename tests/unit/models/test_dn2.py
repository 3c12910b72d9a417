"""DN2 through anomalib's Engine: what is scored, kept and restored."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import anomalib.data
import anomalib.models
import numpy as np
import pandas as pd
import pytest
import reference
import torch
from anomalib.data import Folder, PredictDataset
from PIL import Image
from runs import engine
from runs import one_class as data
from torch.utils.data import DataLoader

from panda_anomalib import Dn2, Engine, OneClassFolder
from panda_anomalib.data.reading import read_image

SMALL: dict[str, Any] = {
    "backbone": "test_resnet",
    "weights": "random",
    "runtime": "eager",
    "resize": 80,
    "crop": 64,
    "scorer": "knn",
}


def seeded(**arguments: Any) -> Dn2:
    """Small model with the same random backbone every time."""
    torch.manual_seed(0)
    return Dn2(**{**SMALL, **arguments})


@pytest.fixture(scope="module")
def trained(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dn2, Path, pd.DataFrame]:
    """Fitted and tested model, its checkpoint, and its table of predictions."""
    root = tmp_path_factory.mktemp("trained")
    model, run = seeded(), engine(root)
    run.fit(model, datamodule=data(photographs))
    run.test(model, datamodule=data(photographs))
    folder = root / "Dn2" / photographs.name / "astronaut" / "v0"
    return model, folder / "weights/lightning/model.ckpt", pd.read_parquet(folder / "test/predictions.parquet")


def test_distances_are_those_of_the_formula(trained: tuple[Dn2, Path, pd.DataFrame]) -> None:
    """From the files to the table, against numpy: single images, float64 distances, threshold and p-value."""
    model, _, table = trained

    def embed(paths: list[str]) -> np.ndarray:
        with torch.no_grad():
            images = [model.pre_processor.transform(read_image(path)) for path in paths]
            pooled = torch.cat([model.model.backbone(image[None].as_subclass(torch.Tensor)) for image in images])
        return reference.power_l2(pooled.numpy(), 0.5)

    bank, queries = embed(model.training_paths), embed(list(table["path"]))
    assert len(bank) == 30
    np.testing.assert_allclose(table["distance"], reference.knn(queries, bank, 2), rtol=1e-4)
    calibration = reference.leave_one_out_knn(bank, 2)
    threshold = reference.conformal_threshold(calibration, 0.05)
    assert model.post_processor.threshold.item() == pytest.approx(threshold, rel=1e-4)
    np.testing.assert_allclose(table["score"], table["distance"] / (table["distance"] + threshold), rtol=1e-4)
    assert (table["predicted_label"] == (table["distance"] > threshold)).all()
    expected = [reference.conformal_p_value(distance, calibration) for distance in table["distance"]]
    np.testing.assert_allclose(table["p_value"], expected, atol=1.01 / 31)  # an image on a calibration distance


def test_bank_holds_the_training_images_in_order_of_their_paths(trained: tuple[Dn2, Path, pd.DataFrame]) -> None:
    """Whatever the shuffling: the bank is the same from run to run, and its rows can be named."""
    model, _, table = trained
    assert model.training_paths == sorted(model.training_paths)
    assert len(set(model.training_paths)) == 30
    assert not set(model.training_paths) & set(table["path"])
    first = table.iloc[0]
    assert first["neighbor_1"] in model.training_paths
    assert first["distance"] == pytest.approx((first["neighbor_1_distance"] + first["neighbor_2_distance"]) / 2)


def test_same_bank_from_any_order_and_batch_size(
    trained: tuple[Dn2, Path, pd.DataFrame], photographs: Path, tmp_path: Path
) -> None:
    """Other seeds and batch sizes give the same bank, up to the last digits of convolutions."""
    torch.manual_seed(0)
    model = seeded()
    torch.manual_seed(99)
    engine(tmp_path).fit(model, datamodule=data(photographs, train_batch_size=5))
    torch.testing.assert_close(model.model.scorer.memory_bank, trained[0].model.scorer.memory_bank, rtol=0, atol=1e-5)
    assert model.training_paths == trained[0].training_paths


def test_reported_auroc_is_that_of_the_distances(trained: tuple[Dn2, Path, pd.DataFrame]) -> None:
    """The metrics file against the table."""
    _, checkpoint, table = trained
    report = json.loads((checkpoint.parents[2] / "test/metrics.json").read_text())
    expected = reference.auroc(table["distance"].to_numpy(), table["label"].to_numpy(dtype=int))
    assert report["metrics"]["image_AUROC"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"scorer": "kmeans", "scorer_args": {"num_means": 3}},
        {"scorer": "center"},
        {"scorer": "whitening"},
        {"pooling": "avg+max", "normalization": "l2"},
    ],
    ids=["knn", "kmeans", "center", "whitening", "avg+max"],
)
def test_checkpoint_gives_the_same_scores_bit_for_bit(
    arguments: dict[str, Any], photographs: Path, tmp_path: Path
) -> None:
    """Loaded by class, and by the Trainer into a model of other arguments: the checkpoint decides."""
    model, run = seeded(**arguments), engine(tmp_path / "fit")
    run.fit(model, datamodule=data(photographs))
    expected = run.predict(model, dataloaders=loader(photographs, model))
    path = run.best_model_path
    restored = Dn2.load_from_checkpoint(path)
    assert_same_predictions(
        engine(tmp_path / "load").predict(restored, dataloaders=loader(photographs, model)), expected
    )
    other = Dn2(**{**SMALL, "num_neighbors": 1, "crop": 48, "false_positive_rate": 0.3})
    found = engine(tmp_path / "other").predict(other, dataloaders=loader(photographs, model), ckpt_path=path)
    assert_same_predictions(found, expected)
    assert other.training_paths == model.training_paths


def test_checkpoint_decides_on_the_size_of_images_to_predict(
    trained: tuple[Dn2, Path, pd.DataFrame], photographs: Path, tmp_path: Path
) -> None:
    """A folder is prepared by the arguments before the checkpoint is read."""
    arguments: dict[str, Any] = {"data_path": photographs / "coffee", "ckpt_path": trained[1]}
    (expected,) = Engine(default_root_dir=tmp_path).predict(Dn2(**SMALL), **arguments)
    (found,) = Engine(default_root_dir=tmp_path).predict(Dn2(**{**SMALL, "resize": 96, "crop": 90}), **arguments)
    assert torch.equal(found.distance, expected.distance)


def loader(root: Path, model: Dn2) -> DataLoader[Any]:
    """Images one by one, as ``predict`` reads a folder."""
    del model
    dataset = PredictDataset(root / "coffee")
    return DataLoader(dataset, collate_fn=dataset.collate_fn)


def assert_same_predictions(found: Any, expected: Any) -> None:
    """Distances, scores, labels and p-values of all batches are equal."""
    assert len(found) == len(expected) == 12
    for one, other in zip(found, expected, strict=True):
        for name in ("distance", "pred_score", "pred_label", "p_value"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_checkpoint_of_another_backbone_decides(
    trained: tuple[Dn2, Path, pd.DataFrame], caplog: pytest.LogCaptureFixture
) -> None:
    """Both are named; nothing is mixed."""
    other = Dn2(backbone="test_vit", weights="random")
    checkpoint = torch.load(trained[1], weights_only=True)
    with caplog.at_level(logging.WARNING):
        other.on_load_checkpoint(checkpoint)
    assert "backbone='test_resnet' (not 'test_vit')" in caplog.text
    other.load_state_dict(checkpoint["state_dict"])
    assert other.model.backbone.name == "test_resnet"


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    """A foreign state_dict would fail with pages of keys."""
    with pytest.raises(ValueError, match="checkpoint must be of a Dn2, got one of a model that is not of panda"):
        seeded().on_load_checkpoint({"state_dict": {}})


def test_checkpoint_that_carries_code_is_refused(
    trained: tuple[Dn2, Path, pd.DataFrame], photographs: Path, tmp_path: Path
) -> None:
    """By both ways of loading, and nothing of it runs."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (exec, ("raise SystemExit('code from a checkpoint was run')",))

    checkpoint = torch.load(trained[1], weights_only=True)
    checkpoint["panda_anomalib"]["training_paths"] = Bomb()
    torch.save(checkpoint, tmp_path / "bomb.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        Dn2.load_from_checkpoint(tmp_path / "bomb.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        engine(tmp_path).test(seeded(), datamodule=data(photographs), ckpt_path=tmp_path / "bomb.ckpt")


def test_restoring_needs_neither_network_nor_package(
    trained: tuple[Dn2, Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A checkpoint that was trained on weights nobody has any more still loads."""
    checkpoint = torch.load(trained[1], weights_only=True)
    checkpoint["hyper_parameters"]["weights"] = "/no/longer/there.safetensors"
    torch.save(checkpoint, tmp_path / "model.ckpt")
    monkeypatch.setattr("panda_anomalib.backbones.backbone.load_weights", lambda *_: pytest.fail("weights were loaded"))
    model = Dn2.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    with torch.no_grad():
        assert torch.isfinite(model(torch.rand(1, 3, 90, 90)).pred_score).all()


def test_second_fit_forgets_the_first(photographs: Path, tmp_path: Path) -> None:
    """Anomalib's bank models keep the first bank for ever."""
    model = seeded()
    engine(tmp_path / "a").fit(model, datamodule=data(photographs))
    first = model.model.scorer.memory_bank.clone()
    swapped = OneClassFolder(root=photographs, normal_class="coffee", test_split_ratio=0.25, num_workers=0)
    engine(tmp_path / "b").fit(model, datamodule=swapped)
    assert len(first) == 30
    assert len(model.model.scorer.memory_bank) == 9
    assert all("coffee" in path for path in model.training_paths)


@pytest.mark.parametrize("mode", ["none", "same_as_test", "from_test", "from_train", "synthetic"])
def test_threshold_needs_no_validation(mode: str, photographs: Path, tmp_path: Path) -> None:
    """With anomalib's Folder, and any way of splitting, ``none`` too, which crashes on its own models."""
    folder = Folder(
        name="photographs",
        root=photographs,
        normal_dir="astronaut",
        abnormal_dir="coffee",
        val_split_mode=mode,
        val_split_ratio=0.2,
        num_workers=0,
        seed=0,
    )
    model = seeded()
    results = engine(tmp_path).train(model, datamodule=folder)
    assert model.post_processor.num_calibration == len(model.training_paths) > 20
    assert torch.isfinite(model.post_processor.threshold)
    assert 0 <= results[0]["image_AUROC"] <= 1


def test_no_anomalous_image_anywhere(photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Threshold and false-alarm rate exist, AUROC is undefined and says why; anomalib says 0.0."""
    only = OneClassFolder(
        root=photographs, normal_class="astronaut", classes=["astronaut"], test_split_ratio=0.25, num_workers=0
    )
    with caplog.at_level(logging.WARNING):
        results = engine(tmp_path).train(seeded(), datamodule=only)
    assert np.isnan(results[0]["image_AUROC"])
    assert 0 <= results[0]["image_FalseAlarmRate"] <= 1
    assert "AUROC is undefined: no anomalous image" in caplog.text


def test_part_of_the_images_is_said(photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A limit of the trainer must not make a smaller bank without a word."""
    with caplog.at_level(logging.WARNING):
        engine(tmp_path, limit_train_batches=2).fit(seeded(), datamodule=data(photographs))
    assert "The memory bank holds 16 of 30 training images" in caplog.text


def test_one_image_is_refused_before_it_is_embedded(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the conversion of the network to find out. Without a threshold one is enough."""
    with monkeypatch.context() as patch:
        patch.setattr(Dn2, "embed_batch", lambda *_: pytest.fail("an image was embedded"))
        with pytest.raises(ValueError, match="normal training images must be at least 2, got 1: a threshold needs"):
            engine(tmp_path / "a").fit(seeded(), datamodule=data(photographs, num_train=1))
    model = seeded(num_neighbors=1, post_processor=False)
    engine(tmp_path / "b").fit(model, datamodule=data(photographs, num_train=1))
    assert len(model.training_paths) == 1


def test_distances_that_are_not_finite_stop_the_run(photographs: Path, tmp_path: Path) -> None:
    """The images are named; torchmetrics would have returned a number."""
    model, run = seeded(), engine(tmp_path)
    run.fit(model, datamodule=data(photographs))
    model.model.scorer.memory_bank.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"distances must be finite, got NaN or infinity for \['.*astronaut"):
        run.test(model, datamodule=data(photographs))


@pytest.mark.parametrize("call", ["test", "validate", "predict"])
def test_untrained_model_says_so(call: str, photographs: Path, tmp_path: Path) -> None:
    """One sentence, where the host gives an empty torch.cat."""
    datamodule = data(photographs, val_split_mode="same_as_test")
    with pytest.raises(RuntimeError, match="Dn2 is not trained; fit it first, or give ckpt_path"):
        getattr(engine(tmp_path), call)(seeded(), datamodule=datamodule)


def test_validation_gives_metrics(trained: tuple[Dn2, Path, pd.DataFrame], photographs: Path, tmp_path: Path) -> None:
    """``validate`` reports, and the next fit still may validate."""
    run = engine(tmp_path)
    results = run.validate(trained[0], datamodule=data(photographs, val_split_mode="same_as_test"))
    report = json.loads((trained[1].parents[2] / "test/metrics.json").read_text())
    assert results[0]["image_AUROC"] == pytest.approx(report["metrics"]["image_AUROC"])


def test_images_misread_by_the_host_are_named_once(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A 16-bit image is white to anomalib's reader; with our datamodule it is right, and nothing is said."""
    root = tmp_path / "images"
    shutil.copytree(photographs, root)
    for i in range(2):
        values = np.linspace(0, 65535, 120 * 130).reshape(120, 130).astype(np.uint16)
        Image.fromarray(values).save(root / "astronaut" / f"deep{i}.png")
    host = Folder(name="deep", root=root, normal_dir="astronaut", abnormal_dir="coffee", num_workers=0, seed=0)
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "host").fit(seeded(), datamodule=host)
    assert caplog.text.count("anomalib's reader does not read this right") == 1
    assert "deep0.png" in caplog.text or "deep1.png" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "ours").fit(seeded(), datamodule=data(root))
    assert "anomalib's reader" not in caplog.text


def test_registered_by_every_name() -> None:
    """Strings, class paths, lists, datamodules."""
    assert "dn2" in anomalib.models.list_models()
    assert isinstance(anomalib.models.get_model("dn2", **SMALL), Dn2)
    for path in ("Dn2", "panda_anomalib.Dn2", "anomalib.models.Dn2", "panda_anomalib.models.Dn2"):
        assert isinstance(anomalib.models.get_model({"class_path": path, "init_args": SMALL}), Dn2)
    init = {"root": "x", "normal_class": "y"}
    for path in ("OneClassFolder", "panda_anomalib.data.OneClassFolder"):
        found = anomalib.data.get_datamodule({"class_path": path, "init_args": init})
        assert isinstance(found, OneClassFolder)


def test_configuration_from_omegaconf_gives_a_checkpoint_that_loads(photographs: Path, tmp_path: Path) -> None:
    """Lists and dicts arrive as OmegaConf containers, which weights-only loading refuses."""
    init = {**SMALL, "resize": [80, 80], "crop": [64, 64], "scorer_args": {"distance": "cosine"}}
    torch.manual_seed(0)
    model, run = anomalib.models.get_model({"class_path": "Dn2", "init_args": init}), engine(tmp_path)
    run.fit(model, datamodule=data(photographs))
    restored = Dn2.load_from_checkpoint(run.best_model_path)
    assert restored.model.scorer.distance == "cosine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet5o"}, "backbone must be a timm model, got 'resnet5o'"),
        ({"scorer": "lof"}, "scorer must be one of knn, kmeans, center, whitening, ocsvm, got 'lof'"),
        ({"scorer": "center", "num_neighbors": 2}, "scorer 'center' accepts no arguments, got num_neighbors"),
        ({"false_positive_rate": 5}, "false_positive_rate must be between 0 and 1, got 5"),
        ({"normalization": "l1"}, "normalization must be none, l2 or power_l2, got 'l1'"),
        ({"pooling": "mean"}, "pooling must be default, avg, max, gem or avg"),
    ],
)
def test_arguments_not_accepted(arguments: dict[str, Any], message: str) -> None:
    """While building, before any image is read."""
    with pytest.raises(ValueError, match=message):
        Dn2(**arguments)


def test_too_few_images_for_k(photographs: Path, tmp_path: Path) -> None:
    """Both numbers are named."""
    with pytest.raises(ValueError, match="num_neighbors must be at most the number of normal images, 30, got 50"):
        engine(tmp_path).fit(seeded(num_neighbors=50), datamodule=data(photographs))
