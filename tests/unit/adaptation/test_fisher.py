"""Fisher information against a loop of single-image backward passes in float64, and against nngeometry."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from panda_anomalib.adaptation import squared_gradients
from panda_anomalib.adaptation.fisher import diagonal_fisher
from panda_anomalib.adaptation.fisher_command import make_fisher_file
from panda_anomalib.adaptation.fisher_file import load_fisher, save_fisher
from panda_anomalib.backbones import Backbone
from panda_anomalib.backbones.classifier import classifier

NUM_CLASSES = 7


def network_and_images(name: str, size: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Random weights in float64, batch-norm statistics that are not trivial, five images."""
    torch.manual_seed(3)
    network = timm.create_model(name, num_classes=NUM_CLASSES).double()
    images = torch.randn(5, 3, size, size, dtype=torch.float64)
    network.train()(images)
    return network.eval(), images, torch.tensor([0, 6, 2, 2, 5])


def loop(network: nn.Module, groups: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """One backward pass for each group: mean over groups of the squared gradient of the mean loss."""
    names = [name for name, _ in network.named_parameters()]
    total = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    for images, labels in groups:
        loss = F.cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        for name, gradient in zip(names, gradients, strict=True):
            total[name] = total[name] + (0 if gradient is None else gradient.square() / len(groups))
    return total


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-9) -> None:
    """All of a backbone's parameters, each to rounding relative to its largest value."""
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=rtol, atol=rtol * expected[name].max().item(), msg=name)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_resnet", 64),
        ("test_efficientnet", 64),  # depthwise convolutions
        ("test_vit", 160),  # class token and position embedding go through torch.func
        ("test_convnext", 64),  # layer norm, layer scale
        ("test_nfnet", 64),  # convolutions that standardise their weights
    ],
)
@pytest.mark.parametrize("chunk_size", [2, 5])
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # vmap of some layers: slow, not wrong
def test_sample_mode_equals_a_loop(name: str, size: int, chunk_size: int) -> None:
    """In minibatches of unequal size, whatever the chunk; the classifier is left out."""
    network, images, labels = network_and_images(name, size)
    minibatches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    found = diagonal_fisher(network, minibatches, chunk_size=chunk_size)
    assert_equal(found, loop(network, [(images[i : i + 1], labels[i : i + 1]) for i in range(5)]))
    backbone = timm.create_model(name, num_classes=0)
    assert list(found) == [key for key, _ in backbone.named_parameters()]


def test_float32_is_accurate() -> None:
    """The dtype of real use."""
    network, images, labels = network_and_images("test_efficientnet", 64)
    expected = loop(network, [(images[i : i + 1], labels[i : i + 1]) for i in range(5)])
    found = diagonal_fisher(network.float(), [(images.float(), labels)])
    assert_equal({name: value.double() for name, value in found.items()}, expected, rtol=1e-3)


def test_minibatch_mode_squares_the_mean() -> None:
    """Mean over minibatches, each counted once."""
    network, images, labels = network_and_images("test_resnet", 64)
    minibatches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    assert_equal(diagonal_fisher(network, minibatches, mode="minibatch"), loop(network, minibatches))
    one_by_one = [(images[i : i + 1], labels[i : i + 1]) for i in range(5)]
    found = diagonal_fisher(network, one_by_one, mode="minibatch")
    assert not any(value.requires_grad for value in found.values()), "a graph of every minibatch is kept"
    assert_equal(found, diagonal_fisher(network, one_by_one))


class Small(nn.Module):
    """A layer used twice, one that is not used, a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.twice = nn.Linear(6, 6)
        self.unused = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.rand(6))
        self.convolution = nn.Conv1d(1, 2, 3)
        self.last = nn.Linear(8, NUM_CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (B, 6)."""
        hidden = self.twice(torch.relu_(self.twice(rows))) * self.scale
        return self.last(self.convolution(hidden[:, None]).flatten(1))


