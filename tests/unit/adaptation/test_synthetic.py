"""Altered copies of normal images: what moves, what stays, and that the same image is altered alike every time."""

import numpy as np
import pytest
import reference
import torch
from anomalib.data import ImageItem
from torch.utils.data import DataLoader, Dataset

from panda_anomalib.adaptation import synthetic


class Images(Dataset[ImageItem]):
    """Random images as anomalib's datasets give them."""

    def __init__(self, count: int = 6) -> None:
        self.images = torch.rand(count, 3, 22, 18, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> ImageItem:
        """A copy."""
        return ImageItem(image=self.images[index].clone(), image_path=f"{index}.png")


def test_shuffled_moves_the_pieces_of_a_grid() -> None:
    """Piece by piece as numpy does it; rows and columns beyond the grid stay."""
    image = Images().images[0]
    moved = synthetic.shuffled(image, np.random.default_rng(3))
    np.testing.assert_array_equal(moved, reference.shuffled(image.numpy(), np.random.default_rng(3).permutation(16)))
    assert not torch.equal(moved, image)


def test_pasted_copies_one_rectangle_of_the_right_area() -> None:
    """What changed fits a rectangle of 2 to 15 %, and every changed pixel comes from one shift of the image."""
    image = torch.rand(3, 60, 60, generator=torch.Generator().manual_seed(1))
    for seed in range(20):
        changed = synthetic.pasted(image, np.random.default_rng(seed))
        rows, columns = torch.nonzero((changed != image).any(dim=0), as_tuple=True)
        if not len(rows):
            continue  # copied onto itself
        top, left = rows.min(), columns.min()
        part = changed[:, top : rows.max() + 1, left : columns.max() + 1]
        height, width = part.shape[1:]
        assert height * width <= 0.16 * 60 * 60
        windows = image.unfold(1, height, 1).unfold(2, width, 1)  # (3, y, x, height, width)
        assert (windows == part[:, None, None]).all(dim=-1).all(dim=-1).all(dim=0).any()


def test_cropped_enlarges_a_part() -> None:
    """A ramp stays a ramp, of 0.3 to 0.6 times the slope."""
    ramp = torch.linspace(0, 1, 100).expand(3, 50, 100)
    for seed in range(10):
        enlarged = synthetic.cropped(ramp, np.random.default_rng(seed))
        assert enlarged.shape == ramp.shape
        slope = (enlarged[0, 25, 80] - enlarged[0, 25, 20]) / (ramp[0, 25, 80] - ramp[0, 25, 20])
        assert 0.28 < slope < 0.62


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_an_image_is_altered_alike_every_time(kind: str) -> None:
    """Alone, in a batch and in workers; the seed and the image decide, and the original is not touched."""
    images = Images()
    first = synthetic.SyntheticOutliers(images, [4, 1, 2], kind, seed=5)
    alone = [first[i].image for i in range(3)]
    loader: DataLoader[ImageItem] = DataLoader(first, batch_size=3, num_workers=1, collate_fn=list)
    in_workers = [item.image for item in next(iter(loader))]
    assert all(torch.equal(a, b) for a, b in zip(alone, in_workers, strict=True))
    assert torch.equal(synthetic.SyntheticOutliers(images, [2], kind, seed=5)[0].image, alone[2])
    assert not torch.equal(synthetic.SyntheticOutliers(images, [2], kind, seed=6)[0].image, alone[2])
    assert [first[i].image_path for i in range(3)] == ["4.png", "1.png", "2.png"]
    assert not torch.equal(alone[0], images.images[4])
    assert torch.equal(images[4].image, Images().images[4])
