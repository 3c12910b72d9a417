"""Outlier images take the form of the normal images, and copies of normal images are left out."""

import logging
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize
from torchvision.transforms.v2.functional import to_pil_image

from panda_anomalib.adaptation import outliers as module
from panda_anomalib.adaptation.near_duplicates import near_duplicates, record_images
from panda_anomalib.adaptation.outliers import OutlierImages
from panda_anomalib.data import read_image


def picture(rng: np.random.Generator, size: tuple[int, int], *, grey: bool = False) -> Image.Image:
    """Smooth coloured shapes with a little noise: every draw another picture."""
    coarse = rng.integers(0, 256, (5, 5) if grey else (5, 5, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray((smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8))


def write(folder: Path, pictures: list[Image.Image], suffix: str = "png", **options: object) -> list[Path]:
    """Save pictures 000, 001, ... and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:03d}.{suffix}" for index in range(len(pictures))]
    for path, image in zip(paths, pictures, strict=True):
        image.save(path, **options)
    return paths


def outliers(tmp_path: Path, normals: list[Path], pictures: list[Image.Image], **arguments: object) -> OutlierImages:
    """Outliers stored as PNG, like the normals."""
    write(tmp_path / "outliers", pictures)
    return OutlierImages(tmp_path / "outliers", like=normals, **arguments)


def size_of(dataset: OutlierImages, index: int) -> tuple[int, int]:
    """Width and height of an item."""
    return dataset[index].image.shape[2], dataset[index].image.shape[1]


def test_sizes_are_drawn_from_those_of_the_normal_images(tmp_path: Path, rng: np.random.Generator) -> None:
    """Three quarters 20 x 16, one quarter 24 x 32: so the outliers, within the error of 200 draws."""
    normals = [picture(rng, (24, 32) if index % 4 == 0 else (20, 16)) for index in range(8)]
    dataset = outliers(tmp_path, write(tmp_path / "normal", normals), [picture(rng, (90, 70)) for _ in range(200)])
    counts = Counter(size_of(dataset, index) for index in range(200))
    assert set(counts) == {(20, 16), (24, 32)}
    assert abs(counts[20, 16] - 150) < 4 * np.sqrt(200 * 0.75 * 0.25)


def test_an_outlier_is_cropped_in_the_centre_and_never_enlarged(tmp_path: Path, rng: np.random.Generator) -> None:
    """Of 40 x 20, for normal images of 64 x 64, the middle 20 x 20 is left, pixel by pixel."""
    wide = picture(rng, (40, 20))
    dataset = outliers(tmp_path, write(tmp_path / "normal", [picture(rng, (64, 64))]), [wide])
    assert torch.equal(dataset[0].image, read_image(tmp_path / "outliers/000.png")[:, :, 10:30])


def test_size_is_that_after_the_exif_rotation(tmp_path: Path, rng: np.random.Generator) -> None:
    """A normal image stored 24 x 16 and shown 16 x 24."""
    exif = Image.Exif()
    exif[274] = 6
    normals = write(tmp_path / "normal", [picture(rng, (24, 16))], "jpg", exif=exif)
    assert size_of(outliers(tmp_path, normals, [picture(rng, (60, 60))]), 0) == (16, 24)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_compression_has_the_tables_of_the_normal_images(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, subsampling: int
) -> None:
    """The file in memory has the normal file's tables and chroma subsampling; the item is what it decodes to."""
    normals = write(tmp_path / "normal", [picture(rng, (48, 40))], "jpg", quality=37, subsampling=subsampling)
    files: list[BytesIO] = []
    monkeypatch.setattr(module, "BytesIO", lambda: files.append(BytesIO()) or files[-1])
    dataset = outliers(tmp_path, normals, [picture(rng, (90, 75))])
    item = dataset[0].image
    with Image.open(files[0]) as encoded, Image.open(normals[0]) as normal:
        assert encoded.quantization == normal.quantization
        assert encoded.layer == normal.layer
        decoded = np.asarray(encoded, np.float32)
    assert np.array_equal(np.rint(item.permute(1, 2, 0).numpy() * 255), decoded)


def test_each_outlier_takes_size_and_compression_of_one_image(tmp_path: Path, rng: np.random.Generator) -> None:
    """Normal images: small and lossless, or large and coarse. No outlier is small and coarse."""
    normals = write(tmp_path / "normal", [picture(rng, (16, 16))])
    normals += write(tmp_path / "normal", [picture(rng, (32, 32))], "jpg", quality=5)
    pictures = [picture(rng, (64, 64)) for _ in range(20)]
    dataset = outliers(tmp_path, normals, pictures)
    lossless = [np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)) for image in pictures]
    sizes = Counter(size_of(dataset, index) for index in range(20))
    assert set(sizes) == {(16, 16), (32, 32)}
    for index in range(20):
        if size_of(dataset, index) == (16, 16):
            assert np.array_equal(np.asarray(to_pil_image(dataset[index].image)), lossless[index])


