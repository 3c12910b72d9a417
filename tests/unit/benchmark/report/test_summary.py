"""Means over classes, and which of them may be compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_results import job, write_results

from panda_anomalib.benchmark.report.class_results import analyse_classes
from panda_anomalib.benchmark.report.reading import read_results
from panda_anomalib.benchmark.report.summary import DatasetResult, auroc_by_dataset, summarise


def summarised(folder: Path, rows: list[dict[str, Any]]) -> list[DatasetResult]:
    """Results of rows without scores."""
    results = read_results([write_results(folder, [(row, None) for row in rows])])
    return summarise(results, analyse_classes(results))


def rows_of(model: str, aurocs: dict[str, list[float]], dataset: str = "wbc") -> list[dict[str, Any]]:
    """A row for each class and seed."""
    return [
        job(model, dataset, category, seed, image_AUROC=value)
        for category, values in aurocs.items()
        for seed, value in enumerate(values)
    ]


def test_mean_spread_and_worst_class(tmp_path: Path) -> None:
    """Spread is that of the seeds' means over classes, not of all numbers: here 0, though classes differ."""
    (result,) = summarised(tmp_path, rows_of("Dn2", {"a": [0.9, 0.8], "b": [0.7, 0.8]}))
    mean = result.means["Dn2"]
    assert mean.mean == pytest.approx(0.8)
    assert mean.spread == pytest.approx(0.0, abs=1e-12)
    assert mean.num_seeds == 2
    assert mean.worst == ("b", pytest.approx(0.75))


def test_incomplete_model_is_not_compared(tmp_path: Path) -> None:
    """A model that failed on the hard class has the higher mean of the rest, and is neither best nor ranked."""
    failed = job("Dfm", "wbc", "hard", status="failed", error="no")
    rows = [*rows_of("Dn2", {"easy": [0.9], "hard": [0.6]}), *rows_of("Dfm", {"easy": [0.95]}), failed]
    rows += rows_of("Padim", {"easy": [0.8], "hard": [0.5]})
    (result,) = summarised(tmp_path, rows)
    assert result.num_classes == 2
    assert not result.is_complete("Dfm")
    assert result.ranking == ["Dn2", "Padim"]
    assert result.best == ["Dn2"]
    assert result.foremost == ["Dn2", "Padim", "Dfm"]
    assert list(auroc_by_dataset([result]).columns) == ["Dn2", "Padim"]
    assert {model: mean.num_best for model, mean in result.means.items()} == {"Dn2": 1, "Dfm": 1, "Padim": 0}


def test_ties_are_all_best_and_one_model_is_not(tmp_path: Path) -> None:
    """What a table prints alike is marked alike; a model alone has nothing to be better than."""
    two = [*rows_of("Dn2", {"a": [0.912341]}), *rows_of("Dfm", {"a": [0.912339]}, "wbc")]
    (result,) = summarised(tmp_path / "two", two)
    assert result.best == ["Dn2", "Dfm"]
    assert result.classes[0].best == ["Dn2", "Dfm"]
    (alone,) = summarised(tmp_path / "one", rows_of("Dn2", {"a": [0.9]}))
    assert alone.best == []
    assert alone.classes[0].best == []


def test_spread_needs_seeds_with_all_classes(tmp_path: Path) -> None:
    """Seed 1 lacks class b: one seed remains, so there is no spread, and the mean is over what there is."""
    (result,) = summarised(tmp_path, rows_of("Dn2", {"a": [0.9, 0.7], "b": [0.6]}))
    mean = result.means["Dn2"]
    assert (mean.num_seeds, np.isnan(mean.spread)) == (1, True)
    assert mean.mean == pytest.approx((0.8 + 0.6) / 2)


def test_data_set_without_any_auroc_is_left_out(tmp_path: Path) -> None:
    """All jobs of a data set failed: it has no result, the other has."""
    failed = job("Dn2", "broken", "a", status="failed", error="no")
    assert [result.dataset for result in summarised(tmp_path, [failed, *rows_of("Dn2", {"a": [0.9]})])] == ["wbc"]
