"""How unusual each normal image is among the others."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from runs import engine, one_class, seeded

from panda_anomalib import Dn2
from panda_anomalib.bank import list_images
from panda_anomalib.models.panda import Panda


def test_wrong_images_come_first(photographs: Path, tmp_path: Path) -> None:
    """Three of another class among thirty: on top, and the p-values are those of the formula, each without itself."""
    root = tmp_path / "photographs"
    shutil.copytree(photographs / "astronaut", root / "astronaut")
    for number in (2, 5, 8):
        shutil.copy(photographs / f"coffee/{number:02}.png", root / f"astronaut/wrong{number}.png")
    run = engine(tmp_path / "run")
    run.fit(seeded(Dn2, num_neighbors=3), datamodule=one_class(root, classes=["astronaut"], test_split_ratio=0.01))
    table = list_images(run.best_model_path)
    checkpoint = torch.load(run.best_model_path, weights_only=True)
    assert len(table) == 42
    assert table["distance"].is_monotonic_decreasing
    assert {Path(path).stem for path in table["path"][:2]} <= {"wrong2", "wrong5", "wrong8"}
    distances = checkpoint["state_dict"]["model.scorer.calibration"].numpy()
    known = dict(zip(checkpoint["panda_anomalib"]["training_paths"], distances, strict=True))
    assert [known[path] for path in table["path"]] == list(table["distance"])
    for row in range(len(table)):
        others = np.delete(table["distance"].to_numpy(), row)
        expected = reference.conformal_p_value(table["distance"][row], others)
        assert table["p_value"][row] == pytest.approx(expected)
    assert table["sets_threshold"].all()
    assert table["sha256"].str.fullmatch("[0-9a-f]{64}").all()


@pytest.mark.parametrize("earlier", [False, True])
def test_images_that_set_no_threshold_are_compared_with_those_that_do(
    earlier: bool, photographs: Path, tmp_path: Path
) -> None:
    """A network knows the images that it was trained on; also in checkpoints that do not say which."""
    run = engine(tmp_path)
    run.fit(seeded(Panda, minibatches=2, learning_rate=0.01), datamodule=one_class(photographs))
    checkpoint = torch.load(run.best_model_path, weights_only=True)
    held_out = checkpoint["panda_anomalib"]["bank"]["calibrated"]
    paths = {checkpoint["panda_anomalib"]["training_paths"][number] for number in held_out}
    if earlier:
        del checkpoint["panda_anomalib"]["bank"]
    torch.save(checkpoint, tmp_path / "model.ckpt")
    table = list_images(tmp_path / "model.ckpt")
    assert set(table["path"][table["sets_threshold"]]) == paths
    assert 0 < len(paths) < 30
    known = table["distance"][table["sets_threshold"]].to_numpy()
    for row in table[~table["sets_threshold"]].itertuples():
        assert row.p_value == pytest.approx(reference.conformal_p_value(row.distance, known))
    assert (table["sha256"] == "").all() == earlier
