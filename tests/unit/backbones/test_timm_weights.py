"""Packaged weights in networks that others make by timm; the tests have no network."""

import pytest
import timm
import torch
from timm.models import _builder

from panda_anomalib.backbones.packaged import PACKAGED, PackagedWeights, packaged_state_dict
from panda_anomalib.backbones.timm_weights import offer_packaged_weights

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged weights are offered until the end of the test."""
    monkeypatch.setattr(_builder, "_resolve_pretrained_source", _builder._resolve_pretrained_source)
    offer_packaged_weights()


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("name", [LITE0, f"{LITE0}.in1k"])
def test_pretrained_networks_have_them(name: str) -> None:
    """All tensors of a whole network, and those of the stages that a feature extractor keeps."""
    expected = packaged_state_dict(LITE0)
    network = timm.create_model(name, pretrained=True)
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items() if key in expected)
    assert not {key for key in network.state_dict() if not key.endswith("num_batches_tracked")} - expected.keys()
    extractor = timm.create_model(name, pretrained=True, features_only=True, out_indices=(1, 2))
    kept = {key: value for key, value in extractor.state_dict().items() if key in expected}
    assert len(kept) > 50
    assert all(torch.equal(value, expected[key]) for key, value in kept.items())


@pytest.mark.usefixtures("offered")
def test_others_come_from_where_timm_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks without a package, packages that are not installed, and weights that the caller gives."""
    own = {"architecture": LITE0, "tag": "in1k", "hf_hub_id": "timm/lite0", "file": "mine.pth"}
    assert _builder._resolve_pretrained_source(own) == ("file", "mine.pth")
    other = {"architecture": "resnet18", "tag": "tv_in1k", "url": "https://example.org/resnet18.pth"}
    assert _builder._resolve_pretrained_source(other) == ("url", "https://example.org/resnet18.pth")
    monkeypatch.setitem(PACKAGED, LITE0, PackagedWeights("no_such_package", "None", "", (1,)))
    assert _builder._resolve_pretrained_source({**own, "file": None}) == ("hf-hub", "timm/lite0")