def test_what_has_no_rule_goes_through_torch_func() -> None:
    """Shared, unknown and unused layers, bare parameters; chosen by name."""
    network = Small().double().eval()
    rows, labels = torch.randn(5, 6, dtype=torch.float64), torch.tensor([0, 6, 2, 2, 5])
    names = [name for name, _ in network.named_parameters() if not name.startswith("last")]
    found = diagonal_fisher(network, [(rows, labels)], parameters=names)
    assert list(found) == names
    assert_equal(found, loop(network, [(rows[i : i + 1], labels[i : i + 1]) for i in range(5)]))
    assert not found["unused.weight"].any()
    assert not any(value.requires_grad for value in found.values()), "a graph of every image is kept"


def test_equals_nngeometry() -> None:
    """Another library, for the labels that are given."""
    from nngeometry.backend import TorchHooksJacobianBackend
    from nngeometry.layercollection import LayerCollection
    from nngeometry.object import PMatDiag
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(45, 7))
    network = network.double().eval()
    images, labels = torch.randn(6, 3, 12, 12, dtype=torch.float64), torch.tensor([0, 6, 2, 2, 5, 1])

    def log_likelihood(inputs: Tensor, targets: Tensor) -> Tensor:
        return network(inputs).log_softmax(dim=1).gather(1, targets[:, None])

    layers = LayerCollection.from_model(network)
    backend = TorchHooksJacobianBackend(layer_collection=layers, model=network, function=log_likelihood)
    loader = DataLoader(TensorDataset(images, labels), batch_size=3)
    oracle = PMatDiag(generator=backend, examples=loader).get_diag()
    names = [name for name, _ in network.named_parameters()]
    found = diagonal_fisher(network, [(images, labels)], parameters=names)
    torch.testing.assert_close(torch.cat([found[name].flatten() for name in names]), oracle.flatten())


def test_sampled_labels_follow_the_network() -> None:
    """The mean over many draws is the expectation over p(y|x); the seed repeats a draw, whatever the minibatches."""
    torch.manual_seed(0)
    network = nn.Linear(4, 3).double().eval()
    row = torch.randn(1, 4, dtype=torch.float64)
    probabilities = network(row).softmax(dim=1)[0].detach()
    expected = sum(p * loop(network, [(row, torch.tensor([label]))])["weight"] for label, p in enumerate(probabilities))
    rows = row.expand(20_000, 4)
    names = ["weight", "bias"]
    found = diagonal_fisher(network, [(rows, None)], labels="sampled", parameters=names, chunk_size=5000)
    torch.testing.assert_close(found["weight"], expected, rtol=0.05, atol=0)
    halves = [(rows[:7], None), (rows[7:30], None)]
    first = diagonal_fisher(network, [(rows[:30], None)], labels="sampled", parameters=names, seed=4)
    second = diagonal_fisher(network, halves, labels="sampled", parameters=names, seed=4, chunk_size=3)
    other = diagonal_fisher(network, halves, labels="sampled", parameters=names, seed=5)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first["weight"], other["weight"])


