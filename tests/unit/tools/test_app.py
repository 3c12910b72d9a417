"""``panda-anomalib app``: what it refuses at once."""

import importlib.util
import logging
from pathlib import Path

import pytest

from panda_anomalib import cli
from panda_anomalib.cli import main


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when the answer takes what imports anomalib."""
    monkeypatch.setattr(cli, "_configure_logging", lambda: pytest.fail("anomalib was asked for"))


def _refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["app", *arguments])
    assert stop.value.code in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_without_the_extra_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before the model is looked for."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else object())
    line = _refusal(capsys, str(tmp_path / "none"))
    assert line == "error: app needs the extra of that name; install it: pip install 'panda-anomalib[app]'"


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Said before anything is imported."""
    line = _refusal(capsys, str(tmp_path / "none"))
    assert line == f"error: model must be a checkpoint or a folder of runs, got '{tmp_path / 'none'}'; check it."


def test_ctrl_c_is_how_it_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not an error; and the options arrive."""
    asked: dict[str, object] = {}

    def serve(model: str, **options: object) -> None:
        asked.update(model=model, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_configure_logging", lambda: logging.getLogger(__name__))
    monkeypatch.setattr("panda_anomalib.app.serve", serve)
    main(["app", str(tmp_path), "--images", "new", "--port", "0"])
    assert asked == {"model": str(tmp_path), "images": "new", "host": "127.0.0.1", "port": 0}
