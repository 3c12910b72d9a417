"""``panda-anomalib bank``: arguments, what it prints, exit codes."""

import csv
import io
import shutil
from pathlib import Path

import pytest
import torch
from runs import engine, one_class, seeded

from panda_anomalib import Dn2
from panda_anomalib.bank import list_images
from panda_anomalib.cli import main


@pytest.fixture(scope="module")
def fitted(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of 30 normal images."""
    run = engine(tmp_path_factory.mktemp("fitted"))
    run.fit(seeded(Dn2), datamodule=one_class(photographs))
    return Path(run.best_model_path)


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    """A copy of it where a run would have it."""
    folder = tmp_path / "run/weights/lightning"
    folder.mkdir(parents=True)
    return Path(shutil.copy(fitted, folder / "model.ckpt"))


def test_add_and_remove_say_what_they_did(model: Path, photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers, thresholds, how embeddings were made, what was left out, and which files are out of date."""
    exported = model.parents[1] / "onnx/model.onnx"
    exported.parent.mkdir()
    exported.touch()
    before = torch.load(model, weights_only=True)["state_dict"]["post_processor.threshold"]
    copied = model.parent / "copy.png"
    shutil.copy(photographs / "astronaut/00.png", copied)
    good = list_images(model)["path"][0]
    coffee = [str(photographs / f"coffee/0{number}.png") for number in range(3)]
    main(["bank", "add", str(model), *coffee, good, str(copied), "--duplicates", "skip"])
    after = torch.load(model, weights_only=True)["state_dict"]["post_processor.threshold"]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Added 3 images: the bank has grown from 30 to 33 images.",
        "In the bank already: 1 image.",
        "Left out, as exact copies: 1 image.",
        f"  {copied}",
        f"Threshold: {after:.6g}, was {before:.6g}.",
        "Embeddings: by eager, in batches of 8, as in the fit: of 4 images of the bank they came out bit for bit.",
        f"Written: {model}",
        "Exported files have the bank as it was; export again:",
        f"  {exported}",
    ]
    main(["bank", "remove", str(model), *coffee])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "Removed 3 images: the bank has shrunk from 33 to 30 images.",
        *(f"  {path}" for path in coffee),
        f"Threshold: {before:.6g}, was {after:.6g}.",
    ]
    main(["bank", "add", str(model), good])
    assert capsys.readouterr().out == (
        "Nothing to add: the bank has 30 images as before.\nIn the bank already: 1 image.\n"
    )


def test_list_for_people_and_for_machines(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same order; whole hashes as CSV."""
    table = list_images(model)
    main(["bank", "list", str(model), "--csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["path"] for row in rows] == list(table["path"])
    assert [float(row["p_value"]) for row in rows] == pytest.approx(list(table["p_value"]))
    assert rows[0]["sha256"] == table["sha256"][0]
    main(["bank", "list", str(model), "--first", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for line, path in zip(lines[1:], table["path"], strict=False):
        assert line.endswith(f"  {path}")
    assert lines[1].split()[0] == f"{1 / 30:.4f}"


def test_check_decides_the_exit_code(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1 if something is wrong, and only then."""
    main(["bank", "check", str(model)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok     file       whole, ")
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(SystemExit) as stop:
        main(["bank", "check", str(model)])
    assert stop.value.code == 1
    assert capsys.readouterr().out.startswith("wrong  file       damaged: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: ACTION"),
        (["ad"], "ACTION must be one of add, remove, list, check, got 'ad'; did you mean 'add'?"),
        (["add", "m.ckpt"], "the following arguments are required: IMAGES"),
        (["add", "m.ckpt", "a.png", "--duplicate", "skip"], "unknown option --duplicate; did you mean --duplicates?"),
        (["list", "m.ckpt", "--cvs"], "unknown option --cvs; did you mean --csv?"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one line."""
    with pytest.raises(SystemExit) as stop:
        main(["bank", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "{model}", "nowhere.png"], "error: path must be an existing image or folder, got 'nowhere.png'"),
        (["remove", "{model}", "nowhere.png"], "error: images must be in the bank, by path, folder or hash, got 'nowh"),
        (["list", "nothing.ckpt"], "error: ckpt_path must be an existing file, got 'nothing.ckpt'"),
        (["list", "{model}", "--first", "0"], "error: first must be at least 1, got 0"),
    ],
)
def test_bad_input_is_told_in_one_line(
    arguments: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1."""
    with pytest.raises(SystemExit) as stop:
        main(["bank", *(argument.format(model=model) for argument in arguments)])
    assert stop.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)


@pytest.mark.parametrize("action", [None, "add", "remove", "list", "check"])
def test_help_has_an_example(action: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the very action, and nothing heavy is needed to show it."""
    with pytest.raises(SystemExit) as stop:
        main(["bank", *([action] if action else []), "--help"])
    assert stop.value.code == 0
    assert f"panda-anomalib bank {action or 'add'} results/Dn2/" in " ".join(capsys.readouterr().out.split())
