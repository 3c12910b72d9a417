"""Demo data, made offline from photographs that ship with scikit-image: gravel, with and without drawn defects."""

import argparse
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["make_demo"]

Pixels = NDArray[np.float32]  # grey, 0 to 255

_CROP, _SIDE = 160, 224  # pixels in the photograph, and of the image made of them
_TRAIN_ROWS, _TEST_ROWS = (0, 320), (320, 512)  # of the photograph: no pixel is in both
_NUM_TRAIN, _NUM_GOOD, _NUM_DEFECT = 120, 40, 40
_README = """Demo data of panda_anomalib: normal images are crops of one photograph of gravel, training and test images
from different parts of it; defects are drawn into other crops of the test part. crops.csv says where each crop lies
(pixels from the left and the top), how it is turned (quarter turns, then mirrored or not) and lit, and what was drawn.
Photographs: gravel, grass and brick of skimage.data, from CC0Textures, licence CC0.
"""


def make_demo(root: str | Path, *, seed: int = 0) -> Path:
    """Write 120 training images, 40 normal and 40 defective test images of gravel, in a few seconds and offline.

    The folders are train/good, test/good and test/defect, for `OneClassFolder(root, normal_class="good")`.
    Defects are scratches, stains, foreign matter and bare ground. Files that are already there are left as they are.

    Args:
        root: Folder to write to; made if missing.
        seed: The same seed gives the same images.

    Returns:
        The folder.

    Raises:
        FileExistsError: If the folder holds anything but files of this demo, unchanged.
    """
    root = Path(root)
    files = _draw_files(seed)
    for path in sorted(root.rglob("*")) if root.exists() else []:
        inside = path.relative_to(root).as_posix()
        if not path.is_dir() and (inside not in files or path.read_bytes() != files[inside]):
            raise FileExistsError(
                f"root must be empty or hold this demo unchanged, got '{path}'; choose another folder.",
            )
    for inside, content in files.items():
        path = root / inside
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def _draw_files(seed: int) -> dict[str, bytes]:
    from skimage import data  # not at the top: only the demo needs it

    photographs: Any = data  # untyped
    photo, grass, brick = (Image.fromarray(getattr(photographs, name)()) for name in ("gravel", "grass", "brick"))
    rng = np.random.default_rng(seed)
    defects: dict[str, Callable[[Pixels], Pixels]] = {
        "scratch": lambda pixels: _add_scratch(pixels, rng),
        "stain": lambda pixels: _add_stain(pixels, rng),
        "foreign": lambda pixels: _add_foreign(pixels, grass if rng.random() < 0.5 else brick, rng),
        "bare": lambda pixels: _add_bare_ground(pixels, rng),
    }
    kinds = list(defects)
    jobs = [("train/good", _TRAIN_ROWS, "")] * _NUM_TRAIN + [("test/good", _TEST_ROWS, "")] * _NUM_GOOD
    jobs += [("test/defect", _TEST_ROWS, kinds[index % len(kinds)]) for index in range(_NUM_DEFECT)]

    files = {"README.txt": _README.encode()}
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["path", "left", "top", "side", "turns", "mirrored", "light", "defect"])
    for index, (folder, (first, last), kind) in enumerate(jobs):
        left, top = int(rng.integers(0, photo.width - _CROP + 1)), int(rng.integers(first, last - _CROP + 1))
        turns, mirrored, light = int(rng.integers(4)), int(rng.integers(2)), round(float(rng.uniform(0.9, 1.1)), 3)
        crop = photo.crop((left, top, left + _CROP, top + _CROP)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        pixels = np.rot90(np.asarray(crop, dtype=np.float32), turns)
        pixels = pixels[:, ::-1] if mirrored else pixels
        if kind:
            pixels = defects[kind](pixels)
        path = f"{folder}/{kind or 'gravel'}_{index:03d}.png"
        files[path] = _encode(pixels * light)
        rows.writerow([path, left, top, _CROP, turns, mirrored, light, kind])
    files["crops.csv"] = table.getvalue().encode()
    return files


def _encode(pixels: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _soft_mask(draw: Callable[[ImageDraw.ImageDraw], None], blur: float) -> Pixels:
    """What ``draw`` paints white, with soft edges, as weights between 0 and 1."""
    mask = Image.new("L", (_SIDE, _SIDE))
    draw(ImageDraw.Draw(mask))
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float32) / np.float32(255)


def _blob(rng: np.random.Generator, smallest: float, largest: float) -> Callable[[ImageDraw.ImageDraw], None]:
    """An uneven round outline, wholly inside the image."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    waves = 1 + 0.25 * np.sin(angles * rng.integers(2, 5) + rng.uniform(0, 6)) * rng.uniform(0.3, 1)
    radius = rng.uniform(smallest, largest) * waves
    centre = rng.uniform(1.3 * largest, _SIDE - 1.3 * largest, size=2)
    outline = [(centre[0] + r * np.cos(a), centre[1] + r * np.sin(a)) for r, a in zip(radius, angles, strict=True)]
    return lambda canvas: canvas.polygon(outline, fill=255)


def _add_scratch(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A bright, slightly crooked line."""
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.15, size=12))
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(7, 11)
    line = np.cumsum(steps, axis=0)
    line += _SIDE / 2 + rng.uniform(-30, 30, size=2) - line.mean(axis=0)
    width = int(rng.integers(3, 6))
    mask = _soft_mask(lambda canvas: canvas.line([tuple(point) for point in line.tolist()], fill=255, width=width), 0.8)
    return pixels + mask * (235 - pixels) * np.float32(rng.uniform(0.7, 0.95))


def _add_stain(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A few dark, soft-edged spots, through which the stones are seen."""
    for _ in range(int(rng.integers(2, 5))):
        pixels = pixels * (1 - _soft_mask(_blob(rng, 10, 22), 2.5) * np.float32(rng.uniform(0.55, 0.75)))
    return pixels


def _add_foreign(pixels: Pixels, photo: Image.Image, rng: np.random.Generator) -> Pixels:
    """A patch of another photograph, as bright as what it covers."""
    left, top = rng.integers(0, photo.width - _SIDE, size=2).tolist()
    other = np.asarray(photo.crop((left, top, left + _SIDE, top + _SIDE)), dtype=np.float32)
    mask = _soft_mask(_blob(rng, 28, 42), 1.5)
    patched: Pixels = pixels + mask * (other - other.mean() + pixels.mean() - pixels)
    return patched


def _add_bare_ground(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A place without stones: smooth ground with fine grain, a little darker."""
    grain = rng.normal(0, 6, size=pixels.shape).astype(np.float32)
    mask = _soft_mask(_blob(rng, 24, 38), 2.0)
    patched: Pixels = pixels + mask * (pixels.mean() * np.float32(0.75) + grain - pixels)
    return patched


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m panda_anomalib.data.demo",
        description="Write demo images: crops of real photographs that ship with scikit-image, with drawn defects.",
    )
    parser.add_argument("root", type=Path, nargs="?", default=Path("demo"), help="folder to write to (default: demo)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same images (default: 0)")
    arguments = parser.parse_args()
    try:
        root = make_demo(arguments.root, seed=arguments.seed)
    except (FileExistsError, PermissionError) as error:
        parser.exit(1, f"error: {error}\n")
    command = f"panda-anomalib train --model Dn2 --data OneClassFolder --data.root {root} --data.normal_class good"
    parser.exit(0, f"Demo images are in {root}. Next:\n  {command}\n")


if __name__ == "__main__":
    _main()
