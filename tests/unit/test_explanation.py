"""Pictures of verdicts: what they show is looked up in their pixels."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image, ImageColor, ImageDraw
from torch.utils.data import DataLoader, Dataset

from panda_anomalib import explanation
from panda_anomalib.explanation import NeighborVisualizer, draw_explanation
from panda_anomalib.overview import ANOMALOUS_COLOR, NORMAL_COLOR, Thumbnails, draw_overview

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # inside Lightning 2.6 with torch 2.15

THRESHOLD = 2.0
RED, GREEN = (200, 20, 20), (20, 160, 30)


def save(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> str:
    """File of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return str(path)


def make_row(path: str, *, distance: float = 3.0, label: int | None = None, **neighbors: Any) -> dict[str, Any]:
    """Row of a PredictionTable."""
    flagged = int(distance > THRESHOLD)
    score = distance / (distance + THRESHOLD)
    row = {"path": path, "label": label, "distance": distance, "score": score, "p_value": 0.013}
    return row | {"predicted_label": flagged} | neighbors


def draw(row: dict[str, Any], *, num_neighbors: int = 5) -> np.ndarray:
    """Pixels (H, W, 3) of the picture."""
    readers = {name: Thumbnails(264, capacity=4) for name in ("tested", "training")}
    return np.asarray(draw_explanation(row, threshold=THRESHOLD, num_neighbors=num_neighbors, **readers))


def center_of_tile(picture: np.ndarray, number: int) -> tuple[int, ...]:
    """Middle pixel of the place of a neighbour, counted from 0 in the first row."""
    x = explanation._MARGIN + number * (explanation._TILE + explanation._GAP) + explanation._TILE // 2
    return tuple(picture[explanation._HEADER + 44 + explanation._TILE // 2, x].tolist())


def count(picture: np.ndarray, color: str) -> int:
    """Number of pixels of a colour."""
    return int((picture == ImageColor.getrgb(color)).all(axis=2).sum())


def test_neighbors_are_shown_in_their_order(tmp_path: Path) -> None:
    """The nearest stands first; the image itself stands above, at its own place."""
    tested = save(tmp_path / "tested.png", (10, 20, 230))
    near, far = save(tmp_path / "near.png", RED), save(tmp_path / "far.png", GREEN)
    row = make_row(tested, neighbor_1=near, neighbor_1_distance=1.0, neighbor_2=far, neighbor_2_distance=5.0)
    picture = draw(row)
    assert center_of_tile(picture, 0) == RED
    assert center_of_tile(picture, 1) == GREEN
    middle = explanation._MARGIN + explanation._IMAGE // 2
    assert tuple(picture[middle, middle].tolist()) == (10, 20, 230)


def test_fewer_neighbors_on_demand(tmp_path: Path) -> None:
    """num_neighbors limits the tiles; without neighbours (or with 0) the row is left out and the rest is the same."""
    tested, near = save(tmp_path / "a.png", RED), save(tmp_path / "b.png", GREEN)
    neighbors = {"neighbor_1": near, "neighbor_1_distance": 1.0, "neighbor_2": near, "neighbor_2_distance": 2.0}
    one = draw(make_row(tested, **neighbors), num_neighbors=1)
    assert center_of_tile(one, 0) == GREEN
    assert center_of_tile(one, 1) == (255, 255, 255)
    none, without = draw(make_row(tested, **neighbors), num_neighbors=0), draw(make_row(tested))
    np.testing.assert_array_equal(none, without)
    assert none.shape[0] < one.shape[0]
    np.testing.assert_array_equal(none[: explanation._HEADER], one[: explanation._HEADER])


def test_verdict_is_told_by_color_and_bar(tmp_path: Path) -> None:
    """Flagged pictures are orange with a bar beyond the threshold mark, the others blue with a bar that ends before."""
    tested = save(tmp_path / "a.png", (127, 127, 127))
    flagged, passed = draw(make_row(tested, distance=6.0)), draw(make_row(tested, distance=1.0))
    assert count(flagged, ANOMALOUS_COLOR) > 5000
    assert count(flagged, NORMAL_COLOR) == 0
    assert count(passed, NORMAL_COLOR) > 5000
    assert count(passed, ANOMALOUS_COLOR) == 0
    left, right = explanation._TEXT_X, explanation._WIDTH - explanation._MARGIN
    for picture, color, score in ((flagged, ANOMALOUS_COLOR, 0.75), (passed, NORMAL_COLOR, 1 / 3)):
        filled = np.flatnonzero((picture[explanation._BAR + 3] == ImageColor.getrgb(color)).all(axis=1))
        assert (filled.max() - left) / (right - left) == pytest.approx(score, abs=0.003)


@pytest.mark.parametrize(
    ("distance", "label", "words"),
    [
        (3.0, 1, {"ANOMALOUS", "true label: anomalous", "correct"}),
        (3.0, 0, {"ANOMALOUS", "true label: normal", "false alarm"}),
        (1.0, 1, {"NORMAL", "true label: anomalous", "missed"}),
        (1.0, 0, {"NORMAL", "true label: normal", "correct"}),
        (1.0, None, {"NORMAL"}),
    ],
)
def test_words_of_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distance: float, label: int | None, words: set[str]
) -> None:
    """The picture says whether the verdict is right, and nothing about it when the label is unknown."""
    written: set[str] = set()
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _self, _xy, text, *_, **__: written.add(text))
    draw(make_row(save(tmp_path / "a.png", RED), distance=distance, label=label))
    verdicts = {
        "ANOMALOUS",
        "NORMAL",
        "true label: anomalous",
        "true label: normal",
        "correct",
        "false alarm",
        "missed",
    }
    assert written & verdicts == words
    assert f"distance {distance:.4g}, threshold 2" in written
    assert "p = 0.013: 1.3 % of normal images look at least this unusual" in written


