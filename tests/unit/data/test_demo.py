"""The demo data: images are what their list says, masks are where the defects are, any model runs on them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models import Padim
from anomalib.pre_processing import PreProcessor
from PIL import Image
from scipy.ndimage import maximum_filter
from torchvision.transforms.v2 import Resize

from panda_anomalib import Demo, OneClassFolder
from panda_anomalib.data import demo_folder
from panda_anomalib.data.demo_defects import DEFECTS, draw_defect
from panda_anomalib.data.demo_folder import make_demo
from panda_anomalib.data.demo_images import CATEGORIES, DemoFile


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root with the images of gravel, drawn once for all tests here."""
    root = tmp_path_factory.mktemp("demo")
    make_demo(root)
    return root


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four small files in place of the images, for what does not look at them."""

    def draw(category: str, seed: int) -> Iterator[DemoFile]:
        for name in ("train/good/000.png", "test/good/000.png", "test/scratch/000.png", "ground_truth/scratch/000.png"):
            yield DemoFile(name, f"{category} {seed} {name}".encode(), {"left": 1})

    monkeypatch.setattr(demo_folder, "draw_demo", draw)


def contents(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def origins(root: Path) -> dict[str, dict[str, Any]]:
    """Entries of the images, without the masks, in demo.json."""
    files = json.loads((root / "gravel/demo.json").read_text())["files"]
    return {name: entry for name, entry in files.items() if "left" in entry}


def crop_again(entry: dict[str, Any]) -> np.ndarray:
    """The image without defect that an entry describes, from the photograph."""
    photo = skimage.data.gravel()[entry["top"] : entry["top"] + 80, entry["left"] : entry["left"] + 80]
    pixels = np.rot90(photo, entry["turns"])
    pixels = pixels[:, ::-1] if entry["mirrored"] else pixels
    lit = np.clip(np.rint(pixels.astype(np.float32) * np.float32(entry["light"])), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(lit).resize((256, 256), Image.Resampling.BICUBIC), dtype=float)


def read(path: Path) -> np.ndarray:
    """Grey levels of an image file."""
    with Image.open(path) as image:
        return np.asarray(image, dtype=float)


def test_images_are_the_crops_of_the_list(root: Path) -> None:
    """Normal images throughout; a defect changes its mask, visibly, and nothing farther than its soft edge."""
    for name, entry in origins(root).items():
        difference = np.abs(read(root / "gravel" / name) - crop_again(entry))
        _, kind, file = name.split("/")
        if kind == "good":
            assert difference.max() <= 1, name
            continue
        mask = read(root / "gravel/ground_truth" / kind / file.replace(".png", "_mask.png"))
        assert set(np.unique(mask)) == {0, 255}, name
        inside, around = mask > 0, maximum_filter(mask, 19) > 0
        assert difference[~around].max() <= 3, name
        assert difference[inside].mean() > 12, name
        assert 0.01 < inside.mean() < 0.3, name
        assert inside[16:-16, 16:-16].sum() > 0.75 * inside.sum(), name  # what models cut away holds no defect


def test_no_pixel_is_in_training_and_test(root: Path) -> None:
    """The parts of the photograph that the two sets cover do not touch."""
    covered = {"train": np.zeros((512, 512), bool), "test": np.zeros((512, 512), bool)}
    for name, entry in origins(root).items():
        left, top = entry["left"], entry["top"]
        covered[name.split("/")[0]][top : top + 80, left : left + 80] = True
    assert not (covered["train"] & covered["test"]).any()
    assert (covered["train"] | covered["test"]).mean() > 0.95


def test_the_seed_decides(root: Path, tmp_path: Path) -> None:
    """The same seed gives the same bytes, wherever torch's generator is, which stays there; another gives others."""
    torch.manual_seed(5)
    expected = torch.random.get_rng_state()
    again, other = make_demo(tmp_path / "again"), make_demo(tmp_path / "other", image_seed=1)
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert contents(again) == contents(root / "gravel")
    shared = {name for name, content in contents(other).items() if contents(again).get(name) == content}
    assert not {name for name in shared if name.startswith("test")}


