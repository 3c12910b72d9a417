"""From results of a benchmark to a figure, and the table of what is drawn beside it."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from panda_anomalib.atomic import write_atomically
from panda_anomalib.benchmark.figures.bars import bars_height, draw_bars
from panda_anomalib.benchmark.figures.curve import PaperCurve, draw_curve
from panda_anomalib.benchmark.figures.heat import draw_heat, heat_size
from panda_anomalib.benchmark.figures.points import Points, line_names, make_points, paper_values, published_value
from panda_anomalib.benchmark.figures.varying import Choice, choose, prepare
from panda_anomalib.benchmark.report.figures.style import draw_png, legend_rows
from panda_anomalib.benchmark.report.reading import read_results

__all__ = ["Drawn", "KindName", "draw_results"]

KindName = Literal["curve", "bars", "heat"]


@dataclass(frozen=True)
class Drawn:
    """A figure on disk.

    Attributes:
        picture: PNG.
        table: CSV of what is drawn, beside it.
        lines: What was chosen, and what the reader must know.
    """

    picture: Path
    table: Path
    lines: list[str]


def draw_results(
    folders: Sequence[Path | str],
    *,
    x: str | None = None,
    by: Sequence[str] | None = None,
    metric: str = "image_AUROC",
    kind: KindName | None = None,
    paper: Mapping[str, PaperCurve] | None = None,
    output: Path | str | None = None,
) -> Drawn:
    """Draw a metric over whatever varies in a benchmark.

    Numbers along the axis give a curve, words give bars, and data sets with several methods a table of both. A point is
    the mean over classes and over seeds, its spread the standard deviation over seeds. AUROC that the papers have for
    the same method on the same data set and as many classes stands beside it.

    Args:
        folders: Results of one or several benchmarks.
        x: Column along the axis, or the last part of its name; by default what varies most.
        by: Columns of which each combination is a line; by default what else tells jobs apart.
        metric: Column that is drawn.
        kind: ``curve``, ``bars`` or ``heat``; by default what x asks for.
        paper: Further published values by name, in percent, drawn with a curve.
        output: The PNG; by default in the folder ``figures`` of the first results.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If a column is not there, or nothing varies.
    """
    if kind is not None and kind not in get_args(KindName):
        raise ValueError(f"kind must be one of {', '.join(get_args(KindName))}, got {kind!r}.")
    results = read_results([Path(folder) for folder in folders])
    if results.done.empty:
        raise ValueError(f"results must have finished jobs, got {len(results.failed)} failed ones; see errors.log.")
    jobs = prepare(results.done)
    _check_metric(jobs, metric)
    choice = choose(jobs, x, by)
    if not pd.api.types.is_numeric_dtype(jobs[choice.x]):
        jobs[choice.x] = jobs[choice.x].fillna("default")
    points = make_points(jobs, choice, metric)
    kind = kind or _kind(points)
    if kind == "curve" and not pd.api.types.is_numeric_dtype(points.table[choice.x]):
        raise ValueError(f"x of a curve must be a number, got {choice.x!r} with words; take bars or heat.")
    if kind != "curve" and paper:
        raise ValueError(f"paper must go with a curve, got {kind}, which has the published values by itself.")
    picture = (
        Path(output) if output else Path(folders[0]) / "figures" / f"{metric}_by_{choice.x.rpartition('.')[2]}.png"
    )
    if picture.suffix.lower() != ".png":
        raise ValueError(f"output must end in .png, got '{picture}'.")
    picture.parent.mkdir(parents=True, exist_ok=True)
    if kind == "curve":
        drawn = _draw_curve(picture, jobs, points, paper or {})
    else:
        drawn = _draw_words(picture, jobs, points, kind)
    table = picture.with_suffix(".csv")
    write_atomically(table, lambda path: drawn.to_csv(path, index=False))
    failed = len(results.failed)
    lines = [_said(kind, points, choice, jobs), *results.remarks, *points.remarks]
    lines += [f"{failed} of {len(results.jobs)} jobs failed and are missing."] if failed else []
    return Drawn(picture, table, lines)


def _kind(points: Points) -> KindName:
    if pd.api.types.is_numeric_dtype(points.table[points.x]) and points.x != "category":
        return "curve"
    return "heat" if points.x in ("dataset", "category") and len(points.lines) > 1 else "bars"


def _draw_curve(picture: Path, jobs: pd.DataFrame, points: Points, paper: Mapping[str, PaperCurve]) -> pd.DataFrame:
    """Draw, and return the table of it."""
    found = paper_values(jobs, points) if points.metric == "image_AUROC" else {}
    curves: dict[str, PaperCurve] = {**{name: {None: value} for name, value in found.items()}, **paper}
    height = 3.6 + 0.22 * legend_rows([*points.lines, *curves, ""])
    draw_png(picture, 6.4, height, lambda canvas: draw_curve(canvas, points, curves))
    published = [
        {"line": f"paper: {name}", points.x: at, "mean": value / 100}
        for name, curve in curves.items()
        for at, value in curve.items()
    ]
    return pd.concat([points.table, pd.DataFrame(published)], ignore_index=True) if published else points.table


def _draw_words(picture: Path, jobs: pd.DataFrame, points: Points, kind: KindName) -> pd.DataFrame:
    """The same of bars and of a heat table."""
    paper = {}
    if points.metric == "image_AUROC":
        for (line, at), own in jobs.groupby([line_names(jobs, points.by), points.x], sort=False):
            if (value := published_value(own)) is not None:
                paper[str(line), str(at)] = value[1]
    if kind == "bars":
        draw_png(picture, 6.4, bars_height(points), lambda canvas: draw_bars(canvas, points, paper))
    else:
        draw_png(picture, *heat_size(points), lambda canvas: draw_heat(canvas, points, paper))
    keys = zip(points.table["line"], points.table[points.x].astype(str), strict=True)
    return points.table.assign(paper=[paper.get(key, float("nan")) / 100 for key in keys])


def _check_metric(jobs: pd.DataFrame, metric: str) -> None:
    known = [str(name) for name in jobs if pd.api.types.is_numeric_dtype(jobs[name]) and jobs[name].notna().any()]
    if metric not in known:
        near = difflib.get_close_matches(metric, known, n=3, cutoff=0.4)
        metrics = near or [name for name in known if name.startswith(("image_", "pixel_"))]
        raise ValueError(
            f"metric must be a column of numbers that finished jobs have, got {metric!r}; the nearest are "
            f"{', '.join(metrics)}."
        )


def _said(kind: KindName, points: Points, choice: Choice, jobs: pd.DataFrame) -> str:
    by = f", by {', '.join(points.by)}" if points.by else ""
    chosen = f" ({' and '.join(choice.chosen)} chosen by what varies)" if choice.chosen else ""
    classes = int(jobs.groupby([points.x, *points.by], dropna=False)["category"].nunique().max())
    seeds = int(points.table["seeds"].max())
    means = f"; means over {classes} classes" if classes > 1 else ""
    spread = f"; ± standard deviation over {seeds} seeds" if seeds > 1 else "; one seed"
    return f"{kind}: {points.metric} over {points.x}{by}{chosen}{means}{spread}."
