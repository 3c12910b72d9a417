"""Images added to a memory bank and removed from it: the same, bit for bit, as a fit from scratch."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import engine, seeded
from torchvision.transforms.v2 import RandomHorizontalFlip

from panda_anomalib import Dn2, OneClassFolder
from panda_anomalib.bank import add_images, remove_images
from panda_anomalib.models.panda import Panda
from panda_anomalib.models.panda_oe import PandaOe
from panda_anomalib.models.panda_ses import PandaSes

SCORERS: dict[str, dict[str, Any]] = {
    "whitening": {"scorer": "whitening"},
    "whitening, few components": {"scorer": "whitening", "scorer_args": {"n_components": 5}},
    "knn": {"scorer": "knn"},
    "knn, cosine": {"scorer": "knn", "scorer_args": {"distance": "cosine"}},
    "kmeans": {"scorer": "kmeans", "scorer_args": {"num_means": 3}},
    "center": {"scorer": "center"},
    "knn, cleaned": {"scorer": "knn", "cleaning": 0.1},
    "whitening, cleaned": {"scorer": "whitening", "cleaning": 0.1},
}
LATE = slice(1, None, 3)
"""Images that come later: spread over the order, so that they do not just go to the end."""


@pytest.fixture(scope="module")
def images(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 normal images to train on, and 10 normal and 12 anomalous ones to test on."""
    root = tmp_path_factory.mktemp("bank") / "images"
    for number, path in enumerate(sorted((photographs / "astronaut").iterdir())):
        folder = root / ("train" if number < 30 else "test") / "good"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    shutil.copytree(photographs / "coffee", root / "test" / "coffee")
    return root


def normals(images: Path) -> list[Path]:
    """The normal images to train on."""
    return sorted((images / "train" / "good").iterdir())


def fit(folder: Path, images: Path, model: Any = None, *, without: list[Path] | None = None, **data: Any) -> Path:
    """Checkpoint of a model, by default a Dn2, fitted on the normal images but for some."""
    aside = folder / "aside"
    aside.mkdir(parents=True)
    for path in without or []:
        path.rename(aside / path.name)
    try:
        run = engine(folder)
        data = {"train_batch_size": 8, "num_workers": 0, **data}
        run.fit(seeded(Dn2) if model is None else model, datamodule=OneClassFolder(images, "good", **data))
    finally:
        for path in without or []:
            (aside / path.name).rename(path)
    return Path(run.best_model_path)


def contents(path: Path) -> dict[str, Any]:
    """What a checkpoint holds of the model."""
    checkpoint = torch.load(path, weights_only=True)
    return {"state": checkpoint["state_dict"], **checkpoint["panda_anomalib"]}


def differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of tensors that are not equal bit for bit; calibration distances that nobody asked for are NaN."""
    assert found["state"].keys() == expected["state"].keys()
    pairs = [(name, value, expected["state"][name]) for name, value in found["state"].items()]
    return [
        name
        for name, value, other in pairs
        if value.shape != other.shape or not torch.allclose(value, other, rtol=0, atol=0, equal_nan=True)
    ]


def assert_same_model(found: Path, expected: Path) -> None:
    """Every tensor, the paths, the hashes and what is known of the conditions."""
    first, second = contents(found), contents(expected)
    assert first["training_paths"] == second["training_paths"]
    assert differing(first, second) == []
    embeddings, others = first["bank"].pop("embeddings"), second["bank"].pop("embeddings")
    assert (embeddings is None) == (others is None)
    assert embeddings is None or torch.equal(embeddings, others)
    removed = [bank.pop("removed", None) for bank in (first["bank"], second["bank"])]
    assert first["bank"] == second["bank"]
    assert_same_removed(*removed)


def assert_same_removed(found: dict[str, Any] | None, expected: dict[str, Any] | None) -> None:
    """What cleaning has left out, if anything."""
    if found is None or expected is None:
        assert found is expected
        return
    for one, other in ((found, expected), (found.pop("removal"), expected.pop("removal"))):
        for name in [name for name, value in one.items() if isinstance(value, torch.Tensor)]:
            assert torch.equal(one.pop(name), other.pop(name)), name
        assert one == other


def predictions(path: Path, images: Path) -> dict[str, torch.Tensor]:
    """What a model says of the test images."""
    model = Dn2.load_from_checkpoint(path)
    batches = engine(path.parent / "predictions").predict(
        model, datamodule=OneClassFolder(images, "good", num_workers=0)
    )
    names = ("distance", "pred_score", "p_value")
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}


@pytest.mark.parametrize("arguments", SCORERS.values(), ids=SCORERS)
def test_a_changed_bank_is_that_of_a_fit_from_scratch(arguments: dict[str, Any], images: Path, tmp_path: Path) -> None:
    """Add what was left out, then remove it again; the files, the scores and everything between are equal."""
    late = normals(images)[LATE]
    whole = fit(tmp_path / "whole", images, seeded(Dn2, **arguments))
    part = fit(tmp_path / "part", images, seeded(Dn2, **arguments), without=late)
    original = shutil.copy(part, tmp_path / "original.ckpt")
    change = add_images(part, late)
    assert (change.before, change.after, change.added) == (20, 30, [str(path) for path in late])
    assert change.embedding is not None
    assert (change.embedding.num_compared, change.embedding.difference, change.conditions) == (4, 0.0, "")
    assert_same_model(part, whole)
    found, expected = predictions(part, images), predictions(whole, images)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert change.thresholds == tuple(
        float(contents(path)["state"]["post_processor.threshold"]) for path in (original, whole)
    )
    removed = remove_images(part, late)
    assert (removed.before, removed.after, removed.removed) == (30, 20, change.added)
    assert_same_model(part, original)


def test_cleaning_is_done_again_over_all_images(images: Path, tmp_path: Path) -> None:
    """Images that were removed are among them; whose turn it is may change with what is added."""
    late = normals(images)[LATE]
    path = fit(tmp_path, images, seeded(Dn2, cleaning=0.2, scorer="knn"), without=late)
    before = contents(path)["bank"]["removed"]["paths"]
    assert len(before) == 4
    change = add_images(path, late)
    record = contents(path)["bank"]["removed"]
    assert change.cleaned == record["paths"]
    assert (len(change.cleaned), len(contents(path)["training_paths"])) == (6, 24)
    assert change.cleaned != before
    assert remove_images(path, change.cleaned[0]).after == 29  # one that is not in the bank can be named, too


def test_a_trained_network_cannot_be_cleaned_again(images: Path, tmp_path: Path) -> None:
    """It has not seen the images that were removed, and its embeddings are not those that decided."""
    path = fit(tmp_path, images, seeded(Panda, minibatches=2, calibration_share=0.5, cleaning=0.1))
    for change in (add_images, remove_images):
        with pytest.raises(ValueError, match=r"cleaning of a Panda must be 0 for its bank to be changed, got 0\.1"):
            change(path, normals(images)[0])


def test_a_cleaned_bank_without_the_removed_embeddings_is_not_changed(images: Path, tmp_path: Path) -> None:
    """They were not to be kept."""
    path = fit(tmp_path, images, seeded(Dn2, cleaning=0.1, scorer="center", keep_embeddings=False))
    with pytest.raises(ValueError, match="it was trained with keep_embeddings=false"):
        remove_images(path, normals(images)[0])


@pytest.fixture(scope="module")
def fitted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whitening, fitted on all."""
    return fit(tmp_path_factory.mktemp("fitted") / "run", images, seeded(Dn2, scorer="whitening"))


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    """A copy of its checkpoint."""
    return Path(shutil.copy(fitted, tmp_path / "model.ckpt"))


def test_few_images_get_the_embeddings_of_many(images: Path, tmp_path: Path) -> None:
    """Three images do not fill the batch in which thirty are embedded later: both are of one size."""
    paths = normals(images)
    part = fit(tmp_path / "part", images, seeded(Dn2, scorer="knn", runtime="channels_last"), without=paths[3:])
    whole = fit(tmp_path / "whole", images, seeded(Dn2, scorer="knn", runtime="channels_last"))
    for path in paths[3:5]:
        add_images(part, path)  # a single path is enough
    add_images(part, paths[5:])
    assert_same_model(part, whole)


