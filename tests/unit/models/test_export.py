"""Exports agree with testing, on images of any size; an export that does not is refused."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from panda_anomalib import Dn2
from panda_anomalib.data.reading import read_image
from panda_anomalib.models import export
from panda_anomalib.models.embeddings import EmbeddingStore

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own deprecations, many and changing

SCORERS: dict[str, dict[str, Any]] = {
    "default": {},
    "knn": {"scorer": "knn"},
    "cosine": {"scorer": "knn", "scorer_args": {"distance": "cosine"}},
    "kmeans": {"scorer": "kmeans", "scorer_args": {"num_means": 4}},
    "center": {"scorer": "center"},
    "ocsvm": {"scorer": "ocsvm"},
    "whitening": {"scorer": "whitening", "scorer_args": {"n_components": 6, "shrinkage": 0.0}},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Sixteen crops of a photograph, of differing shapes."""
    from skimage import data

    root, rng, paths = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for i in range(16):
        top, left = rng.integers(0, 200, 2)
        height, width = rng.integers(60, 310, 2)
        paths.append(str(root / f"{i:02}.png"))
        Image.fromarray(data.astronaut()[top : top + height, left : left + width]).save(paths[-1])
    return paths


def fitted(images: list[str], **arguments: Any) -> Dn2:
    """Small model fitted on the images without a trainer."""
    torch.manual_seed(0)
    model = Dn2(
        backbone="test_resnet",
        weights="random",
        runtime="eager",
        resize=80,
        crop=64,
        false_positive_rate=0.5,
        **arguments,
    ).eval()
    store = EmbeddingStore()
    with torch.no_grad():
        for path in images[:10]:
            image = model.pre_processor.transform(read_image(path))[None].as_subclass(torch.Tensor)
            store.add(model.model.embed(image), [path])
    embeddings, paths = store.gather()
    model.fit_embeddings(embeddings, paths)
    return model


def as_tested(model: Dn2, path: str) -> tuple[float, bool]:
    """Score and label of one file as testing gives them."""
    batch = ImageBatch(image=model.pre_processor.transform(read_image(path))[None])
    with torch.no_grad():
        batch.distance = model.model(batch.image).pred_score
    model.post_processor.post_process_batch(batch)
    return batch.pred_score.item(), bool(batch.pred_label.item())


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_export_agrees_with_testing(kind: str, name: str, images: list[str], tmp_path: Path) -> None:
    """To 1e-4 and in every label, images of any size one by one, and 8 of one size together."""
    model = fitted(images, **SCORERS[name])
    path = getattr(model, f"to_{kind}")(tmp_path)
    run = export._RUNNERS[path.suffix](path)
    labels = set()
    for image in images:
        score, label = run(read_image(image).as_subclass(torch.Tensor)[None].numpy())
        expected, expected_label = as_tested(model, image)
        assert score[0] == pytest.approx(expected, abs=1e-4)
        assert bool(label[0]) == expected_label
        labels.add(expected_label)
    assert labels == {True, False}, "images on one side of the threshold show nothing about labels"
    one = read_image(images[3]).as_subclass(torch.Tensor)
    together = run(torch.stack([one, *(one * 0.9**i for i in range(1, 8))]).numpy())[0]
    assert together.shape == (8,)
    assert together[0] == pytest.approx(as_tested(model, images[3])[0], abs=1e-4)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_export_of_fixed_size(kind: str, images: list[str], tmp_path: Path) -> None:
    """An input size in the file: the check resizes its images to it."""
    model = fitted(images)
    path = getattr(model, f"to_{kind}")(tmp_path, input_size=(120, 96))
    image = read_image(images[0]).as_subclass(torch.Tensor)[None]
    image = torch.nn.functional.interpolate(image, (120, 96))
    score, _ = export._RUNNERS[path.suffix](path)(image.numpy())
    with torch.no_grad():
        assert score[0] == pytest.approx(model(image).pred_score.item(), abs=1e-4)


def test_export_that_disagrees_is_refused(images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with anomalib's own export of an antialiased resize: the file is set aside, the difference named."""
    from anomalib.pre_processing import PreProcessor

    model = fitted(images)
    model.pre_processor = PreProcessor(model.pre_processor.transform)
    with pytest.raises(
        RuntimeError, match=r"exported file must agree with the model to 0.0001, got largest difference"
    ):
        model.to_torch(tmp_path)
    assert [path.name for path in tmp_path.rglob("model*")] == ["model.pt.refused"]


def test_export_is_checked_without_the_training_images(
    images: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where they were moved, photographs take their place, and that is said."""
    model = fitted(images)
    model.training_paths = ["/moved/away.png"]
    with caplog.at_level("INFO"):
        model.to_torch(tmp_path)
    assert "checked on photographs instead" in caplog.text
    assert "largest difference of a score" in caplog.text


@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_untrained_model_is_not_exported(kind: str, tmp_path: Path) -> None:
    """Anomalib fails with a shape error inside the tracer."""
    model = Dn2(backbone="test_resnet", weights="random")
    with pytest.raises(RuntimeError, match="Dn2 is not trained; fit it first"):
        getattr(model, f"to_{kind}")(tmp_path)
    assert not list(tmp_path.iterdir())


def test_exports_do_not_carry_the_embeddings(images: list[str], tmp_path: Path) -> None:
    """Which checkpoints keep for later changes; the model at hand still has them."""
    model = fitted(images)
    path = model.to_torch(tmp_path)
    assert torch.load(path, weights_only=False)["model"].bank_record is None
    assert model.bank_record is not None
    assert len(model.bank_record.digests) == 10


def test_torch_export_runs_in_anomalibs_inferencer(
    images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is what the host's own tools expect."""
    from anomalib.deploy import TorchInferencer

    model = fitted(images)
    path = model.to_torch(tmp_path)
    monkeypatch.setitem(os.environ, "TRUST_REMOTE_CODE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prediction = TorchInferencer(path=path, device="cpu").predict(images[0])
    assert float(prediction.pred_score) == pytest.approx(as_tested(model, images[0])[0], abs=1e-4)
