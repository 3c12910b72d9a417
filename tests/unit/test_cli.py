"""The command line in process: exit codes, one-line errors, seeds, optimizers, run folders."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from anomalib import LearningType
from anomalib.cli.pipelines import PIPELINE_REGISTRY
from anomalib.pipelines import Benchmark as AnomalibBenchmark
from PIL import Image
from skimage import data
from torch.utils.data import DataLoader

from panda_anomalib import cli
from panda_anomalib.cli import SUBCOMMANDS, main
from panda_anomalib.data import PredictImages
from panda_anomalib.models import Dn2

MODEL = [
    "--model",
    "Dn2",
    "--model.backbone",
    "test_resnet",
    "--model.weights",
    "random",
    "--model.visualizer",
    "false",
]
MODEL += ["--model.runtime", "channels_last"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUIET += ["--trainer.enable_model_summary", "false"]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of two photographs, ten each."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for name, picture in (("coffee", data.coffee()), ("astronaut", data.astronaut())):
        (root / name).mkdir(parents=True)
        for number in range(10):
            crop = picture[25 * number : 25 * number + 160, 100:260]
            Image.fromarray(crop).save(root / name / f"{number}.png")
    return root


def _data_of(photos: Path) -> list[str]:
    return ["--data", "OneClassFolder", "--data.root", str(photos), "--data.normal_class", "coffee"]


@pytest.fixture(scope="module")
def checkpoint(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of one training through the command line, in <root>/Dn2/photos/coffee/v0."""
    root = tmp_path_factory.mktemp("results")
    main(["train", *MODEL, *QUIET, *_data_of(photos), "--default_root_dir", str(root), "--seed_everything", "7"])
    return root / "Dn2/photos/coffee/v0/weights/lightning/model.ckpt"


def _run_of(checkpoint: Path) -> Path:
    return checkpoint.parents[2]


def _exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when the answer takes what imports anomalib."""

    def heavy() -> None:
        raise AssertionError("anomalib's command line was asked for")

    monkeypatch.setattr(cli, "_cli_class", heavy)
    monkeypatch.setattr(cli, "_configure_logging", heavy)


@pytest.mark.usefixtures("light")
def test_version_names_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each."""
    assert _exit_code("--version") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["panda_anomalib", "anomalib", "torch", "torchvision", "timm", "lightning"]


