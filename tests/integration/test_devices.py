"""Two processes give what one gives."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

SCRIPT = """
import sys, warnings
warnings.filterwarnings("ignore")
import torch
from anomalib.engine import Engine
from panda_anomalib import Dn2, OneClassFolder, Panda

root, out, devices, name = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
torch.manual_seed(0)
small = {"backbone": "test_resnet", "weights": "random", "runtime": "eager", "resize": 80, "crop": 64, "scorer": "knn"}
adaptation = {"minibatches": 3, "learning_rate": 0.05, "gradient_clip": 0.1}
model = Dn2(**small) if name == "Dn2" else Panda(**small, **adaptation)
data = OneClassFolder(root=root, normal_class="astronaut", test_split_ratio=0.25, num_workers=0,
                      train_batch_size=8 // devices, eval_batch_size=4)
several = {"strategy": "ddp", "devices": devices} if devices > 1 else {"devices": 1}
engine = Engine(default_root_dir=out, accelerator="cpu", logger=False, enable_progress_bar=False,
                enable_model_summary=False, **several)
engine.train(model, datamodule=data)
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An odd number of images on either side, so that two processes must pad."""
    from skimage import data

    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name, image, count in (("astronaut", data.astronaut(), 20), ("coffee", data.coffee(), 12)):
        (root / name).mkdir()
        for i in range(count):
            top, left = rng.integers(0, 200, 2)
            Image.fromarray(image[top : top + 120, left : left + 150]).save(root / name / f"{i:02}.png")
    return root


def run(photographs: Path, out: Path, devices: int, model: str) -> Path:
    """Train and test in a process of its own; the run folder."""
    script = out / "run.py"
    out.mkdir()
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, script, photographs, out, str(devices), model], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return out / model / photographs.name / "astronaut" / "v0"


@pytest.mark.parametrize("model", ["Dn2", "Panda"])
def test_two_devices_give_what_one_gives(model: str, photographs: Path, tmp_path: Path) -> None:
    """Same weights, bank, threshold, scores and metrics; each of the 15 + 8 images counted once despite the padding."""
    one, two = run(photographs, tmp_path / "one", 1, model), run(photographs, tmp_path / "two", 2, model)
    first, second = (torch.load(path / "weights/lightning/model.ckpt", weights_only=True) for path in (one, two))
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for checkpoint in (first, second):  # each of two processes computes with half the threads and batches, and says so
        conditions = checkpoint["panda_anomalib"]["bank"]["conditions"]
        checkpoint["panda_anomalib"]["bank"]["conditions"] = {
            name: value for name, value in conditions.items() if not name.endswith(("_threads", "batch_size"))
        }
    assert first["panda_anomalib"] == second["panda_anomalib"]
    assert len(first["panda_anomalib"]["training_paths"]) == 15
    for name, value in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][name], value, rtol=1e-3, atol=1e-5, msg=name)
    tables = [pd.read_parquet(path / "test/predictions.parquet").sort_values("path") for path in (one, two)]
    assert list(tables[0]["path"]) == list(tables[1]["path"])
    assert len(tables[0]) == 8
    np.testing.assert_allclose(tables[1]["distance"], tables[0]["distance"], rtol=1e-4)
    metrics = [json.loads((path / "test/metrics.json").read_text())["metrics"] for path in (one, two)]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-6)
