"""Small copies of pictures of every kind, and words where there is no picture."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from panda_anomalib.benchmark.report.thumbnails import thumbnail


def opened(jpeg: bytes | None) -> Image.Image:
    """The picture in these bytes."""
    assert jpeg is not None
    return Image.open(io.BytesIO(jpeg))


def test_size_and_name(tmp_path: Path) -> None:
    """The longer side becomes the size; a small picture is not blown up; the name has the folder."""
    (tmp_path / "test").mkdir()
    Image.new("RGB", (400, 200), "teal").save(tmp_path / "test/a.png")
    jpeg, name = thumbnail(tmp_path / "test/a.png", size=100)
    assert opened(jpeg).size == (100, 50)
    assert name == "test/a.png"
    Image.new("RGBA", (32, 30), "teal").save(tmp_path / "small.png")
    assert opened(thumbnail(tmp_path / "small.png")[0]).size == (32, 30)


def test_deep_grey_is_spread(tmp_path: Path) -> None:
    """Twelve bits in sixteen are not black."""
    levels = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    shown = np.asarray(opened(thumbnail(tmp_path / "deep.png")[0]))
    assert shown.min() < 10
    assert shown.max() > 245


def test_what_is_no_picture(tmp_path: Path) -> None:
    """Missing, damaged and half a file, each in a few words."""
    assert thumbnail(tmp_path / "x/gone.png") == (None, "x/gone.png: moved or deleted")
    (tmp_path / "text.png").write_text("no picture")
    jpeg, why = thumbnail(tmp_path / "text.png")
    assert (jpeg, why.endswith("text.png: cannot be read")) == (None, True)
    Image.new("RGB", (400, 200), "teal").save(tmp_path / "half.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:400])
    assert thumbnail(tmp_path / "half.jpg")[0] is None
