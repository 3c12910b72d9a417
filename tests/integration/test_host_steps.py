"""The steps of anomalib's own per-model integration tests, in their order, on data in MVTec's layout."""

from pathlib import Path

import numpy as np
import pytest
from anomalib.data import MVTecAD
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models import get_model
from PIL import Image

import panda_anomalib  # noqa: F401 - registers the model, as a user's import does

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

pytestmark = pytest.mark.filterwarnings("ignore")  # the host's tests do not turn warnings into errors


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Category ``dummy`` with masks, of a photograph's crops; defects are dark squares."""
    from skimage import data

    root, rng, photograph = tmp_path_factory.mktemp("mvtec"), np.random.default_rng(0), data.coffee()

    def crop() -> np.ndarray:
        top, left = rng.integers(0, 250, 2)
        return photograph[top : top + 120, left : left + 120].copy()

    for folder, count in (("train/good", 8), ("test/good", 4), ("test/bad", 4)):
        (root / "dummy" / folder).mkdir(parents=True)
        for i in range(count):
            image = crop()
            if folder == "test/bad":
                image[40:80, 40:80] = 0
                mask = np.zeros((120, 120), np.uint8)
                mask[40:80, 40:80] = 255
                truth = root / "dummy/ground_truth/bad"
                truth.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(truth / f"{i:03}_mask.png")
            Image.fromarray(image).save(root / "dummy" / folder / f"{i:03}.png")
    return root


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder shared by the steps, as in the host's tests."""
    return tmp_path_factory.mktemp("project")


def objects(dataset: Path, project: Path) -> tuple[object, MVTecAD, Engine]:
    """Fresh model, datamodule and engine for each step."""
    model = get_model("dn2", backbone="test_resnet", weights="random", runtime="eager")
    data = MVTecAD(root=dataset, category="dummy", train_batch_size=2, num_workers=0)
    engine = Engine(logger=False, default_root_dir=project, max_epochs=1, devices=1, accelerator="cpu")
    return model, data, engine


def checkpoint(project: Path) -> Path:
    """Where the host's tests look for it."""
    return project / "Dn2/MVTecAD/dummy/v0/weights/lightning/model.ckpt"


@pytest.mark.parametrize("step", ["fit", "test", "train", "validate", "predict"])
def test_step(step: str, dataset: Path, project: Path) -> None:
    """Each with the checkpoint of the first."""
    model, data, engine = objects(dataset, project)
    if step == "fit":
        engine.fit(model=model, datamodule=data)
        assert checkpoint(project).is_file()
    else:
        result = getattr(engine, step)(model=model, datamodule=data, ckpt_path=checkpoint(project))
        assert len(result) > 0


@pytest.mark.parametrize("export_type", list(ExportType))
def test_export(export_type: ExportType, dataset: Path, project: Path) -> None:
    """All three formats with a dynamic input size, each compared with the model as it is written."""
    model, _, engine = objects(dataset, project)
    path = engine.export(
        model=model, ckpt_path=checkpoint(project), export_type=export_type, export_root=project, input_size=None
    )
    assert path is not None
    assert path.is_file()
