"""Every configuration of a model, of data, and the quickstart runs through our command line, on small photographs."""

import inspect
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from skimage import data

import panda_anomalib.data
from panda_anomalib import Demo, Dn2
from panda_anomalib.cli import main
from panda_anomalib.data import Wbc

CONFIGS = Path(__file__).parents[2] / "configs"
# models and data of single images: sets have a test of their own
MODELS = [path for path in sorted((CONFIGS / "model").glob("*.yaml")) if path.stem != "dn2_set"]
DATA = [path for path in sorted((CONFIGS / "data").glob("*.yaml")) if path.stem != "image_sets"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUIET += ["--trainer.enable_model_summary", "false", "--seed_everything", "0"]
QUICK = ["--model.visualizer", "false", "--model.runtime", "channels_last"]
# What a file asks for that a test without network cannot have (the papers' weights are on the hub), or has no time for.
SHORT = {"minibatches": 6}  # one interval of snapshots, where a pass is one minibatch
REPLACED: dict[str, dict[str, Any]] = {
    "dn2_paper": {"backbone": "resnet18", "weights": "random"},
    "panda": SHORT,
    "panda_ewc": SHORT,
    "panda_joint": {**SHORT, "labelled": "photos/labelled"},
    "panda_oe": {**SHORT, "outliers": "photos/test/astronaut"},
    "panda_paper": {**SHORT, "backbone": "resnet18", "weights": "random"},
    "panda_recommended": {**SHORT, "outliers": "photos/test/astronaut"},
    "panda_ses": SHORT,
}


def _crops(folder: Path, picture: Any, count: int, left: int = 150) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        top = 12 * number
        Image.fromarray(picture[top : top + 64, left : left + 64]).save(folder / f"{number:02}.png")


def _train(*arguments: str, root: Path) -> Path:
    """Run folder of a training and test."""
    main(["train", *arguments, *QUIET, "--default_root_dir", str(root)])
    (checkpoint,) = root.rglob("v0/weights/lightning/model.ckpt")
    return checkpoint.parents[2]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_model_configuration_trains(path: Path, tmp_path: Path) -> None:
    """Its arguments reach the model that is trained, and the model finds another photograph farther away."""
    _crops(tmp_path / "photos/train/coffee", data.coffee(), 24)  # more than the 10 means of dn2_kmeans
    _crops(tmp_path / "photos/test/coffee", data.coffee(), 4, left=160)
    _crops(tmp_path / "photos/test/astronaut", data.astronaut(), 4)
    replaced = dict(REPLACED.get(path.stem, {}))
    for folder in {"labelled", "outliers"} & replaced.keys():
        replaced[folder] = str(tmp_path / replaced[folder])
    if "labelled" in replaced:
        for number in range(1000):  # the classes of the classifier
            _crops(tmp_path / f"photos/labelled/{number:03}", data.coffee(), 1)
    options = [word for name, value in replaced.items() for word in (f"--model.{name}", str(value))]
    images = ["--data", "OneClassFolder", "--data.root", str(tmp_path / "photos"), "--data.normal_class", "coffee"]
    run = _train("--model", str(path), *options, *QUICK, *images, root=tmp_path / "results")

    expected = {**yaml.safe_load(path.read_text())["init_args"], **replaced}
    saved = torch.load(run / "weights/lightning/model.ckpt", weights_only=True)["hyper_parameters"]
    assert {name: saved[name] for name in expected} == expected
    table = pd.read_csv(run / "test/predictions.csv")
    assert sorted(table["label"]) == [0] * 4 + [1] * 4
    normal, anomalous = table.groupby("label")["distance"].mean()
    assert anomalous > normal


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_data_configuration_is_read(path: Path, tmp_path: Path) -> None:
    """On a tree of the layout that it describes, it gives the split that it describes."""
    config = yaml.safe_load(path.read_text())
    arguments, kind = config["init_args"], getattr(panda_anomalib.data, config["class_path"].rpartition(".")[2])
    normal, root = arguments["normal_class"], tmp_path / Path(arguments["root"]).name
    known = getattr(kind, "known", ())
    assert normal in (known or [normal])
    others = [name for name in known[:4] or ["other"] if name != normal]
    drawn = "test_split_ratio" in arguments or kind is Wbc  # otherwise the split lies on disk
    for name in (normal, *others):
        if drawn:
            _crops(root / name, data.coffee(), 10)
        else:
            _crops(root / "train" / name, data.coffee(), 8)
            _crops(root / "test" / name, data.coffee(), 2)
    model = ["--model", "Dn2", "--model.backbone", "test_resnet", "--model.weights", "random", *QUICK]
    run = _train(*model, "--data", str(path), "--data.root", str(root), root=tmp_path / "results")

    assert run.parent == tmp_path / "results/Dn2" / arguments.get("name", root.name) / normal
    saved = torch.load(run / "weights/lightning/model.ckpt", weights_only=True)
    assert len(saved["panda_anomalib"]["training_paths"]) == 8
    assert {Path(name).parent.name for name in saved["panda_anomalib"]["training_paths"]} == {normal}
    table = pd.read_csv(run / "test/predictions.csv")
    folders = table["path"].map(lambda name: Path(name).parent.name)
    assert folders.value_counts().to_dict() == dict.fromkeys((normal, *others), 2)
    assert folders[table["label"] == 0].unique().tolist() == [normal]


def test_configurations_of_sets_train(tmp_path: Path) -> None:
    """Those of the model and of its data, together; predict scores the same sets alike."""
    pictures = {"astronaut": data.astronaut(), "coffee": data.coffee(), "rocket": data.rocket()}
    for part, left in (("train", 150), ("test", 165)):
        for name, picture in pictures.items():
            _crops(tmp_path / "photos" / part / name, picture, 6, left=left)
    configs = ["--model", str(CONFIGS / "model/dn2_set.yaml"), "--data", str(CONFIGS / "data/image_sets.yaml")]
    root = ["--data.root", str(tmp_path / "photos")]
    small = ["--data.set_size", "3", "--data.num_train", "30", "--data.num_test", "8"]
    run = _train(*configs, *root, *small, *QUICK, root=tmp_path / "results")
    expected = yaml.safe_load((CONFIGS / "model/dn2_set.yaml").read_text())["init_args"]
    saved = torch.load(run / "weights/lightning/model.ckpt", weights_only=True)["hyper_parameters"]
    assert {name: saved[name] for name in expected} == expected
    assert run.parent == tmp_path / "results/Dn2Set/photos/one_of_each-3"
    table = pd.read_csv(run / "test/predictions.csv")
    assert sorted(table["label"]) == [0] * 8 + [1] * 8
    normal, anomalous = table.groupby("label")["distance"].mean()
    assert anomalous > normal
    checkpoint = ["--ckpt_path", str(run / "weights/lightning/model.ckpt")]
    place = ["--default_root_dir", str(tmp_path / "results")]
    same = ["--data", "ImageSets", "--data.kind", "one_of_each"]  # predict takes no file of data with options beside it
    main(["predict", "--model", "Dn2Set", *QUICK, *same, *root, *small, *checkpoint, *QUIET, *place])
    predicted = pd.read_csv(next(tmp_path.rglob("predict/predictions.csv")))
    assert predicted["distance"].tolist() == pytest.approx(table["distance"].tolist(), rel=1e-6)
    assert predicted["images"].tolist() == table["images"].tolist()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "folder"),
    [("cifar10", "cifar10"), ("fashion_mnist", "fashion_mnist_1000"), ("mvtec", "mvtec_screw_512"), ("wbc", "wbc")],
)
def test_data_configuration_names_real_classes(name: str, folder: str, data_root: Path) -> None:
    """The class that it names is a folder of the data that it is for."""
    arguments = yaml.safe_load((CONFIGS / f"data/{name}.yaml").read_text())["init_args"]
    root = data_root / folder
    classes = root / "train" if (root / "train").is_dir() else root
    for class_name in (arguments["normal_class"], *arguments.get("classes", [])):
        assert (classes / class_name).is_dir(), class_name


