"""Embeddings of test images in two dimensions (DN2, arXiv:2002.10445, Fig. 6)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from panda_anomalib.atomic import write_atomically
from panda_anomalib.benchmark.figures.drawing import Drawn
from panda_anomalib.benchmark.report.figures.style import draw_png
from panda_anomalib.data.dataset import ImageDataset, automatic_workers, make_loader
from panda_anomalib.data.one_class import OneClassData
from panda_anomalib.models.base import DetectorMixin
from panda_anomalib.progress import track

__all__ = ["draw_tsne", "embed_test_images", "tsne_points"]

_NORMAL, _ANOMALOUS = "#E0A800", "#2B5FAB"  # yellow and blue, as in the paper
_BATCH_SIZE = 32


def embed_test_images(model: DetectorMixin, data: OneClassData, per_class: int) -> pd.DataFrame:
    """Embeddings of up to ``per_class`` test images of each class, evenly spaced among them.

    Args:
        model: One of ours; a model that is not fitted gets the weights of its backbone.
        data: Set up.
        per_class: Images of a class.

    Returns:
        Index ``image_path`` and ``class``, a column for each dimension.
    """
    samples = data.test_data.samples
    chosen = [
        own.iloc[np.linspace(0, len(own) - 1, min(per_class, len(own))).round().astype(int)]
        for _, own in samples.groupby("class_name", sort=True)
    ]
    rows = pd.concat(chosen)
    images = ImageDataset([Path(name) for name in rows["image_path"]], [], split="test", read=data.test_data.read)
    if not model.provenance:
        model.model.backbone.load_weights()
    model.eval()
    if model.pre_processor is not None:
        model.pre_processor.install(images)
    found = []
    with torch.no_grad():
        for batch in track(make_loader(images, _BATCH_SIZE, num_workers=automatic_workers(len(images))), "Embeddings"):
            if model.pre_processor is not None:
                model.pre_processor.prepare(batch, images)
            found.append(model.embed_batch(batch).flatten(1))
    index = pd.MultiIndex.from_arrays([rows["image_path"], rows["class_name"]], names=["image_path", "class"])
    return pd.DataFrame(torch.cat(found).numpy(), index=index)


def tsne_points(embeddings: NDArray[Any], seed: int) -> NDArray[Any]:
    """Points ``(n, 2)`` of embeddings ``(n, D)`` by scikit-learn's t-SNE, from their principal components.

    Raises:
        ValueError: If there are fewer than four.
    """
    if len(embeddings) < 4:
        raise ValueError(f"t-SNE needs at least 4 images, got {len(embeddings)}; take more of each class.")
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    points: NDArray[Any] = TSNE(random_state=seed, init="pca", perplexity=perplexity).fit_transform(embeddings)
    return points


def draw_tsne(
    embeddings: pd.DataFrame, normal_classes: Sequence[str], output: Path | str, *, seed: int = 0, title: str = ""
) -> Drawn:
    """Draw a panel for each normal class, all of the same points.

    Args:
        embeddings: Index with the level ``class``, a column for each dimension.
        normal_classes: Each is yellow in its panel, all others are blue.
        output: The PNG.
        seed: Of t-SNE.
        title: Above all panels.

    Raises:
        ValueError: If a class has no image, or output is no PNG.
    """
    picture = Path(output)
    if picture.suffix.lower() != ".png":
        raise ValueError(f"output must end in .png, got '{picture}'.")
    classes = embeddings.index.get_level_values("class")
    for name in normal_classes:
        if name not in classes:
            raise ValueError(f"normal_class must be one of {', '.join(dict.fromkeys(classes))}, got {name!r}.")
    points = tsne_points(embeddings.to_numpy(), seed)
    picture.parent.mkdir(parents=True, exist_ok=True)
    panels = {name: np.asarray(classes == name) for name in normal_classes}
    draw_png(picture, 0.6 + 3.8 * len(panels), 4.9, lambda canvas: _paint(canvas, points, panels, title))
    table = picture.with_suffix(".csv")
    drawn = embeddings.index.to_frame(index=False).assign(x=points[:, 0], y=points[:, 1])
    write_atomically(table, lambda path: drawn.to_csv(path, index=False))
    counts = f"{len(points)} images of {classes.nunique()} classes"
    return Drawn(picture, table, [f"t-SNE of {counts}; normal: {', '.join(normal_classes)}."])


def _paint(canvas: Figure, points: NDArray[Any], panels: Mapping[str, NDArray[np.bool_]], title: str) -> None:
    grid: Any = canvas.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, normal) in zip(grid, panels.items(), strict=True):
        for chosen, color, label in ((~normal, _ANOMALOUS, "anomalous"), (normal, _NORMAL, "normal")):
            axes.scatter(*points[chosen].T, s=7, color=color, label=label, alpha=0.75, linewidths=0)
        axes.set(xticks=[], yticks=[], box_aspect=1, xlabel=f"normal: {name}")
    shown = grid[0].get_legend_handles_labels()
    canvas.legend(*shown, loc="outside lower center", ncols=2, fontsize=10, markerscale=2.5)
    if title:
        canvas.suptitle(title, fontsize=11)
