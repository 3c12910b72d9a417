"""Backbones: parity with timm, the cut between stem and trunk, pooling and normalisation in value."""

import numpy as np
import pytest
import reference
import timm
import torch

from panda_anomalib.backbones import Backbone, EmbeddingNormalization
from panda_anomalib.backbones.pooling import pool

NETWORKS: dict[str, dict[str, int]] = {
    "resnet18": {},
    "wide_resnet50_2": {},
    "mobilenetv2_100": {},
    "mobilenetv3_small_100": {},
    "tf_efficientnet_lite0": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {},
    "vit_small_patch14_dinov2": {"img_size": 224},
    "swin_tiny_patch4_window7_224": {},
}


def twins(name: str) -> tuple[torch.nn.Module, Backbone]:
    """Timm's network and our backbone with the same random weights."""
    arguments = NETWORKS[name]
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, **arguments).eval()
    backbone = Backbone(name, weights="random", backbone_args=arguments)
    backbone.network.load_state_dict(network.state_dict())
    return network, backbone


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Two random inputs."""
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_embedding_is_timms_and_the_halves_make_the_whole(name: str, images: torch.Tensor) -> None:
    """Parity with ``num_classes=0``; trunk(stem(x)) is the feature map at every cut, with fewer stem weights each."""
    network, backbone = twins(name)
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(backbone(images), expected, rtol=0, atol=1e-5)
        sizes = []
        for stages in (1, 2, 3):
            backbone.trunk_stages, backbone._halves = stages, None
            feature_map = backbone.trunk(backbone.stem(images))
            torch.testing.assert_close(backbone.embed(feature_map), expected, rtol=0, atol=1e-5)
            sizes.append(sum(parameter.numel() for parameter in backbone.trunk.parameters()))
    assert 0 < sizes[0] < sizes[1] < sizes[2] < sum(p.numel() for p in network.parameters())
    assert backbone.state_dict().keys() == {f"network.{key}" for key in network.state_dict()}


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "swin_tiny_patch4_window7_224"])
def test_average_pooling_is_the_default_of_convolutional_networks(name: str, images: torch.Tensor) -> None:
    """Pooling before the head's own layers: a head that works behind its pooling still does."""
    network, backbone = twins(name)
    backbone.poolings = ["avg"]
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), network(images), rtol=0, atol=1e-5)


def test_poolings_in_value(images: torch.Tensor) -> None:
    """Over all positions of a convolutional map, and over the patch tokens of a transformer only."""
    _, resnet = twins("resnet18")
    _, vit = twins("vit_tiny_patch16_224")
    vit.network.fc_norm = torch.nn.Identity()
    with torch.no_grad():
        maps = {resnet: resnet.feature_map(images).flatten(2).transpose(1, 2), vit: vit.feature_map(images)[:, 1:]}
        for backbone, positions in maps.items():
            expected = {
                "avg": positions.numpy().mean(axis=1),
                "max": positions.numpy().max(axis=1),
                "gem": np.stack([reference.gem(image.numpy()) for image in positions]),
            }
            for kind, value in expected.items():
                backbone.poolings = [kind]
                np.testing.assert_allclose(backbone(images), value, rtol=1e-4, atol=1e-5)
            backbone.poolings = ["avg", "max"]
            both = np.concatenate([expected["avg"], expected["max"]], axis=1)
            np.testing.assert_allclose(backbone(images), both, rtol=1e-4, atol=1e-5)


def test_gem_by_hand() -> None:
    """Cube root of the mean cube; negative activations count as nothing."""
    positions = torch.tensor([[[1.0, -5.0], [2.0, 2.0]]])
    np.testing.assert_allclose(pool(positions, "gem"), [[4.5 ** (1 / 3), 4 ** (1 / 3)]], rtol=1e-5)


def test_backbone_never_trains(images: torch.Tensor) -> None:
    """Batch-norm statistics stay, bit for bit, though the module is put into train mode."""
    _, backbone = twins("resnet18")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    backbone(images)
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_halves_share_the_parameters() -> None:
    """Changing the trunk changes the network: there is one set of weights."""
    _, backbone = twins("resnet18")
    own = {id(parameter) for parameter in backbone.network.parameters()}
    assert {id(parameter) for half in (backbone.stem, backbone.trunk) for parameter in half.parameters()} == own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet51"}, "backbone must be a timm model, got 'resnet51'; did you mean .*'resnet50'"),
        ({"name": "resnet50.nothing_in1k"}, "must have a weight tag that timm knows, got 'resnet50.nothing_in1k'"),
        ({"name": "resnet18", "pooling": "mean"}, "pooling must be default, avg, max, gem or avg"),
        ({"name": "resnet18", "trunk_stages": -1}, "trunk_stages must be at least 0, got -1"),
    ],
)
def test_arguments_not_accepted(arguments: dict[str, object], message: str) -> None:
    """Each says what is accepted, before anything is built."""
    with pytest.raises(ValueError, match=message):
        Backbone(**arguments)


def test_too_many_trunk_stages() -> None:
    """The number of stages is named."""
    with pytest.raises(ValueError, match="trunk_stages must be at most 5 for resnet18, got 6"):
        _ = Backbone("resnet18", weights="random", trunk_stages=6).stem


@pytest.mark.parametrize("power", [0.5, 0.7, 1.0])
def test_power_normalization_equals_reference(power: float, rng: np.random.Generator) -> None:
    """Signed power, then unit length."""
    rows = rng.normal(size=(5, 8)).astype(np.float32)
    result = EmbeddingNormalization("power_l2", power=power)(torch.from_numpy(rows))
    np.testing.assert_allclose(result, reference.power_l2(rows, power), rtol=1e-5, atol=1e-7)


def test_l2_and_none(rng: np.random.Generator) -> None:
    """Unit length, and nothing at all."""
    rows = rng.normal(size=(5, 8)).astype(np.float32)
    np.testing.assert_allclose(EmbeddingNormalization("l2")(torch.from_numpy(rows)), reference.unit(rows), rtol=1e-5)
    assert torch.equal(EmbeddingNormalization("none")(torch.from_numpy(rows)), torch.from_numpy(rows))


def test_parts_are_normalised_on_their_own(rng: np.random.Generator) -> None:
    """Two parts of very different size weigh the same, and the whole has unit length."""
    rows = np.concatenate([rng.normal(size=(5, 4)), 1000 * rng.normal(size=(5, 4))], axis=1).astype(np.float32)
    result = EmbeddingNormalization("l2", num_parts=2)(torch.from_numpy(rows))
    expected = np.concatenate([reference.unit(rows[:, :4]), reference.unit(rows[:, 4:])], axis=1) / np.sqrt(2)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_a_zero_embedding_stays_finite() -> None:
    """A black image may give no activation at all."""
    assert torch.isfinite(EmbeddingNormalization("power_l2")(torch.zeros(1, 4))).all()


@pytest.mark.parametrize(("kind", "power"), [("l1", 0.5), ("power_l2", 0.0), ("power_l2", 1.5)])
def test_normalization_not_accepted(kind: str, power: float) -> None:
    """Each says what is accepted."""
    with pytest.raises(ValueError, match=r"normalization must be none|power must be above 0"):
        EmbeddingNormalization(kind, power=power)
