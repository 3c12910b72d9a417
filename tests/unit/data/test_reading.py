"""Every kind of file is written here with known pixels, and must be read as them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from anomalib.data.utils import read_image as read_image_of_anomalib
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors

from panda_anomalib.data.reading import describe_hazard, read_image, verify_images

ORIENTATION = 274  # tag of EXIF and TIFF
# What a viewer does with the stored rows and columns (EXIF 2.3, tag Orientation).
UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.fixture
def grey16() -> NDArray[np.uint16]:
    """Grey 5 x 7 that uses both bytes, with black and white."""
    pixels = np.random.default_rng(0).integers(0, 65536, size=(5, 7), dtype=np.uint16)
    pixels[0, :2] = 0, 65535
    return pixels


@pytest.fixture
def rgba16() -> NDArray[np.uint16]:
    """RGB and alpha 5 x 7 that use both bytes."""
    return np.random.default_rng(1).integers(0, 65536, size=(5, 7, 4), dtype=np.uint16)


@pytest.fixture
def rgb8() -> NDArray[np.uint8]:
    """Colour 5 x 7."""
    return np.random.default_rng(2).integers(0, 256, size=(5, 7, 3), dtype=np.uint8)


def assert_shows(path: Path, expected: NDArray[Any], *, atol: float = 1e-6) -> None:
    """The file reads as ``expected``, ``(H, W)`` or ``(H, W, 3)`` in [0, 1]."""
    image = read_image(path)
    assert isinstance(image, tv_tensors.Image)
    assert image.dtype == torch.float32
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=-1)
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(mode, suffix) for mode in ("RGB", "L", "1") for suffix in ("png", "jpg", "tif", "bmp", "webp")]
    + [("P", "png"), ("P", "tif"), ("P", "bmp"), ("CMYK", "jpg"), ("CMYK", "tif")],
)
def test_8_bit_images_equal_anomalibs(mode: str, suffix: str, rgb8: NDArray[np.uint8], tmp_path: Path) -> None:
    """Plain files: not one value differs, and there is nothing to warn of."""
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(rgb8).convert(mode).save(path)
    assert torch.equal(read_image(path), read_image_of_anomalib(path, as_tensor=True))
    assert describe_hazard(path) is None


@pytest.mark.parametrize("kind", ["png", "little", "big", "zlib", "pgm", "int32"])
def test_16_bit_grey_keeps_all_bits(kind: str, grey16: NDArray[np.uint16], tmp_path: Path) -> None:
    """Whatever container, byte order or compression; anomalib reads all of them as white."""
    path = tmp_path / f"image.{kind if kind in {'png', 'pgm'} else 'tif'}"
    if kind == "png":
        Image.fromarray(grey16).save(path)
    elif kind == "pgm":
        path.write_bytes(b"P5 7 5 65535\n" + grey16.astype(">u2").tobytes())
    elif kind == "int32":
        tifffile.imwrite(path, grey16.astype(np.int32))
    else:
        tifffile.imwrite(
            path, grey16, byteorder=">" if kind == "big" else "<", compression=kind if kind == "zlib" else None
        )
    assert_shows(path, grey16 / 65535)
    assert describe_hazard(path) == "16-bit"


def test_min_is_white_is_inverted(grey16: NDArray[np.uint16], tmp_path: Path) -> None:
    """Pillow would leave it negative."""
    tifffile.imwrite(path := tmp_path / "image.tif", grey16, photometric="miniswhite")
    assert_shows(path, 1 - grey16 / 65535)


@pytest.mark.parametrize("kind", ["png", "contiguous", "planes"])
def test_16_bit_rgb_keeps_all_bits(kind: str, rgba16: NDArray[np.uint16], tmp_path: Path) -> None:
    """Pillow cuts it to 8 bits, and mixes up the planes."""
    rgb = rgba16[..., :3]
    if kind == "png":
        cv2.imwrite(str(path := tmp_path / "image.png"), rgb[..., ::-1])
    elif kind == "planes":
        tifffile.imwrite(
            path := tmp_path / "i.tif", np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate"
        )
    else:
        tifffile.imwrite(path := tmp_path / "image.tif", rgb, photometric="rgb")
    assert_shows(path, rgb / 65535)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_alpha_is_composited_over_white(suffix: str, rgba16: NDArray[np.uint16], tmp_path: Path) -> None:
    """Colour times alpha, plus white times the rest."""
    path = tmp_path / f"image.{suffix}"
    if suffix == "png":
        cv2.imwrite(str(path), rgba16[..., [2, 1, 0, 3]])
    else:
        tifffile.imwrite(path, rgba16, photometric="rgb", extrasamples=["unassalpha"])
    rgb, alpha = rgba16[..., :3] / 65535, rgba16[..., 3:] / 65535
    assert_shows(path, rgb * alpha + 1 - alpha)
    assert describe_hazard(path) == "alpha"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_are_white(mode: str, rgb8: NDArray[np.uint8], tmp_path: Path) -> None:
    """Left column transparent, the others opaque; anomalib shows what colour lies under the transparency."""
    path = tmp_path / "image.png"
    rgb8[:, 0] = 10, 200, 30
    rgb8[:, 1:] |= 1  # no other pixel has that colour
    image = Image.fromarray(rgb8)
    if mode in {"RGBA", "LA"}:
        image = image.convert(mode)
        alpha = np.full((5, 7), 255, np.uint8)
        alpha[:, 0] = 0
        image.putalpha(Image.fromarray(alpha))
        image.save(path)
    elif mode == "P":
        image = image.quantize(255)
        key = image.getpixel((0, 0))
        image.save(path, transparency=key)
    else:
        image.save(path, transparency=(10, 200, 30))
    read = read_image(path)
    assert (read[:, :, 0] == 1).all()
    torch.testing.assert_close(read[:, :, 1:], read_image_of_anomalib(path, as_tensor=True)[:, :, 1:])
    assert describe_hazard(path) == "alpha"


def test_half_transparent_black_is_mid_grey(tmp_path: Path) -> None:
    """By hand: (255 - 128) / 255."""
    Image.new("RGBA", (3, 2), (0, 0, 0, 128)).save(path := tmp_path / "image.png")
    assert_shows(path, np.full((2, 3), 127 / 255))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_float_tiff_is_taken_as_it_is(dtype: type, channels: int, tmp_path: Path) -> None:
    """Also the kinds that Pillow does not open."""
    pixels = np.random.default_rng(3).random((5, 7, channels)).astype(dtype).squeeze()
    tifffile.imwrite(path := tmp_path / "image.tiff", pixels, photometric="rgb" if channels == 3 else None)
    assert_shows(path, pixels.astype(np.float64))
    assert verify_images([path]) == {}


@pytest.mark.parametrize(
    ("values", "got"),
    [([0.0, 255.0], "got 0 to 255"), ([-0.5, 1.0], "got -0.5 to 1"), ([0.0, np.nan], "got nan to nan")],
)
def test_float_out_of_range_is_refused(values: list[float], got: str, tmp_path: Path) -> None:
    """With the range that was found, by reading and by checking."""
    tifffile.imwrite(path := tmp_path / "image.tif", np.array([values], np.float32).repeat(2, axis=0))
    with pytest.raises(ValueError, match=rf"image\.tif' cannot be read: pixel values must be within \[0, 1\], {got};"):
        read_image(path)
    assert got in verify_images([path])[path]


def test_32_bit_integers_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    """Nobody knows their white."""
    tifffile.imwrite(path := tmp_path / "image.tif", np.array([[0, 65536]], np.int32))
    with pytest.raises(ValueError, match=r"within \[0, 65535\], got 0 to 65536; rescale all images by one fixed range"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png8", "png16", "tif8", "tif16"])
def test_orientation_is_applied(orientation: int, kind: str, rgb8: NDArray[np.uint8], tmp_path: Path) -> None:
    """All eight, in both formats and depths; TIFFs are no hazard, as Pillow turns them."""
    path = tmp_path / f"image.{kind[:3]}"
    deep = kind.endswith("16")
    stored = rgb8[..., 0].astype(np.uint16) * 257 if deep else rgb8
    if kind.startswith("tif"):
        tags = [(ORIENTATION, 3, 1, orientation, True)]
        tifffile.imwrite(path, stored, photometric="minisblack" if deep else "rgb", extratags=tags)
    else:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        Image.fromarray(stored).save(path, exif=exif)
    assert_shows(path, UPRIGHT[orientation](stored) / (65535 if deep else 255))
    expected = (["16-bit"] if deep else []) + (["EXIF rotation"] if kind.startswith("png") and orientation != 1 else [])
    assert describe_hazard(path) == (", ".join(expected) or None)


def test_jpeg_of_a_turned_camera_is_upright(tmp_path: Path) -> None:
    """A 32 x 16 photograph stands 16 wide."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (32, 16)).save(path := tmp_path / "image.jpg", exif=exif)
    assert read_image(path).shape == (3, 32, 16)
    assert describe_hazard(path) == "EXIF rotation"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow, on TIFFs, before it fails
