"""The table and the picture of what cleaning has removed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from panda_anomalib import removed_images
from panda_anomalib.removed_images import draw_removed


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    """50 red images, each beside a blue one; the file of the second is gone."""
    for name, color in (("red", "#FF0000"), ("blue", "#0000FF")):
        Image.new("RGB", (40, 40), color).save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / ("gone.png" if number == 1 else "red.png")) for number in range(50)]
    distances = np.linspace(9, 1, 50)
    return pd.DataFrame({"path": paths, "distance": distances, "nearest": str(tmp_path / "blue.png")})


def middle(picture: Image.Image, number: int, *, nearest: bool = False) -> tuple[int, ...]:
    """Colour in the middle of a tile."""
    r = removed_images
    x = r._MARGIN + number % r._PER_ROW * (r._PAIR + r._MARGIN) + r._TILE // 2 + nearest * (r._TILE + r._GAP)
    y = r._HEADER + number // r._PER_ROW * (r._TILE + r._TEXT) + r._TILE // 2
    return tuple(np.asarray(picture)[y, x].tolist())


def test_each_is_drawn_beside_its_nearest_kept_image(rows: pd.DataFrame) -> None:
    """In their order; a file that is gone is a grey tile."""
    picture = draw_removed(rows.head(6), 60)
    assert [middle(picture, number) for number in (0, 5)] == [(255, 0, 0)] * 2
    assert middle(picture, 1) not in {(255, 0, 0), (255, 255, 255)}
    assert [middle(picture, number, nearest=True) for number in range(6)] == [(0, 0, 255)] * 6


def test_a_page_holds_the_most_unusual_ones(rows: pd.DataFrame) -> None:
    """48 of 50: twelve lines of four."""
    assert draw_removed(rows, 60).size == draw_removed(rows.head(48), 60).size
    assert draw_removed(rows.head(44), 60).height < draw_removed(rows, 60).height
