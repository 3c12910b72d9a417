"""The Engine: where runs are written, what a resumed training tests, how images to predict are read."""

import errno
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.engine import Engine as AnomalibEngine
from anomalib.models.components import AnomalibModule
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from PIL import Image
from skimage import data
from torch import nn

from panda_anomalib.data import OneClassFolder, PredictImages
from panda_anomalib.engine import Engine, existing_checkpoint, newest_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),  # no validation data
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # runs that start from another run's checkpoint
]


class _Steps(nn.Module):
    """Its only weight counts the optimizer's steps, and is the score."""

    def __init__(self) -> None:
        super().__init__()
        self.count = nn.Parameter(torch.zeros(()))

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        return InferenceBatch(pred_score=self.count.expand(len(images)))


class _StepCounter(AnomalibModule):
    """Model whose weights tell how long it was trained."""

    def __init__(self) -> None:
        super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)
        self.model = _Steps()
        self.tested: list[float] = []
        self.sizes: list[tuple[int, ...]] = []

    def training_step(self, batch, *args, **kwargs):  # noqa: ARG002 - Lightning's signature
        return -self.model.count * 1.0

    def test_step(self, batch, *args, **kwargs):  # noqa: ARG002
        self.tested.append(self.model.count.item())

    def predict_step(self, batch, *args, **kwargs):  # noqa: ARG002
        return batch.image

    def validation_step(self, batch, *args, **kwargs):
        """Nothing to validate."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    @property
    def trainer_arguments(self):
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self):
        return LearningType.ONE_CLASS


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of two photographs, five each: one batch of training images."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for name, picture in (("coffee", data.coffee()), ("astronaut", data.astronaut())):
        (root / name).mkdir(parents=True)
        for number in range(5):
            crop = picture[40 * number : 40 * number + 64, 100:164]
            Image.fromarray(crop).save(root / name / f"{number}.png")
    return root


def _engine(root: Path, epochs: int = 1, kind: type[AnomalibEngine] = Engine) -> AnomalibEngine:
    return kind(
        default_root_dir=root,
        accelerator="cpu",
        max_epochs=epochs,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _coffee(photos: Path) -> OneClassFolder:
    return OneClassFolder(photos, "coffee", num_workers=0)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a model after one step, in <root>/_StepCounter/photos/coffee/v0."""
    root = tmp_path_factory.mktemp("results")
    _engine(root).fit(_StepCounter(), datamodule=_coffee(photos))
    return root / "_StepCounter/photos/coffee/v0/weights/lightning/model.ckpt"


def _run_of(checkpoint: Path) -> Path:
    return checkpoint.parents[2]


@pytest.mark.parametrize(("kind", "tested"), [(AnomalibEngine, [1.0]), (Engine, [3.0])])
def test_train_from_a_checkpoint_tests_the_new_weights(
    kind: type[AnomalibEngine], tested: list[float], trained: Path, photos: Path, tmp_path: Path
) -> None:
    """Resumed after one step and trained to three: anomalib tests the old weights (1), we the new ones (3)."""
    model = _StepCounter()
    _engine(tmp_path, epochs=3, kind=kind).train(model, datamodule=_coffee(photos), ckpt_path=trained)
    assert model.tested == tested


def test_evaluation_goes_to_the_run_of_the_checkpoint(trained: Path, photos: Path) -> None:
    """Not to the newest run, which has other weights."""
    root = trained.parents[6]
    _engine(root).fit(_StepCounter(), datamodule=_coffee(photos))
    assert (_run_of(trained).parent / "latest").resolve().name == "v1"
    for stage in ("test", "validate"):
        engine = _engine(root)
        getattr(engine, stage)(_StepCounter(), datamodule=_coffee(photos), ckpt_path=trained)
        assert Path(engine.trainer.default_root_dir) == _run_of(trained).resolve()


