"""Folders as classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from panda_anomalib.adaptation.labelled import LabelledImages


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes; what is no class beside them."""
    for label, name in enumerate(["002_c", "000_a", "001_b"]):
        (tmp_path / name / "deep").mkdir(parents=True)
        for i in range(label + 1):
            Image.fromarray(np.full((4, 5, 3), 10 * label + i, np.uint8)).save(tmp_path / name / "deep" / f"{i}.png")
    (tmp_path / "index.txt").touch()
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_sorted_folders_are_the_classes(root: Path) -> None:
    """Labels by folder name, images by path, read truthfully, transformed."""
    images = LabelledImages(root, lambda image: image * 2, 3)
    assert images.classes == ["000_a", "001_b", "002_c"]
    assert [label for _, label in images] == [0, 0, 1, 1, 1, 2]
    assert [round(image.max().item() * 255 / 2) for image, _ in images] == [10, 11, 20, 21, 22, 0]
    assert images[0][0].shape == (3, 4, 5)
    assert images[0][0].dtype == torch.float32


def test_folders_that_do_not_match(root: Path) -> None:
    """Another number, none, an empty one."""
    with pytest.raises(ValueError, match="a folder for each of the classifier's 1000 classes, in its order, got 3"):
        LabelledImages(root, torch.abs, 1000)
    with pytest.raises(ValueError, match="root must hold labelled images, a folder for each class, got no folder"):
        LabelledImages(root / "000_a" / "deep", torch.abs, 3)
    (root / "003_d").mkdir()
    with pytest.raises(ValueError, match=r"in every class folder, got none in 1, such as .*003_d"):
        LabelledImages(root, torch.abs, 4)
    with pytest.raises(FileNotFoundError, match="root must be an existing folder"):
        LabelledImages(root / "none", torch.abs, 3)