@pytest.mark.usefixtures("light")
def test_help_lists_the_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for: on stdout, 0. Instead of an answer to nothing: on stderr, 2."""
    assert _exit_code("--help") == 0
    shown = capsys.readouterr().out
    assert _exit_code() == 2
    instead = capsys.readouterr().err
    for text in (shown, instead):
        assert "panda-anomalib" in text
        assert all(name in text for name in SUBCOMMANDS)


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tran"], "error: subcommand must be one of .*, got 'tran'; did you mean 'train'?"),
        (["fit", "--model", "Dn2"], "error: fit needs --data (the name of a datamodule, such as OneClassFolder)"),
        (["train", "--data", "Folder"], "error: train needs --model (the name of a model, such as Dn2)"),
        (["predict", "--model=Dn2"], "error: predict needs --data (.* or a folder of images)"),
        (["test", "--model.k", "1"], "error: test needs --data"),
        (["export", "--export_type", "onnx"], "error: export needs --model"),
        (["train", "--modle", "Dn2", "--data", "Demo"], "error: unknown option --modle; did you mean --model?"),
        (["fisher", "--imges", "x", "--output", "y"], "error: unknown option --imges; did you mean --images?"),
        (["benchmark"], "error: the following arguments are required: -c/--config"),
        (["benchmark", "--confg", "x"], "error: unknown option --confg; did you mean --config?"),
        (
            ["install", "--option", "opnvino"],
            "error: --option must be one of .*, got 'opnvino'; did you mean 'openvino'?",
        ),
        (["detect", "--normla", "x", "--images", "y"], "error: unknown option --normla; did you mean --normal?"),
        (["train", "--config", "no.yaml"], "error: --config must be an existing file, got 'no.yaml'; check it."),
        (["train", "--model=no.yaml"], "error: --model must be an existing file, got 'no.yaml'; check it."),
        (["train", "-c", "."], "error: --config must be a file that can be read, got '.' (Is a directory); check it."),
    ],
)
def test_wrong_arguments_are_told_at_once(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, before anomalib is imported."""
    assert _exit_code(*arguments) == 2
    start, _, end = message.partition(".*")
    shown = capsys.readouterr().err
    assert shown.startswith(start)
    assert end in shown


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("content", [b"model: [a\n b: :", b"\xff\xfe\x00"])
def test_a_configuration_that_is_no_yaml_is_told_at_once(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with the place in the file."""
    (tmp_path / "bad.yaml").write_bytes(content)
    assert _exit_code("train", "--config", "bad.yaml") == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    assert shown.startswith("error: --config must be a YAML file, got 'bad.yaml': ")


def test_a_configuration_without_data_is_an_argument_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """anomalib: a MisconfigurationException in the middle of the run."""
    (tmp_path / "config.yaml").write_text("model: {class_path: Dn2}\n")
    assert _exit_code("train", "--config", str(tmp_path / "config.yaml")) == 2
    shown = capsys.readouterr().err
    assert shown == "error: --data must be given, on the command line or by --config.\n"


def test_demo_that_cannot_be_drawn_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A place that cannot be written to, and a demo that was altered: exit code 1, and the files as they were."""
    (tmp_path / "file").touch()
    assert _exit_code("train", *MODEL, *QUIET, "--data", "Demo", "--data.root", "file") == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: root must be a folder one can read and write, got 'file' (")
    (tmp_path / "demo/gravel").mkdir(parents=True)
    (tmp_path / "demo/gravel/mine.png").touch()
    assert _exit_code("train", *MODEL, *QUIET, "--data", "Demo", "--data.root", "demo", "--data.overwrite", "true") == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: 'demo/gravel' must hold nothing but demo images, got 'mine.png'; ")


def test_unknown_names_get_a_suggestion(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options, classes, values and backbones: one line each."""
    data = _data_of(photos)
    for arguments, line in (
        ([*MODEL, *data, "--trainer.max_epocs", "1"], "unknown option --trainer.max_epocs; did you mean --trainer."),
        ([*MODEL, "--model.scorr", "knn", *data], "unknown option --model.scorr of Dn2; did you mean --model.scorer?"),
        (["--model", "Dn3", *data], "--model must be the name of a model, got 'Dn3'; did you mean 'Dn2'?"),
        ([*MODEL, "--data", "OneClassFoldr"], "--data must be the name of a datamodule, got 'OneClassFoldr'; did you"),
        (
            [*MODEL, "--model.scorer", "knnn", *data],
            "--model.scorer must be one of knn, kmeans, center, whitening, ocsvm,",
        ),
        (["--model", "Dn2", "--model.backbone", "resnt18", *data], "backbone must be a timm model, got 'resnt18'; did"),
    ):
        assert _exit_code("train", *arguments, "--seed_everything", "false") == 2
        shown = capsys.readouterr().err
        assert len(shown.splitlines()) == 1
        assert shown.startswith(f"error: {line}")


def test_the_help_of_a_model_says_what_its_options_mean(capsys: pytest.CaptureFixture[str]) -> None:
    """It stands in the docstring of the constructor, where jsonargparse looks; no thousand subclasses of Module."""
    assert _exit_code("train", "--model.help", "Panda") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "Share of normal images that may be called anomalous; sets the threshold. (type: float, default: 0.05)" in shown
    )
    assert "Length of the training, whatever the number of images." in shown
    assert "torch.nn" not in shown


def _build(photos: Path, tmp_path: Path, *arguments: str, command: str = "train") -> object:
    return cli.PandaCLI(
        [command, *MODEL, *_data_of(photos), *arguments, "--default_root_dir", str(tmp_path)], run=False
    )


def test_short_help_and_registry_match_the_real_parser(photos: Path, tmp_path: Path) -> None:
    """The list shown without imports is the truth; anomalib keeps its own benchmark, in whose place ours is a tool."""
    built = _build(photos, tmp_path)
    assert set(built.subcommand_parsers) == set(SUBCOMMANDS)
    assert PIPELINE_REGISTRY["benchmark"] is AnomalibBenchmark


def test_seed_is_set_before_anything_is_built(photos: Path, tmp_path: Path) -> None:
    """Anomalib parses the number and leaves it: two models with the same seed then differ."""
    first, second = (_build(photos, tmp_path, "--seed_everything", "7") for _ in range(2))
    assert torch.initial_seed() == 7
    assert os.environ["PL_SEED_WORKERS"] == "1"
    weights = [torch.cat([p.flatten() for p in built.model.parameters()]) for built in (first, second)]
    assert torch.equal(*weights)


def test_random_seed_is_told_and_saved(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run without a seed can be repeated, too."""
    caplog.set_level(logging.INFO)
    seeds = {_build(photos, tmp_path).config["train"]["seed_everything"] for _ in range(2)}
    assert len(seeds) == 2
    for seed in seeds:
        assert f"--seed_everything {seed} repeats this run" in caplog.text


def test_no_seed_leaves_the_generators_alone(photos: Path, tmp_path: Path) -> None:
    """``false`` is none."""
    torch.manual_seed(11)
    _build(photos, tmp_path, "--seed_everything", "false")
    assert torch.initial_seed() == 11


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_seed_out_of_range_is_an_argument_error(seed: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lightning would raise in the middle."""
    assert _exit_code("train", *MODEL, *_data_of(photos), "--seed_everything", seed) == 2
    assert f"seed_everything must be from 0 to 4294967295, or true or false, got {seed}." in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "train"])
def test_optimizer_and_scheduler_are_honoured(command: str, photos: Path, tmp_path: Path) -> None:
    """Anomalib's ``train`` parses both and ignores them."""
    options = [
        "--optimizer",
        "SGD",
        "--optimizer.lr",
        "0.25",
        "--lr_scheduler",
        "StepLR",
        "--lr_scheduler.step_size",
        "3",
    ]
    (optimizer,), (scheduler,) = _build(photos, tmp_path, *options, command=command).model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["lr"] == 0.25
    assert scheduler.step_size == 3


def test_training_leaves_a_run_that_can_be_repeated(checkpoint: Path) -> None:
    """Checkpoint, metrics and the configuration with its seed."""
    assert checkpoint.is_file()
    assert yaml.safe_load((_run_of(checkpoint) / "config.yaml").read_text())["seed_everything"] == 7
    assert (_run_of(checkpoint) / "test/metrics.json").is_file()


def test_testing_keeps_the_configuration_of_the_training_and_logs_once(
    checkpoint: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The configuration is the run's; each line is shown once, warnings that mean nothing never."""
    before = (_run_of(checkpoint) / "config.yaml").read_text()
    root = str(checkpoint.parents[6])
    main(["test", *MODEL, *QUIET, *_data_of(photos), "--ckpt_path", str(checkpoint), "--default_root_dir", root])
    assert (_run_of(checkpoint) / "config.yaml").read_text() == before
    assert (_run_of(checkpoint) / "config.test.yaml").is_file()
    assert (_run_of(checkpoint) / "test-2/metrics.json").is_file()
    shown = capsys.readouterr().err
    assert shown.count("repeats") == 1
    assert shown.count("GPU available") == 1
    assert "litlogger" not in shown


def test_predict_and_export_stay_with_the_run(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    """A folder of images is scored in the run of the checkpoint, and the export lies beside the checkpoint."""
    given = ["--ckpt_path", str(checkpoint), "--default_root_dir", str(checkpoint.parents[6])]
    main(["predict", *MODEL, *QUIET, "--data", str(photos / "astronaut"), *given])
    table = pd.read_csv(_run_of(checkpoint) / "predict/predictions.csv")
    assert len(table) == 10
    main(["export", *MODEL, *QUIET, "--export_type", "torch", *given])
    assert (_run_of(checkpoint) / "weights/torch/model.pt").is_file()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["test", "validate", "predict", "export"])
def test_without_a_checkpoint_the_newest_is_named(
    command: str, checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the command that makes one, where there is none."""
    rest = ["--export_type", "torch"] if command == "export" else _data_of(photos)
    if command == "predict":
        rest = ["--data", str(photos)]
    assert _exit_code(command, *MODEL, *rest, "--default_root_dir", str(checkpoint.parents[6])) == 2
    shown = capsys.readouterr().err
    assert f"{command} needs --ckpt_path, the checkpoint of a trained Dn2" in shown
    assert str(checkpoint) in shown
    assert _exit_code(command, *MODEL, *rest, "--default_root_dir", str(tmp_path)) == 2
    assert "make one with: panda-anomalib train --model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missing_checkpoint_is_told_before_data_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 1, though the data is missing as well."""
    arguments = ["test", *MODEL, *_data_of(tmp_path / "none"), "--ckpt_path", str(tmp_path / "no.ckpt")]
    assert _exit_code(*arguments) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ckpt_path must be an existing file")


def test_refused_input_is_one_line_unless_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What our code raises is told without a traceback; an environment variable brings it back."""
    arguments = ["fit", *MODEL, *QUIET, *_data_of(tmp_path / "none"), "--default_root_dir", str(tmp_path)]
    assert _exit_code(*arguments) == 1
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1].startswith("error: root must be")
    assert "Traceback" not in shown
    monkeypatch.setenv("PANDA_ANOMALIB_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="root must be"):
        main(arguments)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Put an action in the place of the command line."""
    monkeypatch.setattr(cli, "_configure_logging", lambda: None)
    return lambda action: monkeypatch.setattr(cli, "_cli_class", lambda: lambda _: action())


def test_errors_of_others_keep_their_traceback(command: Callable[[Callable[[], object]], None]) -> None:
    """A ValueError from outside this package is not ours to shorten."""
    command(lambda: int("seven"))
    with pytest.raises(ValueError, match="seven"):
        main(["install"])


def test_errors_of_loading_processes_are_told_in_one_line(
    command: Callable[[Callable[[], object]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker hands over its traceback as text; only the message is shown."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    loader = DataLoader(PredictImages(tmp_path), num_workers=1)
    command(lambda: next(iter(loader)))
    assert _exit_code("install") == 1
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    assert shown.startswith("error: ")
    assert "broken.png" in shown


def test_interruption_exits_with_130(
    command: Callable[[Callable[[], object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Directly, and through Lightning, which makes an exit with code 1 of it."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    def interrupted_in_lightning() -> None:
        try:
            interrupted()
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904 - as Lightning does

    for action in (interrupted, interrupted_in_lightning):
        command(action)
        assert _exit_code("install") == 130
        shown = capsys.readouterr().err
        assert shown == "interrupted; no file is left half-written, and what was there before is as it was.\n"


def test_models_that_need_no_training_need_no_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check asks the model how it learns."""
    monkeypatch.setattr(Dn2, "learning_type", LearningType.ZERO_SHOT)
    assert _build(photos, tmp_path, command="test").model.learning_type is LearningType.ZERO_SHOT
