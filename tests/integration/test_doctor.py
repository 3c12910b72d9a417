"""The doctor in its own process: a healthy installation, and one in which torchvision cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path


def _doctor(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "panda_anomalib", "doctor", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_a_healthy_installation(tmp_path: Path) -> None:
    """Every check is made, none fails, and nothing is left in the folder."""
    result = _doctor("--json", cwd=tmp_path)
    document = json.loads(result.stdout)
    problems = [finding for finding in document["findings"] if finding["status"] in ("error", "skipped")]
    assert problems == []
    assert result.returncode == 0
    names = {finding["check"] for finding in document["findings"]}
    assert {"python", "packages", "torch", "torchvision", "anomalib", "weights", "search", "runtimes", "fit"} <= names
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in result.stderr


def test_where_torchvision_cannot_be_imported(tmp_path: Path) -> None:
    """The command answers, names the cause and its mend, and leaves out what would fail for the same reason."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / "torchvision/version.py").write_text("__version__ = '0.99.0+elsewhere'")
    result = _doctor(cwd=tmp_path, path=tmp_path)
    assert result.returncode == 1, result.stderr
    lines = result.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("error")]
    assert line.endswith(
        "torchvision 0.99.0+elsewhere are not of one build, or one of them is not whole: operator "
        "torchvision::nms does not exist"
    )
    mend = lines[lines.index(line) + 1]
    assert "install" in mend
    assert mend.endswith("torch torchvision (both in one command, from one index)")
    assert any(line.startswith("skipped  fit ") for line in lines)
    assert any(line.startswith("ok       torch ") for line in lines)
    assert lines[-1].startswith("It does not work: ")
