"""OneClassFolder: the split against an independent computation, and what the loaders deliver."""

import logging
from pathlib import Path
from typing import Any

import anomalib.data
import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torchvision.transforms.v2 import Resize

from panda_anomalib.data import OneClassFolder
from panda_anomalib.data.one_class import OneClassData

CONFIGS = sorted((Path(__file__).parents[3] / "configs/data").glob("*.yaml"))
ONE_CLASS = [path for path in CONFIGS if path.stem != "image_sets"]  # whose samples are images
COUNTS = {"apple": 23, "pear": 10, "plum": 1}


def make_images(folder: Path, count: int, grey: int = 0) -> None:
    """Write images 000.png, 001.png, ... of one grey (and a blue that counts them)."""
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (32, 32), (grey, grey, index)).save(folder / f"{index:03d}.png")


@pytest.fixture
def one_tree(tmp_path: Path) -> Path:
    """root/<class>: 23 apples, 10 pears, 1 plum."""
    root = tmp_path / "fruit"
    for name, count in COUNTS.items():
        make_images(root / name, count)
    return root


@pytest.fixture
def two_trees(tmp_path: Path) -> Path:
    """root/train and root/test as they lie on disk; one class only in the test set."""
    root = tmp_path / "parts"
    make_images(root / "train/good", 5)
    make_images(root / "train/used", 4)
    for name, count in {"good": 3, "used": 2, "scratch": 4}.items():
        make_images(root / "test" / name, count)
    return root


def set_up(root: Path, normal_class: str, **arguments: Any) -> OneClassFolder:
    """A datamodule after setup, reading in this process."""
    datamodule = OneClassFolder(root, normal_class, num_workers=0, **arguments)
    datamodule.setup()
    return datamodule


def paths_of(dataset: Any, label: int | None = None) -> set[str]:
    """Paths as <class>/<file>, of one label or of all; they must be unique."""
    samples = dataset.samples if label is None else dataset.samples[dataset.samples.label_index == label]
    paths = {Path(path).relative_to(Path(path).parents[1]).as_posix() for path in samples.image_path}
    assert len(paths) == len(samples)
    return paths


def expected_parts(name: str, ratio_kept: float, seed: int) -> tuple[set[str], set[str]]:
    """Training and test part of a class of files 000.png, 001.png, ...: the rule, once more."""
    count = COUNTS[name]
    order = [f"{name}/{index:03d}.png" for index in np.random.default_rng(seed).permutation(count)]
    cut = int(np.floor(ratio_kept * count))
    return set(order[:cut]), set(order[cut:])


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("normal_class", ["apple", "pear"])
def test_seeded_split_equals_the_rule(one_tree: Path, normal_class: str, seed: int) -> None:
    """Sizes, members and labels of both sets, for each class as the normal one."""
    datamodule = set_up(one_tree, normal_class, seed=seed)
    train, normal_test = expected_parts(normal_class, 0.8, seed)
    assert len(train) == {"apple": 18, "pear": 8}[normal_class]
    assert paths_of(datamodule.train_data) == train
    assert paths_of(datamodule.train_data, 0) == train
    assert paths_of(datamodule.test_data, 0) == normal_test
    others = set().union(*(expected_parts(name, 0.8, seed)[1] for name in COUNTS if name != normal_class))
    assert paths_of(datamodule.test_data, 1) == others


def test_ratio_is_exact_where_floats_are_not(one_tree: Path) -> None:
    """(1 - 0.9) * 10 is 0.99...: still one training image of ten."""
    assert len(set_up(one_tree, "pear", test_split_ratio=0.9).train_data) == 1


def test_split_depends_on_the_seed_only(one_tree: Path) -> None:
    """Neither a second setup nor leaving out a class moves an image; another seed does."""
    datamodule = set_up(one_tree, "apple")
    first = paths_of(datamodule.train_data), paths_of(datamodule.test_data)
    datamodule.setup()
    assert (paths_of(datamodule.train_data), paths_of(datamodule.test_data)) == first
    limited = set_up(one_tree, "apple", classes=["apple", "pear"])
    assert paths_of(limited.train_data) == first[0]
    assert paths_of(limited.test_data) == {path for path in first[1] if not path.startswith("plum")}
    assert paths_of(set_up(one_tree, "apple", seed=1).train_data) != first[0]


def test_folders_decide_where_both_exist(two_trees: Path) -> None:
    """Other training classes are left out; a class may exist in the test set alone."""
    datamodule = set_up(two_trees, "good")
    assert paths_of(datamodule.train_data) == {f"good/{index:03d}.png" for index in range(5)}
    assert paths_of(datamodule.test_data, 0) == {f"good/{index:03d}.png" for index in range(3)}
    assert {path.split("/")[0] for path in paths_of(datamodule.test_data, 1)} == {"used", "scratch"}
    assert len(datamodule.test_data) == 9
    assert {Path(path).parts[-3] for path in datamodule.train_data.samples.image_path} == {"train"}
    assert {Path(path).parts[-3] for path in datamodule.test_data.samples.image_path} == {"test"}
    limited = set_up(two_trees, "good", classes=["good", "scratch"])
    assert {path.split("/")[0] for path in paths_of(limited.test_data, 1)} == {"scratch"}