def test_known_layers_take_no_detour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutional networks need no copy of their parameters for each image, and no backward pass for each."""
    monkeypatch.setattr(squared_gradients, "_by_vmap", lambda *_, **__: pytest.fail("left to vmap"))
    network, images, labels = network_and_images("test_efficientnet", 64)
    passes = []
    network.register_forward_hook(lambda *_: passes.append(1))
    diagonal_fisher(network, [(images, labels)])
    assert len(passes) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "image"}, "mode must be one of sample, minibatch, got 'image'"),
        ({"labels": "none"}, "labels must be one of given, sampled, got 'none'"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ({"parameters": ["weights"]}, "parameters must be the network's, got 'weights'"),
        ({"parameters": []}, "parameters must name at least one"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    """Before any image is read."""
    minibatches = (pytest.fail("an image was read") for _ in range(1))
    with pytest.raises(ValueError, match=message):
        diagonal_fisher(nn.Linear(2, 2).eval(), minibatches, **arguments)


def test_wrong_images() -> None:
    """None, unlabelled, not finite; a network in train mode."""
    network, names = nn.Linear(2, 2).eval(), ["weight"]
    with pytest.raises(ValueError, match="images must be at least one"):
        diagonal_fisher(network, [], parameters=names)
    with pytest.raises(ValueError, match="labels must come with the images"):
        diagonal_fisher(network, [(torch.ones(1, 2), None)], parameters=names)
    with pytest.raises(RuntimeError, match="not finite for 1 parameters, such as weight"):
        diagonal_fisher(network, [(torch.full((1, 2), torch.nan), torch.tensor([0]))], parameters=names)
    with pytest.raises(ValueError, match="network must be in eval mode"):
        diagonal_fisher(network.train(), [(torch.ones(1, 2), torch.tensor([0]))], parameters=names)


# ---- files and the command


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes of three images."""
    root, rng = tmp_path_factory.mktemp("pretraining") / "classes", np.random.default_rng(0)
    for label in range(NUM_CLASSES):
        (root / f"{label:03}").mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(root / f"{label:03}" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weight file of a network with seven classes."""
    path = tmp_path_factory.mktemp("weights") / "seven.safetensors"
    torch.manual_seed(1)
    save_file(timm.create_model("test_resnet", num_classes=NUM_CLASSES).state_dict(), path)
    return str(path)


def make(images: Path, output: Path, weights: str, **options: Any) -> None:
    """Fisher file of the small network."""
    make_fisher_file(images=images, output=output, backbone="test_resnet", weights=weights, device="cpu", **options)


def test_classifier_is_the_backbone_with_its_head(weights: str) -> None:
    """Same names, same weights, and the classes of the file."""
    network, provenance = classifier("test_resnet", weights)
    backbone = Backbone("test_resnet", weights=weights)
    backbone.load_weights()
    assert network.get_parameter("fc.weight").shape[0] == NUM_CLASSES
    assert not network.training
    assert provenance == backbone.provenance
    for name, value in backbone.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_backbone_without_classifier(tmp_path: Path) -> None:
    """Trained without labels, or a file that has lost it."""
    with pytest.raises(ValueError, match="backbone must have a classifier, got 'vit_small_patch14_dinov2"):
        classifier("vit_small_patch14_dinov2.lvd142m")
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "headless.safetensors")
    with pytest.raises(ValueError, match="weights must hold the classifier 'fc' of test_resnet"):
        classifier("test_resnet", str(tmp_path / "headless.safetensors"))


def test_file_says_what_it_was_made_from(labelled: Path, weights: str, tmp_path: Path) -> None:
    """And no path of the machine; repeated with the seed to the digit."""
    outputs = [tmp_path / "new" / name for name in ("first.safetensors", "second.safetensors")]
    for output in outputs:
        make(labelled, output, weights, num_images=8, batch_size=3)
    backbone = Backbone("test_resnet", weights=weights)
    backbone.load_weights()
    shapes = {name: value.shape for name, value in backbone.trunk_parameters().items()}
    fisher, provenance = load_fisher(outputs[0], backbone="test_resnet", shapes=shapes)
    assert fisher.keys() == shapes.keys()
    again = load_fisher(outputs[1]).fisher
    assert all(torch.equal(fisher[name], again[name]) for name in shapes)
    assert provenance["weights_sha256"] == backbone.provenance["sha256"]
    expected = {"images": "classes", "num_images": "8", "labels": "given", "mode": "sample", "seed": "0"}
    assert expected.items() <= provenance.items()
    assert len(provenance["images_sha256"]) == 64
    assert not any(str(tmp_path.parent) in value for value in provenance.values())
    assert load_fisher(outputs[0]).weight == 1e4


def test_minibatch_file_has_its_weight(labelled: Path, weights: str, tmp_path: Path) -> None:
    """Full minibatches only; ten times smaller needs ten times the weight."""
    path = tmp_path / "fisher.safetensors"
    make(labelled, path, weights, mode="minibatch", batch_size=10)
    file = load_fisher(path)
    assert file.weight == 1e5
    assert file.provenance["num_images"] == "20"


def test_sampled_labels_need_no_classes(labelled: Path, weights: str, tmp_path: Path) -> None:
    """Any folder."""
    path = tmp_path / "fisher.safetensors"
    make(labelled / "000", path, weights, labels="sampled")
    assert load_fisher(path).provenance["num_images"] == "3"


def test_labels_in_another_order_are_noticed(labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The network says so: they are less likely than chance."""
    network = timm.create_model("test_resnet", num_classes=NUM_CLASSES)
    network.fc.bias.data = torch.tensor([9.0, 0, 0, 0, 0, 0, 0])
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    weights = str(tmp_path / "weights.safetensors")
    with caplog.at_level(logging.WARNING):
        make(labelled, tmp_path / "fisher.safetensors", weights)
    assert "labels are less likely than chance" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_images": 22}, ValueError, "num_images must be at most the 21"),
        ({"num_images": 0}, ValueError, "num_images must be at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": 22, "mode": "minibatch"}, ValueError, "batch_size must be at most the number of images"),
        ({"weights": "random"}, ValueError, "classifier's 1000 classes, in its order, got 7"),
        ({"images": Path("none")}, FileNotFoundError, "root must be an existing folder, got 'none'"),
        ({"images": Path("none"), "labels": "sampled"}, FileNotFoundError, "images must be an existing folder"),
        ({"output": Path("fisher.pt")}, ValueError, "output must end in .safetensors, got 'fisher.pt'"),
    ],
)
def test_command_refuses(
    arguments: dict[str, object],
    error: type[Exception],
    message: str,
    *,
    labelled: Path,
    weights: str,
    tmp_path: Path,
) -> None:
    """Before the work."""
    given = {"images": labelled, "output": tmp_path / "fisher.safetensors", "weights": weights, "device": "cpu"}
    with pytest.raises(error, match=message):
        make_fisher_file(**{**given, "backbone": "test_resnet", **arguments})
    assert not (tmp_path / "fisher.safetensors").exists()