def test_test_elsewhere_leaves_a_place_that_can_be_trained_in(trained: Path, photos: Path, tmp_path: Path) -> None:
    """A root without runs gets a run folder and a link, not a folder in the place of the link."""
    engine = _engine(tmp_path)
    engine.test(_StepCounter(), datamodule=_coffee(photos), ckpt_path=trained)
    folder = tmp_path / "_StepCounter/photos/coffee"
    assert Path(engine.trainer.default_root_dir) == folder / "v0"
    _engine(tmp_path).fit(_StepCounter(), datamodule=_coffee(photos))
    assert (folder / "latest").resolve() == folder / "v1"
    again = _engine(tmp_path)
    again.test(_StepCounter(), datamodule=_coffee(photos), ckpt_path=trained)
    assert Path(again.trainer.default_root_dir) == folder / "v1"


def test_a_folder_called_latest_is_refused_before_training(photos: Path, tmp_path: Path) -> None:
    """Plain anomalib leaves one, and then dies of it with an IsADirectoryError."""
    (tmp_path / "_StepCounter/photos/coffee/latest").mkdir(parents=True)
    with pytest.raises(RuntimeError, match=r"latest must be a link to a run folder, got a folder at .*rename it"):
        _engine(tmp_path).fit(_StepCounter(), datamodule=_coffee(photos))
    assert not (tmp_path / "_StepCounter/photos/coffee/v0").exists()


class _Failing(_StepCounter):
    """Model whose training ends in the middle."""

    reason: type[BaseException] = KeyboardInterrupt

    def training_step(self, batch, *args, **kwargs):  # noqa: ARG002
        raise self.reason


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError])
def test_a_training_that_leaves_nothing_leaves_no_run(
    reason: type[BaseException], photos: Path, tmp_path: Path
) -> None:
    """The link ``latest`` goes back to the run before, or where there was none goes away with the empty folders."""
    failing = type("_StepCounter", (_Failing,), {"reason": reason})  # the name makes the folder
    folder = tmp_path / "_StepCounter/photos/coffee"
    for runs in ([], ["v0"]):
        for _ in runs:
            _engine(tmp_path).fit(_StepCounter(), datamodule=_coffee(photos))
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises((reason, SystemExit)):  # Lightning's answer to Ctrl-C
            _engine(tmp_path).fit(failing(), datamodule=_coffee(photos))
        assert sorted(tmp_path.rglob("*")) == before
    assert (folder / "latest").resolve() == folder / "v0"


