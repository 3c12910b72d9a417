"""What the papers report for a data set, folded away below our own numbers."""

from panda_anomalib.benchmark.report.blocks import Block, Details, Table
from panda_anomalib.benchmark.report.published import class_key, published
from panda_anomalib.benchmark.report.summary import DatasetResult

__all__ = ["published_numbers"]


def published_numbers(result: DatasetResult) -> Details | None:
    """All published numbers of the data set and of the classes that were run; None if there are none."""
    found = published(result.dataset)
    if found.empty:
        return None
    means = found[found["category"] == ""]
    rows = [
        [row["method"], row["auroc"], row["num_classes"].replace(" ", " or "), row["source"], row["remark"]]
        for _, row in means.iterrows()
    ]
    header = ["method", "AUROC", "classes", "source", "remark"]
    blocks: list[Block] = [Table(f"{result.dataset}: published AUROC in percent, mean over classes", header, rows)]
    by_class = found[found["category"] != ""]
    if len(by_class):
        methods = list(by_class["method"].unique())
        lines = []
        for one in result.classes:
            found_here = by_class[by_class["category"].map(class_key) == class_key(one.category)]
            told = dict(zip(found_here["method"], found_here["auroc"], strict=True))
            if told:
                lines.append([one.category, *(told.get(method, "-") for method in methods)])
        sources = by_class.drop_duplicates("method")
        remark = " ".join(f"{row['method']}: {row['source']}." for _, row in sources.iterrows())
        if lines:
            blocks.append(
                Table(f"{result.dataset}: published AUROC in percent, by class", ["class", *methods], lines, remark)
            )
    return Details(f"Published numbers ({len(found)})", blocks)
