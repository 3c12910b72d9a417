"""Which files are images, and the dataset for prediction."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from panda_anomalib.data import PredictImages
from panda_anomalib.data.files import find_images


def save(path: Path, grey: int = 0, size: tuple[int, int] = (6, 4)) -> Path:
    """Write a plain grey image, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


def test_images_are_found_below_but_not_hidden_ones(tmp_path: Path) -> None:
    """Any case and depth; no hidden files or folders, no other kinds."""
    expected = [save(tmp_path / name) for name in ("a/1.png", "a/2.JPG", "b.webp")]
    for name in (".hidden.png", "._a.png", ".cache/c.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "x.png").mkdir()  # a folder with the name of an image
    assert find_images(tmp_path) == expected


def test_linked_folders_are_searched(tmp_path: Path) -> None:
    """Classes are often put together from links."""
    save(tmp_path / "elsewhere/1.png")
    (tmp_path / "class").mkdir()
    (tmp_path / "class/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert find_images(tmp_path / "class") == [tmp_path / "class/linked/1.png"]


def test_predict_folder_file_and_list(tmp_path: Path) -> None:
    """Folders are searched, single files taken, lists joined; each image once, sorted."""
    first, second = save(tmp_path / "in/b/1.png"), save(tmp_path / "in/2.png")
    third = save(tmp_path / "3.png")
    assert PredictImages(tmp_path / "in").paths == [second, first]
    assert PredictImages(str(third)).paths == [third]
    assert PredictImages([third, tmp_path / "in", second]).paths == [third, second, first]  # each once


def test_predict_items_are_augmented_and_collated(tmp_path: Path) -> None:
    """The pre-processor puts its geometry on ``augmentations``; batches keep the order."""
    paths = [save(tmp_path / f"{grey}.png", grey) for grey in (51, 102)]
    dataset = PredictImages(tmp_path)
    assert len(dataset) == 2
    assert dataset[0].image.shape == (3, 4, 6)
    dataset.augmentations = Resize((8, 8))
    (batch,) = DataLoader(dataset, batch_size=2, collate_fn=dataset.collate_fn)
    assert batch.image.shape == (2, 3, 8, 8)
    torch.testing.assert_close(batch.image.mean(dim=(1, 2, 3)), torch.tensor([0.4, 0.2]))  # "102.png" sorts first
    assert batch.image_path == [str(path) for path in sorted(paths)]
    assert batch.gt_label is None


def test_predict_errors(tmp_path: Path) -> None:
    """A wrong path, a folder without images, an empty list and another kind of file are told apart."""
    with pytest.raises(FileNotFoundError, match=r"path must be an existing image or folder, got '.*missing'"):
        PredictImages(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"path must hold images \(\.jpg .*\), got none in '.*'; add some"):
        PredictImages(tmp_path)
    with pytest.raises(ValueError, match="got none in an empty list"):
        PredictImages([])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"path must name images \(\.jpg .*\), got '.*notes\.txt'; convert it"):
        PredictImages(tmp_path / "notes.txt")
