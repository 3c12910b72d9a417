"""Each data set: means, classes, published numbers, drawings, paired tests, examples."""

from panda_anomalib.benchmark.report.analysis import Analysis
from panda_anomalib.benchmark.report.anchors import anchor
from panda_anomalib.benchmark.report.blocks import Block, Cell, Section, Table
from panda_anomalib.benchmark.report.figures import class_bars, roc_curves
from panda_anomalib.benchmark.report.formats import interval, mean_and_spread, percent
from panda_anomalib.benchmark.report.published import counterpart
from panda_anomalib.benchmark.report.sections.examples import example_pictures
from panda_anomalib.benchmark.report.sections.paired import paired_tests
from panda_anomalib.benchmark.report.sections.published import published_numbers
from panda_anomalib.benchmark.report.summary import DatasetResult

__all__ = ["datasets_section"]


def datasets_section(analysis: Analysis) -> Section | None:
    """One part for each data set."""
    if not analysis.datasets:
        return None
    parts = [_part(analysis, result) for result in analysis.datasets]
    return Section("datasets", "Data sets", [], parts)


def _part(analysis: Analysis, result: DatasetResult) -> Section:
    name, models = anchor(result.dataset), result.foremost
    drawings = [
        class_bars(result, models, analysis.looks, f"{name}-classes"),
        roc_curves(result, models, analysis.looks, f"{name}-roc"),
    ]
    blocks: list[Block | None] = [
        _means(analysis, result),
        _classes(result),
        *drawings,
        *paired_tests(result),
        example_pictures(result, name),
        published_numbers(result),
    ]
    return Section(f"dataset-{name}", result.dataset, [block for block in blocks if block])


def _means(analysis: Analysis, result: DatasetResult) -> Table:
    several = result.num_classes > 1
    ranking = [*result.ranking, *(model for model in result.means if model not in result.ranking)]
    rows = []
    for model in ranking:
        mean = result.means[model]
        auroc = Cell(mean_and_spread(mean.mean, mean.spread), bold=model in result.best)
        row: list[Cell | str] = [model, auroc, str(mean.num_seeds)]
        if several:
            row += [f"{percent(mean.worst[1])} ({mean.worst[0]})", str(mean.num_best) if result.best else "-"]
            row += [f"{mean.num_classes} of {result.num_classes}"]
        rows.append([*row, _published(analysis, result, model)])
    header = ["model", "AUROC", "seeds"]
    header += ["worst class", "best in", "classes"] if several else []
    if all(row[-1] == "-" for row in rows):
        rows, published = [row[:-1] for row in rows], False
    else:
        header, published = [*header, "published"], True
    remark = "± is the standard deviation over seeds."
    if several:
        remark = (
            "± is the standard deviation over seeds of the mean over classes; seeds: those with all classes; best in: "
            "classes without a better model, ties counted for all."
        )
    if published:
        remark += " Published: the papers' number for the same method, with their network and budget, not ours."
    caption = f"{result.dataset}: AUROC in percent" + (", mean over classes" if several else "")
    return Table(caption, header, rows, remark)


def _published(analysis: Analysis, result: DatasetResult, model: str) -> str:
    jobs = analysis.results.jobs
    rows = jobs[(jobs["model"] == model) & (jobs["dataset"] == result.dataset)]
    first = rows.iloc[0]
    scorer = first.get("model.init_args.scorer")
    scorer = scorer if isinstance(scorer, str) else ""
    row = counterpart(result.dataset, str(first["model_class"]), scorer, result.num_classes)
    return "-" if row is None else f"{row['auroc']} ({row['method']}; {row['source']})"


def _classes(result: DatasetResult) -> Table | None:
    if result.num_classes == 1 and not _has_intervals(result):
        return None
    models = list(result.means)
    rows = []
    for one in result.classes:
        row: list[Cell | str] = [one.category]
        for model in models:
            if model not in one.outcomes:
                row.append("-")
                continue
            outcome = one.outcomes[model]
            alike = bool(one.best) and model not in one.best and one.pairs.told_apart(model, one.best[0]) is False
            row.append(
                Cell(
                    mean_and_spread(outcome.mean, outcome.spread),
                    bold=model in one.best,
                    mark="≈" if alike else "",
                    note=interval(*outcome.interval) if outcome.interval else "",
                )
            )
        rows.append(row)
    remark = "Bold: the highest of its row."
    if _has_intervals(result):
        remark += " Small print: 95 % bootstrap interval over the test images, of the mean over seeds."
    if any(one.pairs.pairs for one in result.classes):
        remark += " ≈: not told apart from the best (DeLong, Holm's correction over all pairs of the row, 5 %)."
    return Table(f"{result.dataset}, by class: AUROC in percent", ["class", *models], rows, remark)


def _has_intervals(result: DatasetResult) -> bool:
    return any(outcome.interval for one in result.classes for outcome in one.outcomes.values())
