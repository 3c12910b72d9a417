"""AUROC of the best models on each class of a data set."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from panda_anomalib.benchmark.report.blocks import Figure
from panda_anomalib.benchmark.report.class_results import ClassResult, Outcome
from panda_anomalib.benchmark.report.figures.style import TEXT, Look, add_legend, draw, legend_rows
from panda_anomalib.benchmark.report.summary import DatasetResult

__all__ = ["class_bars"]

_MOST_CLASSES = 30


def class_bars(result: DatasetResult, models: list[str], looks: dict[str, Look], name: str) -> Figure:
    """Bars that begin at chance, with the bootstrap interval or else the spread over seeds.

    Args:
        result: The data set.
        models: Those to show.
        looks: Of all models.
        name: Of the figure.
    """
    # The hardest classes first: they are what one looks for, and all that is shown of many.
    hardest = sorted(result.classes, key=lambda one: max(outcome.mean for outcome in one.outcomes.values()))
    classes = hardest[:_MOST_CLASSES]

    def paint(canvas: Canvas) -> None:
        axes: Axes = canvas.subplots()
        lowest = min(_draw_bars(axes, classes, model, looks[model], (i, len(models))) for i, model in enumerate(models))
        axes.set(xlim=(50 if lowest == 50 else lowest - 1, 100.5), xlabel="AUROC in percent; bars begin at chance, 50")
        axes.set_yticks(range(len(classes)), [one.category for one in classes])
        axes.set_ylim(len(classes) - 0.45, -0.55)
        axes.axvline(50, color=TEXT, linewidth=0.8)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        add_legend(canvas, models)

    height = 0.9 + len(classes) * (0.12 + 0.13 * len(models)) + 0.22 * legend_rows(models)
    left_out = len(result.classes) - len(classes)
    return Figure(
        name,
        draw(5.6, height, paint),
        alt=_in_words(result, classes, models),
        caption="AUROC of each class, the hardest first"
        + (f" ({left_out} easier ones are in the table)" if left_out else "")
        + ". Lines: 95 % bootstrap interval where distances were saved, else ± the standard deviation over seeds."
        + ("" if len(models) == len(result.means) else f" The {len(models)} best of {len(result.means)} models."),
    )


def _draw_bars(axes: Axes, classes: list[ClassResult], model: str, look: Look, place: tuple[int, int]) -> float:
    """Draw the bars of one model; returns how far to the left they reach."""
    index, count = place
    height = 0.84 / count
    having = [(row, one.outcomes[model]) for row, one in enumerate(classes) if model in one.outcomes]
    rows = [row - 0.42 + (index + 0.5) * height for row, _ in having]
    means = [100 * outcome.mean for _, outcome in having]
    lines = [_line(outcome) for _, outcome in having]
    hatch = None if look.dash == "-" else "////"
    axes.barh(rows, [mean - 50 for mean in means], height * 0.92, 50, color=look.color, hatch=hatch, label=model)
    drawn = [(row, low, high) for row, (low, high) in zip(rows, lines, strict=True) if not math.isnan(low)]
    if drawn:
        at, lows, highs = zip(*drawn, strict=True)
        axes.hlines(at, lows, highs, color=TEXT, linewidth=1.4)
    return min([50.0, *means, *(low for _, low, _ in drawn)])


def _line(outcome: Outcome) -> tuple[float, float]:
    low, high = outcome.interval or (outcome.mean - outcome.spread, outcome.mean + outcome.spread)
    return 100 * low, min(100 * high, 100.0)


def _in_words(result: DatasetResult, classes: list[ClassResult], models: list[str]) -> str:
    hardest, easiest = classes[0], classes[-1]
    first = next((model for model in models if model in hardest.outcomes), None)
    text = f"Bar chart of AUROC for {len(classes)} classes of {result.dataset} and {len(models)} models."
    if first is None or first not in easiest.outcomes or len(classes) < 2:
        return text
    return (
        f"{text} {first} goes from {100 * hardest.outcomes[first].mean:.1f} percent on {hardest.category} to "
        f"{100 * easiest.outcomes[first].mean:.1f} on {easiest.category}."
    )