def test_a_finished_training_that_is_resumed_leaves_no_run(
    trained: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """There was nothing to do, which is said."""
    _engine(tmp_path).fit(_StepCounter(), datamodule=_coffee(photos), ckpt_path=trained)
    assert list(tmp_path.iterdir()) == []
    assert "is finished: there was nothing left to do" in caplog.text


def test_results_that_cannot_be_written_are_told_before_training(photos: Path, tmp_path: Path) -> None:
    """A file stands in the way, of root as well."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"default_root_dir must be a folder one can write to, got '.*file' \(Not a dir"):
        _engine(tmp_path / "file").fit(_StepCounter(), datamodule=_coffee(photos))


def test_half_a_checkpoint_never_takes_the_place(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning moves it from another disk, of which a full disk leaves the beginning."""

    def torn(self: TorchCheckpointIO, checkpoint: object, path: str | Path, storage_options: object = None) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", torn)
    with pytest.raises(OSError, match="No space left"):
        _engine(tmp_path).fit(_StepCounter(), datamodule=_coffee(photos))
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_do_not_fit_the_machine_are_ours_to_tell(photos: Path, tmp_path: Path) -> None:
    """Lightning's exception would be a traceback in the command line."""
    engine = Engine(default_root_dir=tmp_path, accelerator="gpuu")
    with pytest.raises(ValueError, match="trainer must have arguments that fit together and this machine: You sel"):
        engine.fit(_StepCounter(), datamodule=_coffee(photos))


def test_an_engine_fits_once(photos: Path, tmp_path: Path) -> None:
    """Anomalib's second fit trains nothing without a word; a test on the same engine is fine."""
    engine, model = _engine(tmp_path), _StepCounter()
    engine.fit(model, datamodule=_coffee(photos))
    engine.test(model, datamodule=_coffee(photos))
    assert model.tested == [1.0]
    with pytest.raises(RuntimeError, match="Engine must be new for each fit or train"):
        engine.fit(_StepCounter(), datamodule=_coffee(photos))


def test_a_datamodule_in_the_place_of_the_loader_names_the_run(photos: Path, tmp_path: Path) -> None:
    """As anomalib's benchmark passes it."""
    _engine(tmp_path).fit(_StepCounter(), _coffee(photos))
    assert (tmp_path / "_StepCounter/photos/coffee/v0/weights/lightning/model.ckpt").is_file()


def test_export_goes_beside_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    """Not to one place for every model; ``export_root`` still wins."""
    engine = _engine(tmp_path)
    assert engine.export(_StepCounter(), "torch", ckpt_path=trained) == _run_of(trained) / "weights/torch/model.pt"
    other = _engine(tmp_path).export(_StepCounter(), "torch", export_root=tmp_path / "mine", ckpt_path=trained)
    assert other == tmp_path / "mine/weights/torch/model.pt"
    moved = tmp_path / "moved" / "best.ckpt"
    moved.parent.mkdir()
    moved.write_bytes(trained.read_bytes())
    assert _engine(tmp_path).export(_StepCounter(), "torch", ckpt_path=moved) == moved.parent / "weights/torch/model.pt"


def test_predict_reads_16_bit_images_truthfully(trained: Path, tmp_path: Path) -> None:
    """The same photograph in 16 and in 8 bits gives the same pixels; anomalib's reading makes the first one white."""
    grey = data.camera()[100:164, 200:264]
    Image.fromarray(grey).save(tmp_path / "eight.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    images = _engine(tmp_path).predict(_StepCounter(), ckpt_path=trained, data_path=tmp_path)
    eight, sixteen = torch.cat(images)
    torch.testing.assert_close(sixteen, eight, atol=1e-5, rtol=0)
    assert eight.std() > 0.05


class _Halving:
    """Pre-processor that brings images to one size in the loader, as ours do."""

    def install(self, dataset: PredictImages) -> None:
        dataset.augmentations = lambda image: image[:, :32, :32]


def test_predict_makes_batches_when_the_model_can_resize_beforehand(trained: Path, tmp_path: Path) -> None:
    """40 photographs of two sizes: batches of 32 and 8 with ``install``, single images without it."""
    for number in range(40):
        side = 48 + 16 * (number % 2)
        Image.fromarray(data.coffee()[number : number + side, :side]).save(tmp_path / f"{number:02}.png")
    model = _StepCounter()
    assert [len(x) for x in _engine(tmp_path).predict(model, ckpt_path=trained, data_path=tmp_path)] == [1] * 40
    model = _StepCounter()
    object.__setattr__(model, "pre_processor", _Halving())
    model.configure_callbacks = list  # the double is no callback
    batches = _engine(tmp_path).predict(model, ckpt_path=trained, data_path=tmp_path)
    assert [tuple(batch.shape) for batch in batches] == [(32, 3, 32, 32), (8, 3, 32, 32)]


def test_checkpoints_are_checked_before_anything_else(trained: Path, tmp_path: Path) -> None:
    """Missing, and cut in the middle of a copy."""
    with pytest.raises(FileNotFoundError, match="ckpt_path must be an existing file, got 'best'"):
        _engine(tmp_path).test(_StepCounter(), ckpt_path="best")
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(trained.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"ckpt_path must be a Lightning checkpoint .* damaged or another kind"):
        existing_checkpoint(cut)
    assert existing_checkpoint(None) is None
    assert existing_checkpoint(trained) == trained.resolve()
    assert zipfile.is_zipfile(trained)


def test_newest_checkpoint_is_of_this_model_and_this_data(trained: Path, photos: Path, tmp_path: Path) -> None:
    """Another class of the same folder has no checkpoint."""
    root = trained.parents[6]
    found = newest_checkpoint(root, _StepCounter(), _coffee(photos))
    assert found is not None
    assert found.parents[3] == _run_of(trained).parent
    assert newest_checkpoint(root, _StepCounter(), OneClassFolder(photos, "astronaut")) is None
    assert newest_checkpoint(tmp_path, _StepCounter(), None) is None
