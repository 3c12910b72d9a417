"""Two processes that change one memory bank at once."""

import subprocess
import sys
from pathlib import Path

import torch
from runs import engine, one_class, seeded

from panda_anomalib import Dn2


def test_two_processes_lose_nothing(photographs: Path, tmp_path: Path) -> None:
    """Whichever comes second waits, and adds to what the first has written."""
    run = engine(tmp_path)
    run.fit(seeded(Dn2), datamodule=one_class(photographs))
    model = run.best_model_path
    new = [photographs / f"coffee/0{number}.png" for number in range(2)]
    command = [sys.executable, "-m", "panda_anomalib", "bank", "add", model]
    started = [
        subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for path in new
    ]
    answers = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], answers
    said = sorted(out.splitlines()[0] for out, _ in answers)
    assert said == [
        "Added 1 image: the bank has grown from 30 to 31 images.",
        "Added 1 image: the bank has grown from 31 to 32 images.",
    ]
    assert set(torch.load(model, weights_only=True)["panda_anomalib"]["training_paths"]) >= {str(path) for path in new}