def test_nearest_class_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the row has it; the rest of the picture stays as it is."""
    drawn: list[str] = []
    write = ImageDraw.ImageDraw.text

    def record(self: Any, xy: Any, text: str, *arguments: Any, **options: Any) -> None:
        drawn.append(text)
        write(self, xy, text, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    path = save(tmp_path / "a.png", RED)
    plain, named = draw(make_row(path)), draw(make_row(path, nearest_class="cat"))
    assert drawn.count("nearest normal class: cat") == 1
    rows = np.flatnonzero((plain != named).any(axis=(1, 2)))
    assert explanation._BAR + 112 < rows.min() < rows.max() < explanation._HEADER


def test_missing_training_image_is_a_grey_tile(tmp_path: Path) -> None:
    """A training image that was moved or damaged costs its tile, not the run."""
    tested = save(tmp_path / "a.png", RED)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    gone = {"neighbor_1": str(tmp_path / "gone.png"), "neighbor_1_distance": 1.0}
    picture = draw(make_row(tested, **gone, neighbor_2=str(broken), neighbor_2_distance=1.0))
    tiles = picture[explanation._HEADER + 44 :]
    assert count(tiles, "#E3E3E3") > explanation._TILE**2  # of two tiles, each partly covered by its text
    reader = Thumbnails(16, capacity=1)
    assert reader.get(str(tmp_path / "gone.png")) == "moved or deleted"
    assert reader.get(str(broken)) == "cannot be read"


def test_rotated_photograph_is_upright(tmp_path: Path) -> None:
    """EXIF orientation 6: the stored left edge is the upper edge of the scene. Aspect and colours are kept."""
    stored = Image.new("RGB", (80, 40), GREEN)
    stored.paste(RED, (0, 0, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "a.png", exif=exif)
    upright = Thumbnails(264, capacity=1).get(str(tmp_path / "a.png"))
    assert isinstance(upright, Image.Image)
    assert upright.size == (40, 80)
    assert upright.getpixel((20, 5)) == RED
    picture = draw(make_row(str(tmp_path / "a.png")))
    middle = explanation._MARGIN + explanation._IMAGE // 2
    assert tuple(picture[explanation._MARGIN + 20, middle].tolist()) == RED
    assert tuple(picture[explanation._MARGIN + 200, middle].tolist()) == GREEN


def test_thumbnails_are_read_once(tmp_path: Path) -> None:
    """A second request is answered from memory: the file may even be gone; the oldest picture leaves first."""
    first, second = save(tmp_path / "1.png", RED, (40, 20)), save(tmp_path / "2.png", GREEN)
    reader = Thumbnails(16, capacity=1)
    shown = reader.get(first)
    assert isinstance(shown, Image.Image)
    assert shown.size == (16, 8)
    Path(first).unlink()
    assert reader.get(first) is shown
    reader.get(second)
    assert reader.get(first) == "moved or deleted"


class Listed(Dataset[ImageBatch]):
    """Dataset that tells its files, as anomalib's do; an item is a batch of one."""

    def __init__(self, paths: list[str], distances: list[float], labels: list[int] | None) -> None:
        self.samples = pd.DataFrame({"image_path": paths})
        self.distances, self.labels = distances, labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> ImageBatch:
        """Batch as it leaves the post-processor."""
        batch = ImageBatch(image=torch.zeros(1, 3, 2, 2), image_path=[self.samples["image_path"][index]])
        batch.gt_label = None if self.labels is None else torch.tensor([self.labels[index]])
        batch.distance = torch.tensor([self.distances[index]])
        batch.pred_score = batch.distance / (batch.distance + THRESHOLD)
        batch.pred_label = batch.distance > THRESHOLD
        batch.p_value = torch.tensor([0.5])
        batch.neighbor_distances, batch.neighbor_indices = torch.tensor([[0.5]]), torch.tensor([[0]])
        return batch


