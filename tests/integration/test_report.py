"""The command in its own process: light, and with honest exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from benchmark_results import typical_results


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "panda_anomalib", "report", *arguments]
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_report_of_a_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    """Says what was run and cautions, and where the files are."""
    typical_results(tmp_path / "results", rng)
    done = run("results", "--output", "shown", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "24 jobs (1 failed): 3 models, 2 data sets, 4 classes, 2 seeds."
    assert lines[1].startswith("failed: 1 of 24 jobs failed")
    assert lines[-2:] == ["shown/report.html", "shown/report.md"]
    assert (tmp_path / "shown/report.html").stat().st_size > 50_000


def test_wrong_folder(tmp_path: Path) -> None:
    """One line and exit code 1 for a folder that is not there, 2 for none at all."""
    done = run("nowhere", cwd=tmp_path)
    expected = "error: folder must be one that a benchmark has written, got 'nowhere'; check the path.\n"
    assert (done.returncode, done.stderr) == (1, expected)
    assert run(cwd=tmp_path).returncode == 2


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    """Neither torch nor anomalib, so that the report also works where they are not installed."""
    code = "import sys, panda_anomalib.benchmark.report, panda_anomalib.tools.report as t; t.make_parser(); "
    code += (
        "print([name for name in ('torch', 'anomalib', 'lightning', 'seaborn', 'statsmodels') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
