"""DeLong's tests of the best model of each class against the others."""

from panda_anomalib.benchmark.report.blocks import Block, Cell, Details, Table, Text
from panda_anomalib.benchmark.report.class_results import ClassResult
from panda_anomalib.benchmark.report.formats import p_value, points
from panda_anomalib.benchmark.report.summary import DatasetResult

__all__ = ["paired_tests"]


def paired_tests(result: DatasetResult) -> list[Block]:
    """One folded table for all classes, with what limits the tests; nothing where no pair was compared."""
    rows = [row for one in result.classes for row in _rows(one)]
    remarks = list(dict.fromkeys(remark for one in result.classes for remark in one.pairs.remarks))
    if not rows:
        return [Text(remark) for remark in remarks]
    table = Table(
        f"{result.dataset}: best model of each class minus each other one, AUROC in points",
        ["class", "best", "other", "difference", "95 % interval", "p", "p after Holm"],
        rows,
        "A difference of mean AUROCs over seeds on the same test images (DeLong). Holm's correction is for all pairs "
        "of the class, because the best was chosen after looking. The intervals are not corrected.",
    )
    told = sum(row[-1].bold for row in rows)
    summary = f"Paired tests within each test set: {told} of {len(rows)} differences to the best hold at 5 %"
    return [Details(summary, [*(Text(remark) for remark in remarks), table])]


def _rows(one: ClassResult) -> list[list[Cell]]:
    rows = []
    for best in one.best[:1]:
        for other in sorted(one.outcomes, key=lambda model: -one.outcomes[model].mean):
            if other == best or not (pair := one.pairs.between(best, other)):
                continue
            sign = 1 if pair.first == best else -1
            found = pair.comparison
            low, high = sorted((sign * found.low, sign * found.high))
            cells = [one.category, best, other, points(sign * found.difference), f"{points(low)} to {points(high)}"]
            adjusted = Cell(p_value(pair.adjusted), bold=bool(one.pairs.told_apart(best, other)))
            rows.append([*map(Cell, cells), Cell(p_value(found.p_value)), adjusted])
    return rows