def test_every_model_gets_images_and_masks(root: Path) -> None:
    """Batches hold gt_mask as in the files, and nothing for normal images; three equal readings of the same folder."""
    demo, mvtec = Demo(root), MVTecAD(root, "gravel", num_workers=0)
    folder = OneClassFolder(root / "gravel", "good", num_workers=0)
    for datamodule in (demo, mvtec, folder):
        datamodule.setup()
        assert len(datamodule.train_data) == 78
        assert datamodule.test_data.samples["label_index"].value_counts().to_dict() == {0: 60, 1: 60}
    assert demo.test_data.samples["image_path"].tolist() == mvtec.test_data.samples["image_path"].tolist()
    assert (demo.name, demo.category) == ("Demo", "gravel")
    for batch in demo.test_dataloader():
        for path, mask, label in zip(batch.image_path, batch.gt_mask, batch.gt_label, strict=True):
            _, kind, file = Path(path).parts[-3:]
            expected = np.zeros((256, 256))
            if label:
                expected = read(root / "gravel/ground_truth" / kind / file.replace(".png", "_mask.png"))
            assert np.array_equal(mask.numpy(), expected > 0), path


def test_a_model_of_anomalib_measures_pixels(root: Path, tmp_path: Path) -> None:
    """Padim: fitted, validated and tested by anomalib's own engine, with the pixel metrics that need masks."""
    small = PreProcessor(Resize((64, 64), antialias=True))
    torch.manual_seed(0)
    model = Padim("test_resnet", ["layer1"], pre_trained=False, n_features=16, pre_processor=small, visualizer=False)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    (metrics,) = Engine(default_root_dir=tmp_path, **quiet).train(model, datamodule=Demo(root))
    assert metrics["image_AUROC"] > 0.5
    assert metrics["pixel_AUROC"] > 0.5


def test_drawn_where_missing_and_overwritten_once(tmp_path: Path, quick: None) -> None:
    """setup() by hand draws; with overwrite an altered folder is drawn again, but not a second time in the same run."""
    with pytest.raises(FileExistsError):
        _altered(tmp_path, Demo(tmp_path)).prepare_data()
    datamodule = Demo(tmp_path, overwrite=True)
    datamodule.prepare_data()
    assert (tmp_path / "gravel/train/good/000.png").read_bytes() == b"gravel 0 train/good/000.png"
    with pytest.raises(FileExistsError):
        _altered(tmp_path, datamodule).prepare_data()


def _altered(root: Path, datamodule: Demo) -> Demo:
    datamodule.prepare_data()
    (root / "gravel/train/good/000.png").write_bytes(b"altered")
    return datamodule


def test_altered_images_are_told_and_left(tmp_path: Path, quick: None) -> None:
    """Altered, missing, another seed: named, nothing touched; with overwrite all is as drawn again."""
    folder = make_demo(tmp_path, "brick")
    whole = contents(folder)
    assert make_demo(tmp_path, "brick") == folder
    (folder / "train/good/000.png").write_bytes(b"mine")
    (folder / "test/good/000.png").unlink()
    before = contents(folder)
    expected = (
        rf"'{folder}' must hold the demo images as they were drawn, got 1 altered \('train/good/000.png'\) "
        r"and 1 missing \('test/good/000.png'\); set overwrite to true to draw them again, or choose another root."
    )
    with pytest.raises(FileExistsError, match=expected):
        make_demo(tmp_path, "brick")
    assert contents(folder) == before
    make_demo(tmp_path, "brick", overwrite=True)
    assert contents(folder) == whole
    with pytest.raises(FileExistsError, match="demo images of image_seed 3, got those of image_seed 0; set overwrite"):
        make_demo(tmp_path, "brick", image_seed=3)
    assert contents(folder) == whole
    make_demo(tmp_path, "brick", image_seed=3, overwrite=True)
    assert contents(folder)["train/good/000.png"] == b"brick 3 train/good/000.png"
    assert [path.name for path in tmp_path.iterdir()] == ["brick"]


