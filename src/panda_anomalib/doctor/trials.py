"""Checks that do what the package is for, in small: a search, the runtimes, a fit with a verdict known beforehand."""

import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from panda_anomalib.doctor.findings import Finding, install_command

__all__ = ["check_fit", "check_runtimes", "check_search"]


def check_search() -> Finding:
    """Nearest neighbours of 64 queries among 1000 vectors: faiss and our exact search find the same."""
    import faiss
    import torch

    from panda_anomalib.scorers.index import build_index
    from panda_anomalib.scorers.search import mean_and_norms, nearest

    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(rows, 64, generator=generator) for rows in (1000, 64))
    squared, positions = nearest(queries, bank, *mean_and_norms(bank), 5)
    theirs_squared, theirs = build_index("flat", bank).search(queries.numpy(), 5)
    same = bool((positions.numpy() == theirs).all())
    close = bool(torch.allclose(squared, torch.from_numpy(theirs_squared), rtol=1e-4))
    if not (same and close):
        what = "distances" if same else f"{int((positions.numpy() != theirs).sum())} of {theirs.size} neighbours"
        return Finding(
            "error",
            f"faiss {faiss.__version__} and the exact search differ in {what}",
            install_command("faiss-cpu", again=True),
        )
    return Finding("ok", f"faiss {faiss.__version__} and the exact search find the same 5 neighbours of 64 queries")


def check_runtimes() -> list[Finding]:
    """What can execute a backbone, tried on a small network where that is quick."""
    import torch

    from panda_anomalib.backbones.runtimes import RuntimeName, make_runtime

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten()).eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(images)
    names: list[RuntimeName] = ["eager", "channels_last"]
    absent, findings = [], []
    if importlib.util.find_spec("openvino") is not None:
        names.append("openvino")
    else:
        absent.append(f"openvino (2 to 4 times as fast on processors: {install_command('openvino>=2025.0')})")
    usable: list[str] = []
    for name in names:
        try:
            with torch.no_grad():
                difference = float((make_runtime(name, network)(images) - expected).abs().max())
            reason = f"embeddings differ by {difference:.2g}" if difference > 1e-3 else ""
        except Exception as error:  # noqa: BLE001 - a runtime is another program, and fails in its own ways
            reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        if reason:
            mend = install_command(name, again=True) if name == "openvino" else ""
            findings.append(Finding("error", f"{name} does not work: {reason}", mend or "--model.runtime eager"))
        else:
            usable.append(name)
    problem = _compiler_problem()
    if problem:
        absent.append(f"compile ({problem})")
    else:
        usable.append("compile")
    found = ", ".join(usable) + (f"; not usable: {'; '.join(absent)}" if absent else "")
    return [*findings, Finding("ok", found)]


def _compiler_problem() -> str:
    """Why torch.compile could not build its code here; empty if it could. Compiling a network takes a minute."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"no C++ compiler {compiler}: apt install g++"
    source = "#include <Python.h>\n#include <cmath>\nint main() { return 0; }\n"
    include = sysconfig.get_paths()["include"]
    command = [compiler, "-x", "c++", "-", "-fopenmp", f"-I{include}", "-shared", "-fPIC", "-o", os.devnull]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == 0:
        return ""
    said = done.stderr.splitlines() or ["no message"]
    first = next((line for line in said if "error" in line), said[0]).strip()
    return f"{compiler}: {first}: apt install g++ python3-dev"


def check_fit() -> Finding:
    """Fit DN2 on drawn stripes and test it on stripes with and without a disc, which it must tell apart."""
    from anomalib.data import AnomalibDataModule

    from panda_anomalib import Dn2, Engine, OneClassFolder
    from panda_anomalib.backbones.packaged import packaged_state_dict

    start = time.monotonic()
    try:
        packaged_state_dict("tf_efficientnet_lite0")
        weights = "packaged"
    except (FileNotFoundError, ValueError):
        weights = "random"
    with tempfile.TemporaryDirectory() as folder:
        _draw_images(Path(folder) / "stripes")
        data: AnomalibDataModule = OneClassFolder(Path(folder) / "stripes", "good", num_workers=0)
        model = Dn2(weights=weights, visualizer=False)
        engine = Engine(
            default_root_dir=folder, logger=False, enable_progress_bar=False, enable_model_summary=False, devices=1
        )
        engine.fit(model, datamodule=data)
        batches: Any = engine.predict(model, dataloaders=data.test_dataloader())
        rows = [
            (bool(label), bool(flagged), float(distance))
            for batch in batches
            for label, flagged, distance in zip(batch.gt_label, batch.pred_label, batch.distance, strict=True)
        ]
    return _verdict(rows, weights, time.monotonic() - start, model)


def _draw_images(root: Path) -> None:
    """40 images of stripes to train on; to test, 8 more and 8 with a disc."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :96]
    for part, name, count in (("train", "good", 40), ("test", "good", 8), ("test", "disc", 8)):
        (root / part / name).mkdir(parents=True)
        for number in range(count):
            stripes = 128 + 60 * np.sin(columns * 0.4 + rng.uniform(0, 6.28)) + rng.normal(0, 6, (96, 96))
            if name == "disc":
                top, left = rng.integers(30, 66, size=2)
                stripes[(rows - top) ** 2 + (columns - left) ** 2 < 24**2] = 20
            Image.fromarray(stripes.clip(0, 255).astype(np.uint8)).save(root / part / name / f"{number:02}.png")


def _verdict(rows: list[tuple[bool, bool, float]], weights: str, seconds: float, model: Any) -> Finding:
    normal = [distance for label, _, distance in rows if not label]
    anomalous = [distance for label, _, distance in rows if label]
    found = sum(flagged for label, flagged, _ in rows if label)
    told = f"{found} of {len(anomalous)} drawn anomalies found, on {model.device} in {seconds:.0f} s"
    if len(rows) != 16 or found < len(anomalous) or min(anomalous) <= max(normal):
        return Finding("error", f"DN2 with {weights} weights: {told}; all of them must be", "report it with --json")
    if weights == "random":
        return Finding("warning", f"DN2 works ({told}), but with random weights: see the check of weights")
    return Finding("ok", f"DN2: {told}")
