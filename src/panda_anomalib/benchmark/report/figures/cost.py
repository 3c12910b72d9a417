"""Time against AUROC."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from panda_anomalib.benchmark.report.blocks import Figure
from panda_anomalib.benchmark.report.figures.style import PAPER, Look, add_legend, draw, legend_rows

__all__ = ["cost_plot"]


def cost_plot(dataset: str, points: dict[str, tuple[float, float]], looks: dict[str, Look], name: str) -> Figure:
    """Seconds of fitting and testing one class against the mean AUROC.

    Args:
        dataset: Its name.
        points: Model -> seconds, AUROC in [0, 1].
        looks: Of all models.
        name: Of the figure.
    """

    def paint(canvas: Canvas) -> None:
        axes: Axes = canvas.subplots()
        for model, (seconds, auroc) in points.items():
            look = looks[model]
            axes.plot(
                seconds,
                100 * auroc,
                look.marker,
                color=look.color,
                markersize=11,
                markeredgecolor=PAPER,
                label=model,
                clip_on=False,
                zorder=3,
            )
        axes.set(xscale="log", xlabel="seconds to fit and test one class", ylabel="AUROC in percent")
        axes.margins(0.12, 0.15)
        times = [seconds for seconds, _ in points.values()]
        if max(times) < 20 * min(times):  # decades alone would leave one tick or none
            axes.set_xlim(min(times) / 2, max(times) * 2)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        add_legend(canvas, list(points))

    quickest = min(points, key=lambda model: points[model][0])
    best = max(points, key=lambda model: points[model][1])
    return Figure(
        name,
        draw(5.6, 3.0 + 0.22 * legend_rows(list(points)), paint),
        alt=f"Time against AUROC on {dataset} for {len(points)} models: {quickest} is the quickest with "
        f"{points[quickest][0]:.3g} seconds and {100 * points[quickest][1]:.1f} percent, {best} the best with "
        f"{points[best][0]:.3g} seconds and {100 * points[best][1]:.1f} percent.",
        caption=f"{dataset}: time against AUROC; up and to the left is better. Mean over classes and seeds; the time "
        "axis is logarithmic.",
    )