def test_quickstart_is_the_first_command_and_finds_the_defects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what ``train --model Dn2 --data Demo`` means, reaches what it promises, and tells where everything is."""
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", str(CONFIGS / "quickstart.yaml"), "--model.runtime", "channels_last", *QUIET[:-2]]
    main(["train", *arguments])
    out = capsys.readouterr().out
    config = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
    for part, implied in (("model", Dn2), ("data", Demo)):
        assert config[part]["class_path"].rpartition(".")[2] == implied.__name__
        defaults = inspect.signature(implied).parameters
        assert config[part]["init_args"] == {name: defaults[name].default for name in config[part]["init_args"]}

    run = tmp_path / "results/Dn2/Demo/gravel/v0"
    metrics = json.loads((run / "test/metrics.json").read_text())
    assert metrics["metrics"]["image_AUROC"] >= 0.95
    assert metrics["false_alarms"] <= 12  # of 60: the test images show other stones than the training images
    pictures = sorted((run / "test/images").rglob("*.png"))
    assert len(pictures) == 120
    with Image.open(pictures[0]) as picture:
        assert picture.width == 880
    for line in (
        f"Everything is in {run / 'test'}: all at a glance in overview.png, a picture of every verdict in images",
        f"The trained model is {run / 'weights/lightning/model.ckpt'}",
        "panda-anomalib detect --normal good/ --images new/",
        "panda-anomalib train --model Panda --data Demo",
    ):
        assert line in out