def test_other_names_of_the_two_folders(two_trees: Path) -> None:
    """The two folders can be called differently."""
    (two_trees / "train").rename(two_trees / "fit")
    assert len(set_up(two_trees, "good", train_dir="fit").train_data) == 5


def test_test_set_without_normal_images_takes_none_from_training(
    two_trees: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which anomalib's base class would do without a word."""
    for path in sorted((two_trees / "test/good").iterdir()):
        path.unlink()
    (two_trees / "test/good").rmdir()
    datamodule = set_up(two_trees, "good", classes=["good", "scratch"])
    assert len(datamodule.train_data) == 5
    assert len(datamodule.test_data) == 4
    assert "The test set has 0 normal and 4 anomalous images: no AUROC." in caplog.text


def test_setup_logs_the_counts(one_tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line says what the sets hold and where the split comes from."""
    with caplog.at_level(logging.INFO, logger="panda_anomalib"):
        set_up(one_tree, "apple")
    expected = "fruit, normal class 'apple': 18 normal training images; test: 5 normal, 3 anomalous (0.2 of each class"
    assert expected in caplog.text


def test_names_of_the_run_folder(one_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """<name>/<category> is <root's name>/<normal class>, also for root '.'."""
    monkeypatch.chdir(one_tree)
    datamodule = OneClassFolder(".", "apple")
    assert (datamodule.name, datamodule.category) == ("fruit", "apple")
    assert OneClassFolder(".", "apple", name="mine").name == "mine"


def test_batches_carry_images_labels_and_paths(two_trees: Path) -> None:
    """All images arrive, resized by the augmentations, each with its own label and path."""
    make_images(two_trees / "test/broken", 1, grey=51)
    datamodule = set_up(two_trees, "good", eval_batch_size=4, augmentations=Resize((4, 6)))
    batches = list(datamodule.test_dataloader())
    assert [len(batch.image) for batch in batches] == [4, 4, 2]  # nothing dropped
    assert batches[0].image.shape == (4, 3, 4, 6)
    labels = {
        path: bool(label) for batch in batches for path, label in zip(batch.image_path, batch.gt_label, strict=True)
    }
    assert labels == {path: Path(path).parent.name != "good" for path in datamodule.test_data.samples.image_path}
    broken = next(path for path in batches[0].image_path if "broken" in path)
    assert batches[0].image[batches[0].image_path.index(broken), 0].mean().item() == pytest.approx(0.2)
    assert sum(len(batch.image) for batch in datamodule.train_dataloader()) == 5


def test_workers_are_automatic_or_as_asked(one_tree: Path) -> None:
    """None for a few images; a number that was given is kept."""
    datamodule = OneClassFolder(one_tree, "apple")
    datamodule.setup()
    assert datamodule.train_dataloader().num_workers == 0  # 18 images
    datamodule = OneClassFolder(one_tree, "apple", num_workers=1)
    datamodule.setup()
    loader = datamodule.train_dataloader()
    assert (loader.num_workers, loader.persistent_workers) == (1, True)


class CountingModule(LightningModule):
    """Counts the steps that Lightning makes it take."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": 0, "val": 0, "test": 0}

    def training_step(self, batch: Any) -> torch.Tensor:
        """Count images."""
        self.seen["train"] += len(batch.image)
        return self.weight.square()

    def validation_step(self, batch: Any) -> None:
        """Count images."""
        self.seen["val"] += len(batch.image)

    def test_step(self, batch: Any) -> None:
        """Count images."""
        self.seen["test"] += len(batch.image)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any optimiser."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_several_normal_classes(two_trees: Path, one_tree: Path) -> None:
    """One training set of all of them; the test images of each are normal."""
    datamodule = set_up(two_trees, ["good", "used"])
    assert paths_of(datamodule.train_data) == {f"good/{index:03d}.png" for index in range(5)} | {
        f"used/{index:03d}.png" for index in range(4)
    }
    assert {path.split("/")[0] for path in paths_of(datamodule.test_data, 0)} == {"good", "used"}
    assert {path.split("/")[0] for path in paths_of(datamodule.test_data, 1)} == {"scratch"}
    assert (datamodule.category, datamodule.normal_classes) == ("good+used", ["good", "used"])
    for dataset in (datamodule.train_data, datamodule.test_data):
        assert [Path(path).parent.name for path in dataset.samples["image_path"]] == list(dataset.samples["class_name"])

    drawn = set_up(one_tree, ["pear", "apple"])
    assert paths_of(drawn.train_data) == expected_parts("apple", 0.8, 0)[0] | expected_parts("pear", 0.8, 0)[0]
    assert paths_of(drawn.test_data, 0) == expected_parts("apple", 0.8, 0)[1] | expected_parts("pear", 0.8, 0)[1]


def test_classes_that_can_be_normal(two_trees: Path, one_tree: Path) -> None:
    """Those that have training images, where folders say it."""
    assert OneClassFolder(two_trees, "good").class_names() == ["good", "used"]
    assert OneClassFolder(one_tree, "apple").class_names() == ["apple", "pear", "plum"]
    assert OneClassFolder(one_tree, "apple", classes=["pear", "apple"]).class_names() == ["pear", "apple"]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")  # Lightning, with torch 2.10 and later
@pytest.mark.parametrize(("val_split_mode", "seen"), [("none", (18, 0, 8)), ("same_as_test", (18, 8, 8))])
def test_lightning_trains_with_and_without_validation(
    one_tree: Path, tmp_path: Path, val_split_mode: Any, seen: tuple[int, int, int]
) -> None:
    """Without a validation set nothing crashes, and the test set stays unseen."""
    datamodule = OneClassFolder(one_tree, "apple", num_workers=0, val_split_mode=val_split_mode)
    trainer = Trainer(
        max_epochs=1,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module := CountingModule(), datamodule=datamodule)
    trainer.test(module, datamodule=datamodule, verbose=False)
    assert tuple(module.seen.values()) == seen


def test_validation_modes_of_the_base_class(one_tree: Path) -> None:
    """Each takes its images from where its name says, and from nowhere else."""
    everything = set_up(one_tree, "apple")
    train, test = paths_of(everything.train_data), paths_of(everything.test_data)
    assert everything.val_dataloader() == []

    datamodule = set_up(one_tree, "apple", val_split_mode="from_train")
    assert paths_of(datamodule.val_data) | paths_of(datamodule.train_data) == train
    assert paths_of(datamodule.val_data).isdisjoint(paths_of(datamodule.train_data))
    assert paths_of(datamodule.test_data) == test

    datamodule = set_up(one_tree, "apple", val_split_mode="from_test", val_split_ratio=0.5)
    assert paths_of(datamodule.val_data) | paths_of(datamodule.test_data) == test
    assert paths_of(datamodule.val_data).isdisjoint(paths_of(datamodule.test_data))

    datamodule = set_up(one_tree, "apple", val_split_mode="synthetic", val_split_ratio=0.5)
    assert isinstance(datamodule.val_data, SyntheticAnomalyDataset)
    assert paths_of(datamodule.test_data) == test


def test_get_datamodule_hands_over_omegaconf_lists(one_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `anomalib benchmark` builds datamodules."""
    monkeypatch.setattr(anomalib.data, "OneClassFolder", OneClassFolder, raising=False)
    arguments = {"root": str(one_tree), "normal_class": "pear", "classes": ["apple", "pear"], "num_workers": 0}
    datamodule = get_datamodule({"class_path": "OneClassFolder", "init_args": arguments})
    assert type(datamodule.classes) is list
    datamodule.setup()
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (8, 2 + 5)


@pytest.mark.parametrize("path", ONE_CLASS, ids=lambda path: path.stem)
def test_configs_are_accepted_by_the_command_line(path: Path) -> None:
    """Each file of configs/data passes jsonargparse; a class of digits may be a number, and classes may be several."""
    datamodule = AnomalibDataModule.from_config(path)
    assert isinstance(datamodule, OneClassData)
    assert datamodule.val_split_mode == "none"
    assert AnomalibDataModule.from_config(path, **{"data.normal_class": "7"}).normal_classes == ["7"]
    several = AnomalibDataModule.from_config(path, **{"data.normal_class": "[7, b, '08']"})
    assert several.normal_classes == ["7", "b", "08"]


@pytest.mark.data
def test_white_blood_cells_have_the_papers_counts(data_root: Path) -> None:
    """METHODS: train floor(0.8 n) of 176, 53, 48 and 22, and the other 62 images for testing."""
    classes = ["neutrophil", "lymphocyte", "monocyte", "eosinophil"]
    train = {}
    for name in classes:
        datamodule = set_up(data_root / "wbc", name, classes=classes)
        train[name] = len(datamodule.train_data)
        assert len(datamodule.test_data) == 62
    assert train == {"neutrophil": 140, "lymphocyte": 42, "monocyte": 38, "eosinophil": 17}


@pytest.mark.data
def test_cifar10_has_the_official_counts(data_root: Path) -> None:
    """5000 to train, 1000 normal and 9000 anomalous to test."""
    datamodule = set_up(data_root / "cifar10", "frog")
    assert len(datamodule.train_data) == 5000
    assert datamodule.test_data.samples.label_index.value_counts().to_dict() == {0: 1000, 1: 9000}