def test_results_are_not_overwritten(tmp_path: Path) -> None:
    """A Fisher file may stand for an hour of work."""
    (tmp_path / "fisher.safetensors").touch()
    with pytest.raises(FileExistsError, match="output must not exist yet"):
        save_fisher(tmp_path / "fisher.safetensors", {}, {})


@pytest.fixture
def fisher_file(tmp_path: Path) -> Path:
    """A small one."""
    path = tmp_path / "fisher.safetensors"
    provenance = {"backbone": "resnet18.tv_in1k", "suggested_weight": "1e4", "weights_sha256": "a" * 64}
    save_fisher(path, {"a": torch.ones(2), "b": torch.ones(3)}, provenance)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet34"}, "fisher must be for the backbone 'resnet34', got .* for 'resnet18.tv_in1k'"),
        ({"backbone": "resnet18.a1_in1k"}, "fisher must be for the backbone 'resnet18.a1_in1k'"),
        (
            {"shapes": {"a": torch.Size([2]), "c": torch.Size([1])}},
            "must have every trained parameter, got 1 missing: c",
        ),
        ({"shapes": {"a": torch.Size([3])}}, r"must fit the parameters, got a \(2,\) instead of \(3,\)"),
    ],
)
def test_file_for_something_else(arguments: dict[str, object], message: str, fisher_file: Path) -> None:
    """Each is named."""
    with pytest.raises(ValueError, match=message):
        load_fisher(fisher_file, **arguments)


def test_file_that_fits(fisher_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A name without tag, names beyond those asked for; another weight file is told."""
    file = load_fisher(fisher_file, backbone="resnet18", shapes={"a": torch.Size([2])}, weights_sha256="b" * 64)
    assert list(file.fisher) == ["a"]
    assert "was computed with another weight file of resnet18.tv_in1k" in caplog.text


def test_file_that_is_none(tmp_path: Path) -> None:
    """Missing, weights, broken."""
    with pytest.raises(FileNotFoundError, match="fisher must be an existing file"):
        load_fisher(tmp_path / "none.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="fisher must be a file made by panda-anomalib fisher"):
        load_fisher(tmp_path / "weights.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read"):
        load_fisher(tmp_path / "broken.safetensors")