def test_images_that_are_there_stay(model: Path, images: Path) -> None:
    """Adding the whole folder again changes nothing, not even the file."""
    before = model.read_bytes(), model.stat().st_ino
    change = add_images(model, [images / "train"])
    assert (change.added, len(change.present), change.before, change.after) == ([], 30, 30, 30)
    assert (model.read_bytes(), model.stat().st_ino) == before


@pytest.mark.parametrize("by", ["path", "relative path", "hash", "first digits of the hash"])
def test_remove_by_path_or_hash(by: str, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image meant goes, and no other; its file need not exist."""
    monkeypatch.chdir(images)
    kept = contents(model)
    path, digest = kept["training_paths"][7], kept["bank"]["digests"][7]
    names = {
        "path": path,
        "relative path": os.path.relpath(path),
        "hash": digest,
        "first digits of the hash": digest[:8],
    }
    moved = Path(path).rename(images / "moved")
    try:
        change = remove_images(model, [names[by]])
    finally:
        moved.rename(path)
    assert change.removed == [path]
    found = contents(model)
    assert found["training_paths"] == [own for own in kept["training_paths"] if own != path]
    assert torch.equal(
        found["bank"]["embeddings"], torch.cat([kept["bank"]["embeddings"][:7], kept["bank"]["embeddings"][8:]])
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["elsewhere/07.png"], r"images must be in the bank, .* got 'elsewhere/07.png'; did you mean '.*good/07.png'"),
        (["0123456789"], "got '0123456789'; `bank list` names them"),
        ([], "images must be at least one path or hash"),
    ],
)
def test_what_is_not_in_the_bank_cannot_be_removed(names: list[str], message: str, model: Path) -> None:
    """Nothing is removed then, not even what was found."""
    before = model.read_bytes()
    with pytest.raises(ValueError, match=message):
        remove_images(model, [contents(model)["training_paths"][0], *names] if names else [])
    assert model.read_bytes() == before


def test_too_few_must_not_remain(model: Path, images: Path) -> None:
    """A folder names all images in it; the message is the scorer's."""
    with pytest.raises(ValueError, match="embeddings must be of at least 2 normal images, got 0"):
        remove_images(model, images / "train")


@pytest.fixture
def copies(images: Path, tmp_path: Path) -> Path:
    """A folder with a new image, a copy of it, and a copy of an image of the bank."""
    folder = tmp_path / "copies"
    folder.mkdir()
    shutil.copy(images / "test/coffee/00.png", folder / "a.png")
    shutil.copy(images / "test/coffee/00.png", folder / "b.png")
    shutil.copy(images / "train/good/03.png", folder / "c.png")
    return folder


def test_exact_copies_are_a_decision(model: Path, copies: Path) -> None:
    """Refused and named, unless the user says what to do."""
    before = model.read_bytes()
    with pytest.raises(ValueError, match=r"got 2 exact copies \(.*b\.png; .*c\.png\); leave them out with duplicates"):
        add_images(model, [copies])
    with pytest.raises(ValueError, match="duplicates must be one of error, skip, keep, got 'drop'"):
        add_images(model, [copies], duplicates="drop")  # type: ignore[arg-type]
    assert model.read_bytes() == before


@pytest.mark.parametrize(("duplicates", "added"), [("skip", "a"), ("keep", "abc")])
def test_exact_copies_can_be_left_out_or_added(duplicates: Any, added: str, model: Path, copies: Path) -> None:
    """``keep`` is what a fit from scratch does."""
    change = add_images(model, [copies], duplicates=duplicates)
    assert [Path(path).stem for path in change.added] == list(added)
    assert [Path(path).stem for path in change.left_out] == [name for name in "bc" if name not in added]
    assert len(contents(model)["training_paths"]) == 30 + len(added)


@pytest.mark.parametrize("kind", [Dn2, Panda])
def test_exact_copies_are_counted_by_the_fit(
    kind: Any, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which keeps them; once, and without them nothing is said."""
    arguments = {"minibatches": 1, "learning_rate": 0.01} if kind is Panda else {}
    fit(tmp_path / "without", images, seeded(kind, **arguments))
    assert "exact copies" not in caplog.text
    good = images / "train/good"
    copied = [shutil.copy(good / f"0{number}.png", good / f"x{number}.png") for number in (1, 2)]
    try:
        fit(tmp_path / "with", images, seeded(kind, **arguments))
    finally:
        for path in copied:
            Path(path).unlink()
    assert caplog.text.count("2 of 32 normal images are exact copies of others, such as") == 1
    assert f"such as {copied[0]}: " in caplog.text


def test_a_file_that_has_changed_is_refused(model: Path, images: Path, tmp_path: Path) -> None:
    """Its embedding is of another picture; once removed it can be added."""
    folder = tmp_path / "own"
    folder.mkdir()
    path = Path(shutil.copy(images / "test/coffee/01.png", folder))
    add_images(model, [path])
    shutil.copy(images / "test/coffee/02.png", path)
    with pytest.raises(ValueError, match=r"got 1 that are not \(.*01\.png\); remove them from the bank first"):
        add_images(model, [path])
    remove_images(model, [path])
    assert add_images(model, [path]).added == [str(path)]


def test_damaged_images_are_named_before_any_is_embedded(model: Path, images: Path, tmp_path: Path) -> None:
    """All of them, with the cause."""
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes((images / f"test/coffee/0{'ab'.index(name[0])}.png").read_bytes()[:900])
    before = model.read_bytes()
    with pytest.raises(ValueError, match=r"images must be readable, got 2 of 2 that are not \('.*a\.png': .*b\.png"):
        add_images(model, [folder])
    with pytest.raises(FileNotFoundError, match="path must be an existing image or folder, got 'nowhere'"):
        add_images(model, ["nowhere"])
    assert model.read_bytes() == before


def test_a_bank_of_augmented_images_takes_no_others(images: Path, tmp_path: Path) -> None:
    """Mirrored images of the bank do not get their embeddings again: neither would new ones fit them."""
    path = fit(tmp_path / "fit", images, seeded(Dn2, scorer="knn"), train_augmentations=RandomHorizontalFlip(p=1))
    with pytest.raises(ValueError, match="images of the bank must get the embeddings that they had, got differences"):
        add_images(path, [images / "test/good"])


def test_another_runtime_is_said(model: Path, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that cannot run here is replaced, which is logged, and the difference to the bank is measured."""
    checkpoint = torch.load(model, weights_only=True)
    checkpoint["panda_anomalib"]["bank"]["conditions"] |= {"runtime": "tensorrt", "torch": "1.0"}
    checkpoint["panda_anomalib"]["bank"]["embeddings"][0] *= 1 + 1e-5
    torch.save(checkpoint, model)
    change = add_images(model, [images / "test/good/30.png"])
    assert "The runtime of the fit cannot be used here" in caplog.text
    assert change.embedding is not None
    assert 5e-6 < change.embedding.difference < 5e-5
    assert change.conditions.startswith("torch 1.0 then and ")


# ---- checkpoints of other versions


def as_of_an_earlier_version(path: Path) -> Path:
    """Take out of a checkpoint what this version has put into it."""
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["panda_anomalib"]["bank"], checkpoint["hyper_parameters"]["keep_embeddings"]
    torch.save(checkpoint, path)
    return path


def test_checkpoint_of_an_earlier_version_scores_as_before(model: Path, fitted: Path, images: Path) -> None:
    """And says why its bank cannot be changed."""
    as_of_an_earlier_version(model)
    found, expected = predictions(model, images), predictions(fitted, images)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match=r"without: an earlier version .* kept them for scorer knn only; train again"):
        add_images(model, [images / "test/good"])


def test_knn_of_an_earlier_version_can_be_changed(images: Path, tmp_path: Path) -> None:
    """Its memory bank is the embeddings. The batch size of its fit is not known, so last digits may differ."""
    late = normals(images)[LATE]
    whole = fit(tmp_path / "whole", images, seeded(Dn2, scorer="knn"))
    part = as_of_an_earlier_version(fit(tmp_path / "part", images, seeded(Dn2, scorer="knn"), without=late))
    change = add_images(part, late)
    assert change.embedding is not None
    assert change.embedding.difference < 1e-5
    found, expected = contents(part), contents(whole)
    bank = "model.scorer.memory_bank"
    torch.testing.assert_close(found["state"][bank], expected["state"][bank], rtol=1e-5, atol=1e-5)
    for path, digest, known in zip(
        found["training_paths"], found["bank"]["digests"], expected["bank"]["digests"], strict=True
    ):
        assert digest == (known if Path(path) in late else "")


def test_bank_of_a_later_version_scores_and_is_not_changed(model: Path, images: Path) -> None:
    """What it holds cannot be known."""
    checkpoint = torch.load(model, weights_only=True)
    checkpoint["panda_anomalib"]["bank"] = {"format": 9, "rows": 3}
    torch.save(checkpoint, model)
    assert len(predictions(model, images)["distance"]) == 22
    with pytest.raises(ValueError, match="memory bank must be of format 2 or lower, got 9, which a later version"):
        remove_images(model, ["whatever"])


def test_embeddings_need_not_be_kept(model: Path, images: Path, tmp_path: Path) -> None:
    """The file is smaller by them, scores alike, and says why it cannot be changed."""
    without = fit(tmp_path / "fit", images, seeded(Dn2, scorer="whitening", keep_embeddings=False))
    embeddings = contents(model)["bank"]["embeddings"]
    saved = model.stat().st_size - without.stat().st_size
    assert embeddings.numel() * 4 <= saved < embeddings.numel() * 4 + 1000
    with pytest.raises(ValueError, match="without: it was trained with keep_embeddings=false; train again"):
        remove_images(without, ["whatever"])
    knn = fit(tmp_path / "knn", images, seeded(Dn2, scorer="knn"))
    assert contents(knn)["bank"]["embeddings"] is None  # not twice: the scorer has them


# ---- models that are trained

ADAPTED: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Panda": (Panda, {"scorer": "whitening"}),
    "PandaOe": (PandaOe, {"trainable_stages": 1, "scorer": "logit"}),
    "PandaSes": (PandaSes, {"every_n_minibatches": 2, "scorer": "knn"}),
}


