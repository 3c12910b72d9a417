"""Suggestions for what was misspelt."""

from pathlib import Path

import pytest

from panda_anomalib.commands import nearest_path


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ("imges/good", "; did you mean 'images/good'?"),  # a folder on the way
        ("images/god", "; did you mean 'images/good'?"),
        ("images/good/1.pgn", "; did you mean 'images/good/1.png'?"),
        ("imges/bad", "; check it."),  # the nearest folder has none of that name
        ("elsewhere", "; check it."),
    ],
)
def test_nearest_path_exists(given: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suggestion can be copied."""
    (tmp_path / "images/good").mkdir(parents=True)
    (tmp_path / "images/good/1.png").touch()
    monkeypatch.chdir(tmp_path)
    assert nearest_path(Path(given)) == end
    assert nearest_path(tmp_path / given) == end.replace("'images", f"'{tmp_path}/images")
