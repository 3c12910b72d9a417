"""Images of the tests of models."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of two photographs in class folders, of differing shapes: 40 astronaut (normal), 12 coffee."""
    from skimage import data

    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name, image, count in (("astronaut", data.astronaut(), 40), ("coffee", data.coffee(), 12)):
        (root / name).mkdir()
        for i in range(count):
            top, left = rng.integers(0, 200, 2)
            height, width = rng.integers(100, 180, 2)
            Image.fromarray(image[top : top + height, left : left + width]).save(root / name / f"{i:02}.png")
    return root
