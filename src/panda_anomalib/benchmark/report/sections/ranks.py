"""What several data sets together say about the models."""

from panda_anomalib.benchmark.report.analysis import Analysis
from panda_anomalib.benchmark.report.blocks import Block, Cell, Section, Table, Text
from panda_anomalib.benchmark.report.figures.critical_difference import (
    can_draw_critical_difference,
    critical_difference,
)
from panda_anomalib.benchmark.report.formats import p_value
from panda_anomalib.benchmark.report.statistics import RankComparison

__all__ = ["ranks_section"]


def ranks_section(analysis: Analysis) -> Section | None:
    """Mean ranks, Friedman, pairs and diagram, or why there are none; nothing for one model."""
    if len(analysis.models) < 2 or not analysis.datasets:
        return None
    blocks: list[Block] = [
        Text(
            "The unit here is the data set: one mean over its classes for each model. Classes of one data set share "
            "images and protocol and are no independent data sets, so they are not counted as such."
        )
    ]
    ranked = analysis.ranked
    if ranked is None:
        blocks.append(Text("There is one data set, so models cannot be compared over data sets."))
        return Section("ranks", "Over data sets", blocks)
    if analysis.unranked:
        blocks.append(Text(f"Left out, because not every data set is complete: {', '.join(analysis.unranked)}."))
    if len(ranked.mean_ranks):
        blocks.append(_table(ranked))
    if ranked.friedman_p is not None:
        blocks.append(Text(f"Friedman's test that all models are alike: p = {p_value(ranked.friedman_p)}."))
    blocks.append(Text(ranked.remark))
    if ranked.pairs is not None and can_draw_critical_difference():
        blocks.append(critical_difference(ranked.mean_ranks, ranked.pairs, "critical-difference"))
    elif ranked.pairs is not None:
        blocks.append(
            Text("The diagram needs scikit-posthocs: install panda-anomalib[report] and make the report again.")
        )
    return Section("ranks", "Over data sets", blocks)


def _table(ranked: RankComparison) -> Table:
    models = [str(model) for model in ranked.mean_ranks.index]
    if ranked.pairs is None:
        rows: list[list[Cell | str]] = [[model, f"{ranked.mean_ranks[model]:.2f}"] for model in models]
        return Table("Mean rank over data sets, 1 is best", ["model", "mean rank"], rows)
    rows = []
    for model in models:
        p_values = [float(value) for value in ranked.pairs.loc[model, models].to_numpy()]
        cells = [
            Cell("" if other == model else p_value(p), bold=p < 0.05) for other, p in zip(models, p_values, strict=True)
        ]
        rows.append([model, f"{ranked.mean_ranks[model]:.2f}", *cells])
    return Table(
        "Mean rank over data sets, 1 is best, and p-value of each pair (Wilcoxon's signed-rank test, Holm)",
        ["model", "mean rank", *models],
        rows,
        "Bold: below 0.05.",
    )
