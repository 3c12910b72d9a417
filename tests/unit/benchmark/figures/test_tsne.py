"""Embeddings in two dimensions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from panda_anomalib import Dn2, OneClassFolder
from panda_anomalib.benchmark.figures.tsne import draw_tsne, embed_test_images, tsne_points


def _embeddings(rng: np.random.Generator) -> pd.DataFrame:
    """Two clumps far apart, ten images each."""
    rows = rng.normal(size=(20, 8)) + np.repeat([[0.0], [30.0]], 10, axis=0)
    index = pd.MultiIndex.from_arrays(
        [[f"{number}.png" for number in range(20)], ["cat"] * 10 + ["dog"] * 10], names=["image_path", "class"]
    )
    return pd.DataFrame(rows, index=index)


def test_clumps_stay_apart(tmp_path: Path, rng: np.random.Generator) -> None:
    """Every image is in the table with its class, nearer to its own clump than to the other one."""
    drawn = draw_tsne(_embeddings(rng), ["cat", "dog"], tmp_path / "shown/tsne.png")
    assert drawn.lines == ["t-SNE of 20 images of 2 classes; normal: cat, dog."]
    table = pd.read_csv(drawn.table)
    assert table["image_path"].tolist() == [f"{number}.png" for number in range(20)]
    centers = table.groupby("class")[["x", "y"]].mean()
    for _, row in table.iterrows():
        distances = ((centers - row[["x", "y"]].astype(float)) ** 2).sum(axis=1)
        assert distances.idxmin() == row["class"]
    with Image.open(drawn.picture) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert picture.width > 1000  # two panels
    assert any(red > 180 and green > 130 and blue < 90 for red, green, blue in colours), "no yellow"
    assert any(red < 120 and green < 150 and blue > 140 for red, green, blue in colours), "no blue"


def test_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    """Classes that are not there, other formats, too few images."""
    with pytest.raises(ValueError, match=r"normal_class must be one of cat, dog, got 'bird'"):
        draw_tsne(_embeddings(rng), ["bird"], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"output must end in \.png"):
        draw_tsne(_embeddings(rng), ["cat"], tmp_path / "a.pdf")
    with pytest.raises(ValueError, match=r"t-SNE needs at least 4 images, got 3"):
        tsne_points(np.zeros((3, 8)), 0)


def test_embeddings_are_those_of_the_model(tmp_path: Path, rng: np.random.Generator) -> None:
    """Test images evenly from each class, embedded as the scorer gets them."""
    for part, counts in (("train", {"cat": 2, "dog": 1}), ("test", {"cat": 5, "dog": 3})):
        for name, count in counts.items():
            (folder := tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    data = OneClassFolder(tmp_path, "cat")
    data.setup()
    model = Dn2(backbone="test_resnet", weights="random", resize=40, crop=32, visualizer=False)
    found = embed_test_images(model, data, per_class=3)
    names = [f"{Path(path).parent.name}/{Path(path).stem}" for path in found.index.get_level_values("image_path")]
    assert names == ["cat/0", "cat/2", "cat/4", "dog/0", "dog/1", "dog/2"]
    assert found.index.get_level_values("class").tolist() == ["cat"] * 3 + ["dog"] * 3

    image = data.test_data.read(str(tmp_path / "test/cat/2.png"))
    with torch.no_grad():
        alone = model.model.embed(model.pre_processor.transform(image)[None])[0]
    assert torch.allclose(alone, torch.tensor(found.to_numpy()[1]), atol=1e-5)