class GivenModel(pl.LightningModule):
    """Gives back the batches it gets."""

    def __init__(self, training_path: str) -> None:
        super().__init__()
        self.training_paths = [training_path]
        self.post_processor: Any = SimpleNamespace(threshold=torch.tensor(THRESHOLD))

    def test_step(self, batch: Any) -> Any:
        """The answers are in the batch."""
        return batch

    predict_step = test_step


def run(root: Path, visualizer: NeighborVisualizer, data: Listed, model: GivenModel, stage: str = "test") -> None:
    """Test or predict with a real trainer."""
    flags = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = pl.Trainer(default_root_dir=root, accelerator="cpu", callbacks=[visualizer], **flags)
    getattr(trainer, stage)(model, DataLoader(data, batch_size=None))


def list_pictures(root: Path) -> list[str]:
    """Names below a folder."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


def test_equal_names_never_overwrite_one_another(tmp_path: Path) -> None:
    """Equal folder and file name in two lines, and two formats of one name: four files, each showing its own image."""
    names = {"line1/bad/0.png": RED, "line2/bad/0.png": GREEN, "line2/bad/1.png": RED, "line2/bad/1.bmp": GREEN}
    paths = [save(tmp_path / "data" / name, color) for name, color in names.items()]
    model = GivenModel(save(tmp_path / "train.png", (0, 0, 0)))
    run(tmp_path / "run", NeighborVisualizer(overview=False), Listed(paths, [1.0] * 4, None), model)
    images = tmp_path / "run" / "test" / "images"
    assert list_pictures(images) == ["line1/bad/0.png", "line2/bad/0.png", "line2/bad/1.bmp.png", "line2/bad/1.png"]
    middle = explanation._MARGIN + explanation._IMAGE // 2
    for name, color in names.items():
        shown = Image.open(images / name.replace(".bmp", ".bmp.png"))
        assert shown.getpixel((middle, middle)) == color, name
        assert center_of_tile(np.asarray(shown), 0) == (0, 0, 0)


def test_one_visualizer_serves_two_engines(tmp_path: Path) -> None:
    """Each run writes into its own folder, with names from its own data; predict needs no labels."""
    model, visualizer = GivenModel(save(tmp_path / "train.png", GREEN)), NeighborVisualizer(overview=False)
    first = Listed([save(tmp_path / "one" / name, RED) for name in ("a.png", "b.png")], [1.0, 3.0], [0, 1])
    second = Listed([save(tmp_path / "two" / "c.png", RED)], [1.0], None)
    run(tmp_path / "run1", visualizer, first, model)
    run(tmp_path / "run2", visualizer, second, model, "predict")
    assert list_pictures(tmp_path / "run1") == ["test/images/a.png", "test/images/b.png"]
    assert list_pictures(tmp_path / "run2") == ["predict/images/c.png"]


@pytest.mark.parametrize(("images", "expected"), [("flagged", ["images/b.png"]), ("none", [])])
def test_choice_of_images_and_overview(tmp_path: Path, images: Any, expected: list[str]) -> None:
    """Only what was asked for is drawn; the overview does not depend on it."""
    paths = [save(tmp_path / "data" / name, RED) for name in ("a.png", "b.png")]
    model = GivenModel(save(tmp_path / "train.png", GREEN))
    run(tmp_path / "run", NeighborVisualizer(images=images), Listed(paths, [1.0, 3.0], [0, 1]), model)
    assert list_pictures(tmp_path / "run" / "test") == [*expected, "overview.png"]


@pytest.mark.parametrize(("logits", "quantity"), [(True, "logit"), (False, "distance")])
def test_number_is_called_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logits: bool, quantity: str
) -> None:
    """A trained head gives no distance."""
    written: set[str] = set()
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _self, _xy, text, *_, **__: written.add(text))
    model = GivenModel(save(tmp_path / "train.png", GREEN))
    model.post_processor.logits = logits
    listed = Listed([save(tmp_path / "a.png", RED)], [3.0], [1])
    run(tmp_path / "run", NeighborVisualizer(overview=False), listed, model)
    assert f"{quantity} 3, threshold 2" in written


def test_failed_write_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is noticed although threads write the pictures."""

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(explanation, "write_atomically", fail)
    data = Listed([save(tmp_path / "data" / "a.png", RED)], [1.0], None)
    with pytest.raises(OSError, match="disk full"):
        run(tmp_path / "run", NeighborVisualizer(overview=False), data, GivenModel(data.samples["image_path"][0]))


