"""Test images that are nearly the same as a training image: what is learnt by heart looks like what is understood."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from panda_anomalib.adaptation.near_duplicates import record_images
from panda_anomalib.atomic import write_atomically
from panda_anomalib.benchmark.checks.check import Check
from panda_anomalib.data.reading import read_image
from panda_anomalib.scorers.search import mean_and_norms, nearest

__all__ = ["DUPLICATES", "check_duplicates"]

DUPLICATES = "near-duplicates of training images in the test set"
"""Name of the check."""

_CANDIDATES = 200  # test images nearest to a training image, whose pixels are compared
_SHARE_OF_SPACING = 0.25  # as for copies among outliers, see `panda_anomalib.adaptation.near_duplicates`
_SPACING_SAMPLE = 500
_BLOCK = 512
_MOST_PICTURES = 8
_SIDE = 128  # pixels of an image in a picture


def check_duplicates(
    train: Sequence[str], test: Sequence[str], embeddings: tuple[Tensor, Tensor] | None, folder: Path, place: str
) -> Check:
    """Count pairs of a training and a test image that show the same picture.

    Embeddings propose for each test image the training image that is nearest; of the nearest pairs thumbnails of 8 x 8
    pixels are compared. A pair counts where they are four times nearer than training images typically are to each
    other. Without embeddings the thumbnails propose, too.

    Shapes: embeddings ``(N, D)`` and ``(M, D)``.

    Args:
        train: Paths of N training images.
        test: Paths of M test images.
        embeddings: Of both; None if there are none.
        folder: Of the results.
        place: Folder of the pictures inside it.

    Raises:
        ValueError: If images cannot be read.
    """
    if len(train) < 2:
        return Check(DUPLICATES, "not run", None, "One training image tells no spacing to compare with.")
    how = "by embedding and pixels" if embeddings is not None else "by pixels only, as there are no embeddings"
    queries, bank = (
        (embeddings[1], embeddings[0]) if embeddings is not None else (_thumbnails(test), _thumbnails(train))
    )
    near, partners = _nearest(queries, bank)
    chosen = near.argsort()[:_CANDIDATES].tolist()
    tested = _thumbnails([test[position] for position in chosen])
    known = _thumbnails([train[int(partners[position])] for position in chosen])
    apart = (tested - known).square().sum(dim=1).sqrt()
    limit = _SHARE_OF_SPACING * _spacing(train)
    pairs = [
        (train[int(partners[position])], test[position])
        for position, distance in zip(chosen, apart.tolist(), strict=True)
        if distance < limit
    ]
    pictures = [_draw(folder, place, number, pair) for number, pair in enumerate(pairs[:_MOST_PICTURES], start=1)]
    text = f"{len(pairs)} of {len(test)} test images show nearly what a training image shows, {how}"
    text += f"; no more than the {_CANDIDATES} nearest were looked at." if len(pairs) == _CANDIDATES else "."
    return Check(DUPLICATES, "warning" if pairs else "ok", len(pairs), text, pictures)


def _thumbnails(paths: Sequence[str]) -> Tensor:
    return torch.stack([record.thumbnail for record in record_images(paths, "Thumbnails for the checks")])


def _spacing(train: Sequence[str]) -> float:
    """Median distance of thumbnails of training images to the nearest other one."""
    step = max(1, len(train) // _SPACING_SAMPLE)
    thumbnails = _thumbnails(train[::step])
    mean, norms = mean_and_norms(thumbnails)
    own = torch.arange(len(thumbnails))
    return float(nearest(thumbnails, thumbnails, mean, norms, 1, exclude=own)[0][:, 0].sqrt().median())


def _nearest(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Distance ``(M,)`` of each query to the nearest row of the bank, and its position."""
    mean, norms = mean_and_norms(bank)
    found = [nearest(rows, bank, mean, norms, 1) for rows in queries.split(_BLOCK)]
    return torch.cat([values[:, 0] for values, _ in found]), torch.cat([positions[:, 0] for _, positions in found])


def _draw(folder: Path, place: str, number: int, pair: tuple[str, str]) -> str:
    """A pair side by side, the training image on the left; returns the path inside the folder."""
    relative = f"{place}/{number}-train-{Path(pair[0]).stem}-test-{Path(pair[1]).stem}.png"
    canvas = Image.new("RGB", (2 * _SIDE + 4, _SIDE), "white")
    for column, path in enumerate(pair):
        image = to_pil_image(read_image(path)).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
        canvas.paste(image, (column * (_SIDE + 4), 0))
    (folder / relative).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / relative, canvas.save)
    return relative
