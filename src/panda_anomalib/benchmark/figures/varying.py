"""What varies in the results of a benchmark, and which of it a figure shows."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import pandas as pd

__all__ = ["Choice", "choose", "prepare", "run_columns", "varying", "x_may_be"]

_ALIASES = frozenset({"class_path", "root", "name", "normal_class", "category", "seed", "download"})
"""Arguments that another column stands for, or that change no result."""


@dataclass(frozen=True)
class Choice:
    """What a figure shows.

    Attributes:
        x: Column along the axis.
        by: Columns of which each combination is a line.
        averaged: Columns that vary, and that are neither: means go over them, as over classes and seeds.
        chosen: Which of x and by were not asked for.
    """

    x: str
    by: list[str]
    averaged: list[str]
    chosen: list[str] = field(default_factory=list)


def prepare(jobs: pd.DataFrame) -> pd.DataFrame:
    """Copy of the rows of finished jobs with numbers as numbers, and with data sets named without their settings.

    The runner names a data set ``cifar10 num_train=10`` where it is there with several settings, so that its rows can
    be told apart; a figure over ``num_train`` must see one data set.
    """
    table = jobs.reset_index(drop=True).copy()
    for column in _dotted(table):
        table[column] = _as_numbers(table[column])
    places = [name for name in ("data.class_path", "data.init_args.root", "data.init_args.name") if name in table]
    for _, names in table.groupby(places, dropna=False, sort=False)["dataset"] if places else []:
        words = zip(*(str(name).split(" ") for name in names.unique()), strict=False)
        common = takewhile(lambda same: len(set(same)) == 1, words)
        if plain := " ".join(word for word, *_ in common):
            table.loc[names.index, "dataset"] = plain
    return table


def run_columns(table: pd.DataFrame) -> list[str]:
    """Columns of seeds that vary: the spread of a mean is over them."""
    seeds = [str(name) for name in table if name == "seed" or str(name).endswith(".seed")]
    return [name for name in seeds if name != "data.init_args.seed" and _count(table[name]) > 1]


def varying(table: pd.DataFrame) -> list[str]:
    """Columns in which jobs differ, without seeds and without those that another column stands for."""
    settings = [name for name in _dotted(table) if name.rpartition(".")[2] not in _ALIASES]
    settings.sort(key=lambda name: name.startswith("model."))  # what the images are before what is done with them
    named = [name for name in ("model", "model_class", "dataset", "category", "accelerator") if name in table]
    return [name for name in (*named, *settings) if _count(table[name]) > 1]


def choose(table: pd.DataFrame, x: str | None, by: Sequence[str] | None) -> Choice:
    """Decide what is drawn over what, as far as it is not asked for.

    The axis is the number with most values among the settings that vary within one model; else data sets where there
    are several, else models, else classes. Lines are the fewest columns that tell the rest apart.

    Args:
        table: From ``prepare``.
        x: Column, or the last part of its name.
        by: Columns, in the same way.

    Raises:
        ValueError: If there is no such column, or nothing varies.
    """
    candidates = varying(table)
    chosen_by = None if by is None else [_resolve("by", name, table) for name in by]
    chosen_x = _resolve("x", x, table) if x is not None else _choose_x(table, candidates, chosen_by or [])
    if chosen_x in (chosen_by or []):
        raise ValueError(f"by must be another column than x, got {chosen_x!r} for both; leave one out.")
    lines = _choose_by(table, chosen_x, candidates) if chosen_by is None else chosen_by
    averaged: list[str] = []
    for name in candidates if by is not None else []:
        if name not in (chosen_x, *lines, "category") and _splits(table, [chosen_x, *lines, *averaged], name):
            averaged.append(name)
    chosen = [name for name, asked in (("x", x), ("by", by)) if asked is None]
    return Choice(chosen_x, lines, averaged, chosen)


def x_may_be(table: pd.DataFrame) -> str:
    """End of an error message: which columns vary."""
    found = varying(table)
    return f"what varies is {', '.join(found)}." if found else "nothing varies."


def _choose_x(table: pd.DataFrame, candidates: list[str], taken: list[str]) -> str:
    free = [name for name in candidates if name not in taken]
    numbers = [name for name in free if "." in name and _is_number(table[name]) and _varies_within(table, name)]
    if numbers:
        return max(numbers, key=lambda name: table[name].nunique())
    for name in ("dataset", "model", "category"):
        if name in free:
            return name
    raise ValueError(
        f"results must vary in a setting, model, data set or class to be drawn, got {len(table)} finished jobs that "
        f"do not{' beyond ' + ', '.join(taken) if taken else ''}; give the benchmark a grid."
    )


def _varies_within(table: pd.DataFrame, name: str) -> bool:
    """Whether it is a setting that was studied, and not just one that each model has its own value of."""
    return bool((table.groupby(["model_class", "dataset"])[name].nunique() > 1).any())


def _choose_by(table: pd.DataFrame, x: str, candidates: list[str]) -> list[str]:
    if x in ("model", "model_class"):
        models: list[str] = []
    elif x.startswith("model."):
        models = ["model_class", *(name for name in candidates if name.startswith("model."))]
    else:
        models = ["model"]
    others = ["dataset", *(name for name in candidates if name.startswith("data.")), "accelerator"]
    lines: list[str] = []
    for name in (*models, *others):
        if name != x and name in candidates and _splits(table, [x, *lines], name, lines=lines):
            lines.append(name)
    return lines


def _splits(table: pd.DataFrame, keys: list[str], name: str, lines: list[str] | None = None) -> bool:
    """Whether jobs at one point differ in it, or it tells jobs that have no x from those that have one."""
    if (table.groupby(keys, dropna=False)[name].nunique(dropna=False) > 1).any():
        return True
    missing = table[keys[0]].isna()
    if lines is None or missing.all() or not missing.any():
        return False
    apart = [
        _values(table[~missing], [*lines, *more]) & _values(table[missing], [*lines, *more]) for more in ([], [name])
    ]
    return bool(apart[0]) and not apart[1]


def _values(table: pd.DataFrame, columns: list[str]) -> set[tuple[str, ...]]:
    return set(map(tuple, table[columns].astype(str).to_numpy().tolist())) if columns else {()}


def _resolve(option: str, name: str, table: pd.DataFrame) -> str:
    columns = [str(column) for column in table]
    if name in columns:
        return name
    found = [column for column in columns if column.rpartition(".")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{option} must be one column, got {name!r}, which may be {' or '.join(found)}; say which.")
    short = {column.rpartition(".")[2]: column for column in columns}
    near = difflib.get_close_matches(name, [*columns, *short], n=3, cutoff=0.5)
    nearest = f"the nearest are {', '.join(near)}; " if near else ""
    raise ValueError(f"{option} must be a column of the results, got {name!r}; {nearest}{x_may_be(table)}")


def _dotted(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table if str(name).startswith(("model.", "data."))]


def _count(values: "pd.Series[Any]") -> int:
    return int(values.nunique(dropna=False))


def _is_number(values: "pd.Series[Any]") -> bool:
    return pd.api.types.is_numeric_dtype(values)


def _as_numbers(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Numbers where all are, else words; a table of words and numbers has them as words."""
    present = values.dropna()
    if present.map(lambda value: isinstance(value, bool)).any():
        return values.map(lambda value: value if pd.isna(value) else str(value).lower())
    numbers = pd.to_numeric(present, errors="coerce")
    if len(present) and numbers.notna().all():
        return pd.to_numeric(values)
    return values.map(lambda value: value if pd.isna(value) else str(value))