def test_wrong_arguments_are_named() -> None:
    """Before any work."""
    with pytest.raises(ValueError, match="num_neighbors must be at least 0, got -1"):
        NeighborVisualizer(num_neighbors=-1)
    with pytest.raises(ValueError, match="images must be 'all', 'flagged' or 'none', got 'some'"):
        NeighborVisualizer(images="some")  # type: ignore[arg-type]


def test_model_without_post_processor_is_refused(tmp_path: Path) -> None:
    """There would be no verdict to show."""
    data = Listed([save(tmp_path / "a.png", RED)], [1.0], None)
    model = GivenModel(data.samples["image_path"][0])
    model.post_processor = None
    with pytest.raises(ValueError, match="post_processor must be set for pictures"):
        run(tmp_path / "run", NeighborVisualizer(), data, model)


def find_texts(figure: Any) -> str:
    """All words on a page."""
    return "\n".join(text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text")))


def make_rows(tmp_path: Path, distances: list[float], labels: list[int | None]) -> pd.DataFrame:
    """Table of a run."""
    rows = [
        make_row(save(tmp_path / f"{index}.png", RED), distance=distance, label=label)
        for index, (distance, label) in enumerate(zip(distances, labels, strict=True))
    ]
    return pd.DataFrame(rows).astype({"label": "Int8", "predicted_label": "Int8"})


def test_overview_auroc_by_hand(tmp_path: Path) -> None:
    """Of the four pairs (normal, anomalous) three are in order; distances far above 1 are ranked as they are."""
    figure = draw_overview(make_rows(tmp_path, [10.0, 30.0, 20.0, 40.0], [0, 0, 1, 1]), "title")
    texts = find_texts(figure)
    assert "AUROC 0.7500" in texts
    assert "100.0% false alarms, 100.0% found" in texts
    assert "normal (2)" in texts
    assert "anomalous (2)" in texts


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 0], "the test set has no anomalous image"),
        ([1, 1], "no normal image"),
        ([None, None], "labels are not known"),
    ],
)
def test_overview_says_why_there_is_no_curve(tmp_path: Path, labels: list[int | None], reason: str) -> None:
    """Instead of a number that means nothing."""
    texts = find_texts(draw_overview(make_rows(tmp_path, [1.0, 3.0], labels), "title"))
    assert reason in texts
    assert "AUROC" not in texts


def test_overview_orders_images_by_distance(tmp_path: Path) -> None:
    """The first of eight places on the sheet shows the largest distance, the last of the second row the smallest."""
    distances = [float(value) for value in np.random.default_rng(0).permutation(20)]
    rows = make_rows(tmp_path, distances, [0] * 20)
    axes = draw_overview(rows, "title").findobj(match=lambda artist: hasattr(artist, "get_xlabel"))
    captions = [axis.get_xlabel().split("/")[-1] for axis in axes if ".png" in axis.get_xlabel()]
    expected = rows.sort_values("distance", ascending=False)["path"].map(lambda path: Path(path).name).tolist()
    assert captions == expected[:8] + expected[-8:]
