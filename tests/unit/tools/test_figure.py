"""The command ``figure``: what its words mean, and what it prints."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmark_results import typical_results

from panda_anomalib.tools.figure import make_parser, paper_curve, run


def test_values_of_a_paper() -> None:
    """One value for all x, or one for each; a name may have an equals sign in it."""
    assert paper_curve("kNN=92.52") == ("kNN", {None: 92.52})
    assert paper_curve("K-means, k=2=1:91.94,3:92.00") == ("K-means, k=2", {1.0: 91.94, 3.0: 92.0})


@pytest.mark.parametrize("text", ["92.5", "=92.5", "kNN=", "kNN=1:2:3", "kNN=1:a", "kNN=1:2,3"])
def test_no_values_of_a_paper(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, with the form that is accepted."""
    with pytest.raises(SystemExit) as stop:
        make_parser().parse_args(["results", "--paper", text])
    assert stop.value.code == 2
    assert f"must be NAME=VALUE or NAME=X:VALUE,X:VALUE, got {text!r}" in capsys.readouterr().err


def test_prints_what_was_chosen_and_where_it_is(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a results folder, or the table in it."""
    folder = typical_results(tmp_path / "results", rng)
    for results in (folder, folder / "results.csv"):
        assert run(make_parser().parse_args([str(results)])) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("heat: image_AUROC over dataset, by model (x and by chosen by what varies)")
        expected = folder / "figures/image_AUROC_by_dataset.png"
        assert lines[-2:] == [str(expected), str(expected.with_suffix(".csv"))]


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    """Neither torch nor anomalib: a figure takes seconds."""
    code = "import sys, panda_anomalib.benchmark.figures, panda_anomalib.tools.figure as t; t.make_parser(); "
    code += "print([name for name in ('torch', 'anomalib', 'lightning') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
