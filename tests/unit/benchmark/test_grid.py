"""Grids."""

from typing import Any

import pytest

from panda_anomalib.benchmark.grid import expand_grid


def test_grid_makes_every_combination_the_first_slowest() -> None:
    """Also of grids inside grids; a key that only contains the letters is no grid."""
    value = {
        "grid_size": [5, 6],
        "model": {"grid": [{"class_path": "A", "k": {"grid": [1, 2]}}, {"class_path": "B"}]},
        "seed": {"grid": [0, 1]},
    }
    expanded = list(expand_grid(value))
    assert all(config["grid_size"] == [5, 6] for config in expanded)
    assert [(c["model"]["class_path"], c["model"].get("k"), c["seed"]) for c in expanded] == [
        ("A", 1, 0), ("A", 1, 1), ("A", 2, 0), ("A", 2, 1), ("B", None, 0), ("B", None, 1),
    ]  # fmt: skip


def test_all_classes_are_left_to_the_data_set() -> None:
    """The word stays where it is."""
    assert list(expand_grid({"normal_class": {"grid": "all"}})) == [{"normal_class": {"grid": "all"}}]


@pytest.mark.parametrize("grid", [{"grid": 3}, {"grid": []}, {"grid": [1], "other": 2}])
def test_grid_of_another_shape_is_refused(grid: dict[str, Any]) -> None:
    """Not taken for a list of one."""
    with pytest.raises(ValueError, match="grid must be a list of values and stand alone"):
        list(expand_grid({"seed": grid}))