@pytest.mark.parametrize(("kind", "arguments"), ADAPTED.values(), ids=ADAPTED)
def test_the_bank_of_an_adapted_model_changes_and_its_network_does_not(
    kind: Any, arguments: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    """New images help to set the threshold, for no network was trained on them; removing them restores everything."""
    arguments = {"minibatches": 4, "learning_rate": 0.01, **arguments}
    if kind is PandaOe:
        arguments["outliers"] = str(images / "test" / "coffee")
    path = fit(tmp_path / "fit", images, seeded(kind, **arguments))
    before = contents(path)
    change = add_images(path, [images / "test" / "good"])
    after = contents(path)
    assert change.embedding is not None
    assert change.embedding.difference < 1e-5
    network = [name for name in before["state"] if ".backbone." in name or ".members." in name]
    assert len(network) > 20
    assert all(torch.equal(before["state"][name], after["state"][name]) for name in network)
    held_out = {before["training_paths"][number] for number in before["bank"]["calibrated"]}
    assert {after["training_paths"][number] for number in after["bank"]["calibrated"]} == held_out | set(change.added)
    assert len(after["state"]["post_processor.distances"]) == len(held_out) + 10
    remove_images(path, change.added)
    restored = contents(path)
    assert differing(restored, before) == []
    assert restored["bank"]["calibrated"] == before["bank"]["calibrated"]


def test_unknown_conditions_of_images_without_files(model: Path, tmp_path: Path) -> None:
    """Where no image of the bank is left to compare with, that is known."""
    checkpoint = torch.load(model, weights_only=True)
    ours = checkpoint["panda_anomalib"]
    ours["training_paths"] = [f"/gone{path}" for path in ours["training_paths"]]
    torch.save(checkpoint, model)
    new = tmp_path / "new.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)).save(new)
    change = add_images(model, [new])
    assert change.embedding is not None
    assert change.embedding.num_compared == 0
    assert change.after == 31
