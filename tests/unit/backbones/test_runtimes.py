"""Every runtime gives the embeddings of eager PyTorch, whatever the batch."""

import importlib.util
import shutil

import pytest
import torch

from panda_anomalib.backbones import Backbone, make_runtime, runtimes
from panda_anomalib.backbones.runtimes import RuntimeName, choose_runtime

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """Real weights: random ones give embeddings too small to tell a broken runtime from a right one."""
    backbone = Backbone("tf_efficientnet_lite0", weights="packaged")
    backbone.load_weights()
    return backbone


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Five crops of a photograph, normalised."""
    from skimage import data

    photograph = torch.from_numpy(data.astronaut().copy()).permute(2, 0, 1).float() / 127.5 - 1
    return torch.stack([photograph[:, i * 20 : i * 20 + 224, i * 30 : i * 30 + 224] for i in range(5)])


@pytest.mark.parametrize("name", ["eager", "channels_last", "channels_last_bf16", "openvino", "openvino_bf16"])
def test_runtime_agrees_with_eager(name: RuntimeName, backbone: Backbone, images: torch.Tensor) -> None:
    """Length of the difference: 1e-5 of the embedding's in float32; 8 % in bfloat16, whose errors add up."""
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    run = make_runtime(name, backbone)
    with torch.no_grad():
        expected = backbone(images)
        found = torch.cat([run(images[:3]), run(images[3:])])  # a smaller last batch is padded
    tolerance = 0.08 if name.endswith("bf16") else 1e-5
    assert found.dtype == torch.float32
    assert bool(((found - expected).norm(dim=1) < tolerance * expected.norm(dim=1)).all())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_runtime_agrees_with_eager() -> None:
    """On a small network: compiling takes most of a minute on a large one."""
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", weights="random")
    images = torch.randn(5, 3, 96, 96)
    run = make_runtime("compile", backbone)
    with torch.no_grad():
        expected = backbone(images)
        found = torch.cat([run(images[:3]), run(images[3:])])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["channels_last", "openvino"])
def test_embedding_does_not_depend_on_the_batch(name: RuntimeName, backbone: Backbone, images: torch.Tensor) -> None:
    """Batches are filled up to one size: the same image gets the same embedding bit for bit."""
    if name == "openvino":
        pytest.importorskip("openvino")
    run = make_runtime(name, backbone)
    together = run(images)
    assert torch.equal(torch.cat([run(images[:2]), run(images[2:])]), together)
    assert torch.equal(run(torch.cat([images, images]))[:5], together)


@pytest.mark.parametrize("name", ["eager", "channels_last"])
def test_size_of_batches_can_be_given(name: RuntimeName, backbone: Backbone, images: torch.Tensor) -> None:
    """Alone, first or last: every image gets what a batch of 20 gives it, where small ones may round differently."""
    with torch.no_grad():
        together = backbone(torch.cat([images, images, images, images]))[:5]
        run = make_runtime(name, backbone, batch_size=20)
        padded = torch.cat([run(image[None]) for image in images])
        assert torch.equal(make_runtime(name, backbone, batch_size=20)(images), padded)
        assert torch.equal(run(torch.cat([images] * 7))[20:25], padded)
    torch.testing.assert_close(padded, together, rtol=1e-4, atol=1e-5)


def test_auto_chooses_what_is_fastest_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO where installed; a compiled graph where it pays and can be built; else channels_last."""
    installed, compiler = True, True
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        runtimes, "find_spec", lambda name: (object() if installed else None) if name == "openvino" else find_spec(name)
    )
    monkeypatch.setattr(runtimes.shutil, "which", lambda _: "/usr/bin/g++" if compiler else None)
    assert choose_runtime("auto", CPU, 100) == "openvino"
    assert choose_runtime("auto", torch.device("cuda"), 100) == "channels_last"
    installed = False
    assert choose_runtime("auto", CPU, 100) == "channels_last"
    assert choose_runtime("auto", CPU, None) == "channels_last"
    assert choose_runtime("auto", CPU, 15000) == "compile"
    compiler = False
    assert choose_runtime("auto", CPU, 15000) == "channels_last"
    with pytest.raises(ValueError, match="needs OpenVINO"):
        choose_runtime("openvino", CPU, 100)


def test_runtime_not_accepted() -> None:
    """Unknown, or on the wrong device."""
    with pytest.raises(ValueError, match=r"runtime must be one of auto, eager, .* got 'tensorrt'"):
        choose_runtime("tensorrt", CPU, None)
    pytest.importorskip("openvino")
    with pytest.raises(ValueError, match="computes on the CPU, but the model is on cuda"):
        choose_runtime("openvino", torch.device("cuda"), None)
