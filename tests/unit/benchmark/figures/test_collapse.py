"""Watched trainings side by side."""

from pathlib import Path

import pandas as pd
import pytest

from panda_anomalib.benchmark.figures import draw_collapse_runs


def _run(folder: Path, aurocs: list[float] | None) -> Path:
    folder.mkdir(parents=True)
    table = pd.DataFrame({"minibatch": [0, 10, 20], "effective_rank_kept": [1.0, 0.5, 0.25]})
    table["test_auroc"] = aurocs
    table.to_csv(folder / "collapse.csv", index=False)
    return folder / "collapse.csv"


def test_runs_are_named_by_what_their_paths_differ_in(tmp_path: Path) -> None:
    """The table beside the picture has every value under the name of its run."""
    files = [
        _run(tmp_path / f"results/{model}/wbc/v0/collapse", aurocs)
        for model, aurocs in (("Panda", [0.8, 0.9, 0.6]), ("PandaEwc", [0.8, 0.9, 0.9]))
    ]
    drawn = draw_collapse_runs(files)
    assert drawn.picture == files[0].with_name("collapse_runs.png")
    assert drawn.picture.stat().st_size > 10_000
    table = pd.read_csv(drawn.table)
    assert table.pivot_table(index="minibatch", columns="run", values="test_auroc").to_dict("list") == {
        "Panda": [0.8, 0.9, 0.6],
        "PandaEwc": [0.8, 0.9, 0.9],
    }
    assert drawn.lines == ["test_auroc, effective_rank_kept over the minibatches of 2 runs."]


def test_without_test_images(tmp_path: Path) -> None:
    """What can be seen without them is drawn, and how to see more is said."""
    drawn = draw_collapse_runs([_run(tmp_path / "run", None)], tmp_path / "shown/one.png")
    assert drawn.picture.is_file()
    assert "test_auroc" not in pd.read_csv(drawn.table)
    assert drawn.lines[1] == "Without AUROC: CollapseMonitor looks at test images with watch_test: true only."


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Missing ones, and tables of something else."""
    with pytest.raises(FileNotFoundError, match=r"file must be a collapse\.csv of CollapseMonitor, got"):
        draw_collapse_runs([tmp_path / "collapse.csv"])
    pd.DataFrame({"path": ["a"], "score": [1]}).to_csv(tmp_path / "predictions.csv", index=False)
    with pytest.raises(ValueError, match=r"without the column minibatch; its columns are path, score"):
        draw_collapse_runs([tmp_path / "predictions.csv"])