def test_an_image_in_the_form_already_stays_as_it_is(tmp_path: Path, rng: np.random.Generator) -> None:
    """Encoding it once more would itself be a mark of outliers."""
    options = {"quality": 30, "subsampling": 0}
    normals = write(tmp_path / "normal", [picture(rng, (40, 40))], "jpg", **options)
    (path,) = write(tmp_path / "outliers", [picture(rng, (40, 40))], "jpg", **options)
    (other,) = write(tmp_path / "others", [picture(rng, (40, 40))], "jpg", quality=95, subsampling=0)
    assert torch.equal(OutlierImages(path.parent, like=normals)[0].image, read_image(path))
    assert not torch.equal(OutlierImages(other.parent, like=normals)[0].image, read_image(other))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_outliers_are_grey_where_normal_images_are(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    """Also where grey is stored as RGB; and they keep their colour where normal images have any."""
    pictures = [picture(rng, (50, 50)) for _ in range(3)]
    grey = write(tmp_path / "grey", [picture(rng, (20, 20), grey=True).convert("RGB") for _ in range(2)], suffix)
    coloured = write(tmp_path / "coloured", [picture(rng, (20, 20)) for _ in range(2)], suffix)
    for item in outliers(tmp_path, grey, pictures):
        assert torch.equal(item.image[0], item.image[1])
        assert torch.equal(item.image[0], item.image[2])
        assert item.image.std() > 0.05
    for item in outliers(tmp_path, coloured, pictures):
        assert (item.image[0] - item.image[2]).abs().mean() > 0.05


def test_items_depend_on_seed_and_index_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    """The same in worker processes, in any order, in another object; others with another seed."""
    normals = write(tmp_path / "normal", [picture(rng, (12 + index, 12 + index)) for index in range(12)], "jpg")
    pictures = [picture(rng, (40, 40)) for _ in range(12)]
    resize = Resize((16, 16), antialias=True)
    first = outliers(tmp_path, normals, pictures, augmentations=resize)
    again = outliers(tmp_path, normals, pictures, augmentations=resize)
    expected = torch.stack([again[index].image for index in reversed(range(12))]).flip(0)
    loader = DataLoader(first, batch_size=5, num_workers=2, collate_fn=first.collate_fn)
    batches = list(loader)
    assert isinstance(batches[0], ImageBatch)
    assert torch.equal(torch.cat([batch.image for batch in batches]), expected)
    assert torch.cat([batch.gt_label for batch in batches]).tolist() == [1] * 12
    assert [path for batch in batches for path in batch.image_path] == sorted(first.samples.image_path)
    other = outliers(tmp_path, normals, pictures, augmentations=resize, seed=1)
    assert not torch.equal(torch.stack([item.image for item in other]), expected)


def test_without_matching_images_are_as_read(tmp_path: Path, rng: np.random.Generator) -> None:
    """Full size, colour, no compression, although normal images are small, grey JPEGs."""
    normals = write(tmp_path / "normal", [picture(rng, (16, 16), grey=True)], "jpg")
    dataset = outliers(tmp_path, normals, [picture(rng, (50, 40))], match_resolution=False)
    assert torch.equal(dataset[0].image, read_image(tmp_path / "outliers/000.png"))


def test_copies_of_normal_images_are_left_out(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    """The file itself, recompressed, larger, smaller: four of nine; the line in the log has the count."""
    pictures = [picture(rng, (64, 64)) for _ in range(20)]
    normals = write(tmp_path / "normal", pictures)
    folder = tmp_path / "outliers"
    write(folder / "new", [picture(rng, (64, 64)) for _ in range(5)])
    (folder / "bytes.png").write_bytes(normals[3].read_bytes())
    pictures[4].save(folder / "coarse.jpg", quality=40)
    pictures[5].resize((600, 600), Image.Resampling.BICUBIC).save(folder / "large.jpg")
    pictures[6].resize((32, 32), Image.Resampling.LANCZOS).save(folder / "small.png")
    caplog.set_level(logging.INFO)
    dataset = OutlierImages(folder, like=normals)
    assert [path.name for path in dataset.near_duplicates] == ["bytes.png", "coarse.jpg", "large.jpg", "small.png"]
    assert {Path(path).parent.name for path in dataset.samples.image_path} == {"new"}
    assert len(dataset) == 5
    assert "5 images" in caplog.text
    assert "4 near-duplicates of normal images left out" in caplog.text


def test_an_image_that_resembles_a_normal_one_is_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    """Ten parts in one place, alike but for noise: a dark spot is an anomaly, a recompressed file a copy."""
    part = np.asarray(picture(rng, (64, 64)), np.float32)
    parts = [Image.fromarray((part + rng.normal(0, 20, part.shape)).clip(0, 255).astype(np.uint8)) for _ in range(10)]
    normals = write(tmp_path / "normal", parts)
    spotted = np.array(parts[0])
    spotted[20:32, 20:32] //= 2
    write(tmp_path / "outliers", [Image.fromarray(spotted)])
    parts[0].save(tmp_path / "outliers/copy.jpg", quality=95, subsampling=0)
    images = [tmp_path / "outliers/000.png", tmp_path / "outliers/copy.jpg"]
    assert near_duplicates(record_images(images, ""), record_images(normals, "")).tolist() == [False, True]


def test_of_one_normal_image_or_equal_ones_only_exact_copies_are_found(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """There is no spacing to measure against: nothing may be removed for being similar."""
    normal = picture(rng, (32, 32))
    normals = record_images(write(tmp_path / "normal", [normal, normal, normal]), "")
    other = write(tmp_path / "other", [normal, picture(rng, (32, 32))], "jpg")
    images = record_images([tmp_path / "normal/000.png", *other], "")
    assert near_duplicates(images, normals[:1]).tolist() == [True, False, False]
    assert near_duplicates(images, normals).tolist() == [True, False, False]


def test_folder_that_holds_the_training_images(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    """Around the training folder: a warning, and they are left out. The training folder itself: an error."""
    normals = write(tmp_path / "all/normal", [picture(rng, (20, 20)) for _ in range(4)])
    write(tmp_path / "all/other", [picture(rng, (20, 20)) for _ in range(3)])
    assert len(OutlierImages(tmp_path / "all", like=normals)) == 3
    assert "holds 4 normal training images: left out" in caplog.text
    with pytest.raises(ValueError, match=r"root must hold images that are not normal, got 4 copies .*; give another"):
        OutlierImages(tmp_path / "all/normal", like=normals)


def test_small_outliers_are_warned_of(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    """Sharpness that is not there cannot be added; unasked, nothing is said."""
    normals = write(tmp_path / "normal", [picture(rng, (40, 50))])
    outliers(tmp_path, normals, [picture(rng, (30, 30)), picture(rng, (31, 90))], match_resolution=False)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    outliers(tmp_path, normals, [picture(rng, (30, 30)), picture(rng, (31, 90))])
    assert "2 of 2 outliers are smaller than the typical normal image (shorter side 40)" in caplog.text


def test_the_log_says_what_is_done(tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture) -> None:
    """One line: sizes, quality as it was given to the encoder, share of grey."""
    caplog.set_level(logging.INFO)
    normals = write(tmp_path / "normal", [picture(rng, (30, 20))])
    normals += write(tmp_path / "normal", [picture(rng, (28, 28), grey=True)], "jpg", quality=82)
    outliers(tmp_path, normals, [picture(rng, (60, 60))])
    assert "shorter side 20 to 28, JPEG of quality about 82 (50%), grey 50%" in caplog.text
    outliers(tmp_path, normals, [picture(rng, (60, 60))], match_resolution=False)
    assert "used as they are" in caplog.text


def test_bad_folders_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    """Missing, empty, damaged, nothing to be like; a truncated JPEG is found before training."""
    normals = write(tmp_path / "normal", [picture(rng, (20, 20))])
    with pytest.raises(FileNotFoundError, match=r"root must be an existing folder of outliers, got '.*missing'; check"):
        OutlierImages(tmp_path / "missing", like=normals)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"root must hold images \(\.jpg .*\), got none in '.*empty'; add some"):
        OutlierImages(tmp_path / "empty", like=normals)
    with pytest.raises(ValueError, match="like must name normal images, got none"):
        OutlierImages(tmp_path / "normal", like=[])
    whole, cut = write(tmp_path / "outliers", [picture(rng, (200, 200)) for _ in range(2)], "jpg")
    cut.write_bytes(cut.read_bytes()[:2000])
    (tmp_path / "outliers/text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"got 2 of 3 that are not \(.*001\.jpg.*text\.png.*\); repair or remove them"):
        OutlierImages(whole.parent, like=normals)


@pytest.mark.data
def test_real_classes_are_kept_and_real_duplicates_found(data_root: Path) -> None:
    """No cell or screw of another kind is taken for a copy; five test horses of CIFAR-10 are training images.

    They were looked at one by one: 401, 431, 512, 736 and 942 show the same photograph as a training image.
    """

    def found(images: str, normals: str) -> list[str]:
        paths = sorted((data_root / images).rglob("*.*g"))
        copies = near_duplicates(
            record_images(paths, ""), record_images(sorted((data_root / normals).glob("*.*g")), "")
        )
        return [path.stem for path, copy in zip(paths, copies.tolist(), strict=True) if copy]

    assert found("wbc/lymphocyte", "wbc/neutrophil") == []
    assert found("mvtec_screw_512/test", "mvtec_screw_512/train/good") == []
    assert found("cifar10/test/horse", "cifar10/train/horse") == ["0401", "0431", "0512", "0736", "0942"]
