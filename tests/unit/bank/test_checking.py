"""What a check of a memory bank says."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import engine, one_class, seeded

from panda_anomalib import Dn2
from panda_anomalib.bank import Finding, check_bank
from panda_anomalib.models.panda import Panda


@pytest.fixture(scope="module")
def photos(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one's own, to alter."""
    root = tmp_path_factory.mktemp("photos") / "photographs"
    shutil.copytree(photographs, root)
    return root


@pytest.fixture(scope="module")
def fitted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of 30 normal images on packaged weights."""
    run = engine(tmp_path_factory.mktemp("fitted"))
    lite = {"backbone": "tf_efficientnet_lite0", "weights": "packaged", "scorer": "whitening"}
    run.fit(seeded(Dn2, **lite), datamodule=one_class(photos))
    return Path(run.best_model_path)


def by_topic(path: Path) -> dict[str, Finding]:
    """Findings by topic; the last of those that are several."""
    return {finding.topic: finding for finding in check_bank(path)}


def test_all_is_well(fitted: Path) -> None:
    """Every topic is looked at, and the file is left alone."""
    before = fitted.read_bytes()
    found = by_topic(fitted)
    assert {topic: finding.level for topic, finding in found.items()} == dict.fromkeys(
        ["file", "bank", "images", "copies", "near", "weights", "threshold", "scorer"], "ok"
    )
    assert "of 30 images (30 x 1280); fitted with runtime eager, batch_size 8, device cpu" in found["bank"].text
    assert "those of the package, bit for bit" in found["weights"].text
    # (30 + 1 - 30) / 31, and the quantiles of Beta(1, 30): 1 - (1 - q) ** (1 / 30)
    assert "for 5 % of false alarms" in found["threshold"].text
    assert "3.2 % on average, and between 0.17 % and 9.5 % for nine of ten such banks" in found["threshold"].text
    assert fitted.read_bytes() == before


def test_damage_is_found_wherever_it_is(fitted: Path, tmp_path: Path) -> None:
    """One bit in the middle of the weights: nothing else would notice."""
    data = bytearray(fitted.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "model.ckpt"
    path.write_bytes(data)
    (finding,) = check_bank(path)
    assert (finding.topic, finding.level) == ("file", "wrong")
    assert "the checksum of its part" in finding.text


def test_images_that_are_missing_or_not_what_they_were(fitted: Path, photos: Path) -> None:
    """Missing ones are no harm, changed ones are."""
    paths = torch.load(fitted, weights_only=True)["panda_anomalib"]["training_paths"]
    first, second = Path(paths[3]), Path(paths[8])
    kept = first.read_bytes()
    second.rename(photos / "aside")
    shutil.copy(paths[4], first)
    try:
        found = [finding for finding in check_bank(fitted) if finding.topic in ("images", "copies")]
    finally:
        first.write_bytes(kept)
        (photos / "aside").rename(second)
    assert [(finding.level, finding.items) for finding in found] == [
        ("wrong", [str(first)]),
        ("note", [str(second)]),
        ("ok", []),  # by what they were when they were embedded
    ]


def test_copies_and_near_copies(photos: Path, tmp_path: Path) -> None:
    """The same file twice, and the same picture stored anew: two findings."""
    root = tmp_path / "photos"
    shutil.copytree(photos / "astronaut", root / "astronaut")
    shutil.copy(root / "astronaut/01.png", root / "astronaut/copy.png")
    Image.open(root / "astronaut/05.png").save(root / "astronaut/stored anew.jpg", quality=95)
    run = engine(tmp_path / "run")
    lite = {"backbone": "tf_efficientnet_lite0", "weights": "packaged", "normalization": "power_l2"}
    data = one_class(root, classes=["astronaut"], test_split_ratio=0.01)
    run.fit(seeded(Dn2, **lite), datamodule=data)
    found = by_topic(Path(run.best_model_path))
    good = root / "astronaut"
    assert found["copies"].items == [str(good / "01.png"), str(good / "copy.png")]
    assert found["near"].items == [f"{good / '05.png'} and {good / 'stored anew.jpg'}"]
    assert {found["copies"].level, found["near"].level} == {"note"}


@pytest.mark.parametrize(
    ("name", "topic", "text"),
    [
        ("model.backbone.network.conv_stem.weight", "weights", "1 tensors of tf_efficientnet_lite0 are not those of"),
        ("model.scorer.mean", "scorer", r"fitted again, model.scorer.mean differ by up to .* the file was altered"),
        ("post_processor.threshold", "scorer", r"fitted again, post_processor.threshold differ"),
    ],
)
def test_altered_tensors_are_found(name: str, topic: str, text: str, fitted: Path, tmp_path: Path) -> None:
    """A file that is whole and says something else than its embeddings or its package do."""
    checkpoint = torch.load(fitted, weights_only=True)
    checkpoint["state_dict"][name] *= 1.5
    torch.save(checkpoint, tmp_path / "model.ckpt")
    found = by_topic(tmp_path / "model.ckpt")
    wrong = [finding for finding in found.values() if finding.level == "wrong"]
    assert [finding.topic for finding in wrong] == [topic]
    assert text.partition(" .*")[0] in wrong[0].text


def test_few_images_and_random_weights_are_noted(photos: Path, tmp_path: Path) -> None:
    """What the threshold is worth; a bank without embeddings is looked at as far as that goes."""
    run = engine(tmp_path)
    few = one_class(photos, test_split_ratio=0.75)
    run.fit(seeded(Dn2, keep_embeddings=False, scorer="center"), datamodule=few)
    found = by_topic(Path(run.best_model_path))
    assert list(found) == ["file", "bank", "weights", "threshold"]
    assert "cannot be changed: model must hold the embeddings" in found["bank"].text
    assert found["weights"].text.startswith("test_resnet from source random: only packaged weights")
    assert found["threshold"].level == "note"
    # the mean of Beta(1, 10) is 1 / 11
    assert "from 10 images, for 5 % of false alarms. So many give 9.1 % on average" in found["threshold"].text
    assert "5 % needs at least 19 images." in found["threshold"].text


def test_an_adapted_network_is_compared_but_for_what_was_trained(photos: Path, tmp_path: Path) -> None:
    """And its scorer is what its embeddings give."""
    run = engine(tmp_path)
    lite = {"backbone": "tf_efficientnet_lite0", "weights": "packaged", "scorer": "whitening"}
    run.fit(seeded(Panda, minibatches=1, learning_rate=0.1, gradient_clip=None, **lite), datamodule=one_class(photos))
    found = by_topic(Path(run.best_model_path))
    assert found["weights"].level == found["scorer"].level == "ok"
    assert "bit for bit, but for " in found["weights"].text
