"""``panda-anomalib detect``: what it refuses, in one line and before the work."""

from pathlib import Path

import pytest

from panda_anomalib.cli import main


def _refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as stop:
        main(["detect", *arguments])
    return stop.value.code, capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def folders(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Normal images and others, as arguments."""
    monkeypatch.chdir(tmp_path)
    return ["--normal", str(photographs / "astronaut"), "--images", str(photographs / "coffee")]


def test_results_that_cannot_be_written(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A file stands in the way, of root as well."""
    Path("file").touch()
    code, line = _refusal(capsys, *folders, "--output", "file/results")
    assert code == 1
    assert line == (
        "error: output must be a folder one can write to, got 'file/results' (Not a directory); choose another output."
    )


def test_a_misspelt_backbone_is_a_wrong_argument(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made before it is told."""
    code, line = _refusal(capsys, *folders, "--backbone", "resnt18")
    assert code == 2
    assert line.startswith("error: backbone must be a timm model, got 'resnt18'; did you mean 'resnet18'")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--normla", "a"], "error: unknown option --normla; did you mean --normal?"),
        (["--pictures", "al"], "error: --pictures must be one of all, flagged, none, got 'al'; did you mean 'all'?"),
    ],
)
def test_misspelt_options_and_choices(
    arguments: list[str], line: str, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the nearest that exist."""
    assert _refusal(capsys, *folders, *arguments) == (2, line)


def test_a_folder_without_images(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It holds other things."""
    Path("other").mkdir()
    Path("other/notes.txt").write_text("no image")
    code, line = _refusal(capsys, "--normal", "other", *folders[2:])
    assert code == 1
    assert line.startswith("error: normal must ")