@pytest.mark.parametrize("name", ["train/good/holiday.png", "notes.txt", ".git/config", "demo.json"])
def test_files_of_others_are_never_deleted(tmp_path: Path, quick: None, name: str) -> None:
    """Beside the demo's files, or in a folder that is none of the demo's: overwrite or not."""
    folder = tmp_path / "gravel"
    if name != "demo.json":  # one that is not ours
        make_demo(tmp_path)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
    before = contents(folder)
    for overwrite in (False, True):
        with pytest.raises(
            FileExistsError, match=rf"must hold nothing but demo images, got '{name}'; move what is yours"
        ):
            make_demo(tmp_path, overwrite=overwrite)
    assert contents(folder) == before


def test_hidden_files_do_not_count(tmp_path: Path, quick: None) -> None:
    """File managers leave some; yet they are not deleted unseen either."""
    folder = make_demo(tmp_path)
    (folder / "train/.DS_Store").write_bytes(b"")
    assert make_demo(tmp_path) == folder
    with pytest.raises(FileExistsError, match=r"got 'train/\.DS_Store'"):
        make_demo(tmp_path, image_seed=1, overwrite=True)


@pytest.mark.parametrize("there", [False, True])
def test_an_interruption_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, there: bool
) -> None:
    """Ctrl-C while drawing: nothing, or what was there before."""
    if there:
        make_demo(tmp_path)
    before = contents(tmp_path)

    def interrupted(category: str, seed: int) -> Iterator[DemoFile]:
        yield DemoFile("train/good/000.png", f"{category} {seed}".encode(), {})
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_folder, "draw_demo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path, image_seed=1, overwrite=True)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["gravel"] if there else [])


def test_an_interruption_of_the_exchange_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """Ctrl-C when the old folder is moved away and the new one is not there yet."""
    make_demo(tmp_path)
    before = contents(tmp_path)
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path, image_seed=1, overwrite=True)
    assert contents(tmp_path) == before


def test_another_process_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """The folder that has appeared meanwhile is as good as ours."""
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        make_demo(tmp_path)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert make_demo(tmp_path) == tmp_path / "gravel"
    assert [path.name for path in tmp_path.iterdir()] == ["gravel"]


def test_a_place_that_cannot_be_written_to(tmp_path: Path, quick: None) -> None:
    """One line that names it: here, a file in the place of the folder."""
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=rf"root must be a folder one can read and write, got '{tmp_path / 'file'}' \(.+\);"
    ):
        make_demo(tmp_path / "file")


def test_wrong_arguments(tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(ValueError, match="category must be one of brick, grass, gravel, got 'sand'"):
        make_demo(tmp_path, "sand")
    with pytest.raises(ValueError, match="image_seed must be at least 0, got -1"):
        make_demo(tmp_path, image_seed=-1)
    with pytest.raises(ValueError, match="kind must be one of perlin, scratch, foreign, missing, got 'hole'"):
        draw_defect("hole", np.zeros((80, 80), np.float32), size=1, other=np.zeros((80, 80), np.float32),
                    rng=np.random.default_rng(0))  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", DEFECTS)
@pytest.mark.parametrize("category", CATEGORIES)
def test_defects_can_be_drawn_at_every_size(kind: str, category: str, rng: np.random.Generator) -> None:
    """On flat grey, whatever the size: the generator does not give up, and the mask covers what is changed most."""
    grey, other = np.full((80, 80), 120, np.float32), rng.uniform(0, 255, (80, 80)).astype(np.float32)
    for _ in range(5):
        pixels, mask = draw_defect(kind, grey, size=CATEGORIES[category], other=other, rng=rng)
        changed = np.abs(pixels - 120)
        assert mask.any()
        assert changed[mask].mean() > 3 * changed[~mask].mean()
