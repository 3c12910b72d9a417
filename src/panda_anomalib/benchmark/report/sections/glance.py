"""The first screen: what must be known, and the table that most readers come for."""

from typing import Any

from panda_anomalib.benchmark.report.analysis import Analysis
from panda_anomalib.benchmark.report.blocks import Block, Cell, Section, Table
from panda_anomalib.benchmark.report.cautions import cautions
from panda_anomalib.benchmark.report.formats import mean_and_spread

__all__ = ["glance_section"]


def glance_section(analysis: Analysis) -> Section:
    """Cautions, then models x data sets."""
    blocks: list[Block] = list(cautions(analysis))
    if analysis.datasets:
        blocks.append(_table(analysis))
    return Section("glance", "At a glance", blocks)


def _table(analysis: Analysis) -> Table:
    ranks: Any = analysis.ranked.mean_ranks if analysis.ranked else {}
    measured = [model for model in analysis.models if any(model in result.means for result in analysis.datasets)]
    header = ["model", *(result.dataset for result in analysis.datasets)]
    rows = []
    for model in measured:
        row = [Cell(model), *(_cell(analysis, model, i) for i in range(len(analysis.datasets)))]
        rows.append([*row, Cell(f"{ranks[model]:.2f}" if model in ranks else "-")] if len(ranks) else row)
    partial = any(cell.mark for row in rows for cell in row)
    return Table(
        "Mean AUROC over classes, in percent, ± standard deviation over seeds",
        [*header, "mean rank"] if len(ranks) else header,
        rows,
        "Bold: the highest of its column."
        + (" *: fewer classes than the data set has, see above; neither ranked nor bold." if partial else "")
        + (" Rank 1 is best; see Over data sets for what the ranks can show." if len(ranks) else ""),
    )


def _cell(analysis: Analysis, model: str, position: int) -> Cell:
    result = analysis.datasets[position]
    if model not in result.means:
        return Cell("-")
    mean = result.means[model]
    mark = "" if result.is_complete(model) else "*"
    return Cell(mean_and_spread(mean.mean, mean.spread), bold=model in result.best, mark=mark)