@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "webp", "tif", "png16", "tif16"])
def test_truncated_files_are_named(kind: str, tmp_path: Path) -> None:
    """By reading, and by the cheap check, which leaves whole files alone."""
    pixels = np.random.default_rng(4).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)
    suffix = kind.removesuffix("16")
    whole, cut = (tmp_path / f"{name}.{suffix}" for name in ("whole", "cut"))
    if kind.endswith("16"):
        cv2.imwrite(str(whole), pixels.astype(np.uint16) * 257)
    else:
        Image.fromarray(pixels).save(whole)
    content = whole.read_bytes()
    # Not through the header, and from the tail as copying stops: TIFF keeps its table there.
    cut.write_bytes(content[: int(0.9 * len(content))])
    with pytest.raises(ValueError, match=rf"image '.*cut\.{suffix}' cannot be read: "):
        read_image(cut)
    assert list(verify_images([whole, cut])) == [cut]


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_other_content_is_named(content: bytes, tmp_path: Path) -> None:
    """Empty files, and text with the name of an image."""
    for suffix in ("jpg", "tif"):
        (path := tmp_path / f"image.{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=rf"image\.{suffix}' cannot be read: "):
            read_image(path)
        assert list(verify_images([path])) == [path]
        assert describe_hazard(path) is None


def test_missing_file_is_not_called_broken(tmp_path: Path) -> None:
    """FileNotFoundError passes as it is."""
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        read_image(tmp_path / "missing.png")
    assert "No such file" in verify_images([tmp_path / "missing.png"])[tmp_path / "missing.png"]
