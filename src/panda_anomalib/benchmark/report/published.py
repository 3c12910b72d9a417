"""What the papers report, from ``published.csv``: AUROC in percent, each number with its source.

A row without ``category`` is a mean over ``num_classes`` classes (two numbers where the paper says both).
Numbers of other networks and budgets: something to stand beside, never part of a ranking or a test.
"""

import re
from functools import cache
from importlib.resources import files
from io import StringIO

import pandas as pd

__all__ = ["class_key", "counterpart", "published"]

# Names of data sets that mean the same protocol, without case and separators.
_ALIASES = {
    "fmnist": "fashionmnist",
    "dogsvscats": "catsvsdogs",
    "mvtecad": "mvtec",
    "flowers": "flowers102",
    "oxfordflowers": "flowers102",
    "oxfordflowers102": "flowers102",
    "cub200": "birds200",
    "caltechbirds": "birds200",
    "caltechbirds200": "birds200",
}


def published(dataset: str) -> pd.DataFrame:
    """Published numbers of a data set: columns of ``published.csv``, ``category`` empty for its mean over classes."""
    table = _table()
    return table[table["key"] == _key(dataset)]


def counterpart(dataset: str, model_class: str, scorer: str, num_classes: int) -> "pd.Series[str] | None":
    """The published mean over classes of the same method, if there is one over as many classes.

    Args:
        dataset: As the benchmark calls it.
        model_class: Such as ``Dn2``.
        scorer: Such as ``knn``; empty if it is not known, which fits the method's usual one.
        num_classes: Over how many classes the benchmark's mean goes.

    Returns:
        Row of ``published.csv``.
    """
    rows = published(dataset)
    for _, row in rows[rows["category"] == ""].iterrows():
        scorers = row["scorers"].split() or ["knn", "whitening"]
        same_method = model_class in row["model_classes"].split() and (scorer or "knn") in scorers
        if same_method and str(num_classes) in row["num_classes"].split():
            return row
    return None


def class_key(category: str) -> str:
    """Class name without case, separators and a number in front (``7_sneaker``)."""
    return re.sub(r"[\W_]", "", re.sub(r"^\d+[_-]", "", category.lower()))


def _key(dataset: str) -> str:
    plain = re.sub(r"[\W_]", "", dataset.lower())
    return _ALIASES.get(plain, plain)


@cache
def _table() -> pd.DataFrame:
    text = files("panda_anomalib.benchmark.report").joinpath("published.csv").read_text(encoding="utf-8")
    table = pd.read_csv(StringIO(text), dtype=str).fillna("")  # text: as many decimals as the paper has
    return table.assign(key=table["dataset"].map(_key))
