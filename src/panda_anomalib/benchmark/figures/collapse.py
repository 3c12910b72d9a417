"""Runs watched by ``CollapseMonitor`` side by side: PANDA's Fig. 1 (arXiv:2010.05903)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from panda_anomalib.atomic import write_atomically
from panda_anomalib.benchmark.figures.drawing import Drawn
from panda_anomalib.benchmark.report.figures.style import add_legend, draw_png, looks_of

__all__ = ["draw_collapse_runs"]

_PANELS = {  # column -> title, scale
    "test_auroc": ("AUROC of test images in percent", 100),
    "test_anomalous_ratio": ("distance of anomalous test images\nto the centre / typical distance", 1),
    "effective_rank_kept": ("effective rank, share of the start", 1),
}
"""What collapse is seen by; the last also without test images."""


def draw_collapse_runs(files: Sequence[Path | str], output: Path | str | None = None) -> Drawn:
    """Draw the curves of one or several runs over the minibatches.

    Args:
        files: ``collapse.csv`` of each run.
        output: The PNG; by default ``collapse_runs.png`` beside the first file.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is no table of ``CollapseMonitor``.
    """
    paths = [Path(file) for file in files]
    runs = {name: _read(path) for name, path in zip(_names(paths), paths, strict=True)}
    picture = Path(output) if output else paths[0].with_name("collapse_runs.png")
    if picture.suffix.lower() != ".png":
        raise ValueError(f"output must end in .png, got '{picture}'.")
    picture.parent.mkdir(parents=True, exist_ok=True)
    shown = [name for name in _PANELS if any(run[name].notna().any() for run in runs.values() if name in run)]
    if not shown:
        raise ValueError(f"files must have one of the columns {', '.join(_PANELS)} with values, got none in {files}.")
    draw_png(picture, 1 + 3.6 * len(shown), 3.6, lambda canvas: _paint(canvas, runs, shown))
    table = picture.with_suffix(".csv")
    parts = [run[["minibatch", *(name for name in shown if name in run)]].assign(run=key) for key, run in runs.items()]
    write_atomically(table, lambda path: pd.concat(parts).to_csv(path, index=False))
    lines = [f"{', '.join(shown)} over the minibatches of {len(runs)} run{'s' if len(runs) > 1 else ''}."]
    if "test_auroc" not in shown:
        lines.append("Without AUROC: CollapseMonitor looks at test images with watch_test: true only.")
    return Drawn(picture, table, lines)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"file must be a collapse.csv of CollapseMonitor, got '{path}'; check the path.")
    table = pd.read_csv(path)
    if "minibatch" not in table:
        raise ValueError(
            f"file must be a collapse.csv of CollapseMonitor, got '{path}' without the column minibatch; its columns "
            f"are {', '.join(map(str, table.columns[:8]))}."
        )
    return table


def _names(paths: Sequence[Path]) -> list[str]:
    """What the paths differ in, such as the model of a run folder."""
    parts = [path.absolute().parts for path in paths]
    differing = {part for path in parts for part in path if not all(part in other for other in parts)}
    names = ["/".join(part for part in path if part in differing) or path[-1] for path in parts]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _paint(canvas: Figure, runs: dict[str, pd.DataFrame], shown: Sequence[str]) -> None:
    panels: Any = canvas.subplots(1, len(shown), squeeze=False)[0]
    looks = looks_of(list(runs))
    for axes, column in zip(panels, shown, strict=True):
        title, scale = _PANELS[column]
        for name, run in runs.items():
            look = looks[name]
            axes.plot(
                run["minibatch"],
                scale * run.get(column, float("nan")),
                color=look.color,
                linestyle=look.dash,
                marker=look.marker,
                markersize=4,
                label=name,
            )
        axes.set(xlabel="minibatches")
        axes.set_title(title, fontsize=10)
    if len(runs) > 1:
        add_legend(canvas, list(runs))
