"""Pictures of what the best model gets most wrong."""

from panda_anomalib.benchmark.report.blocks import Details, Picture, Pictures, Text
from panda_anomalib.benchmark.report.class_results import ClassResult, Outcome
from panda_anomalib.benchmark.report.examples import Example
from panda_anomalib.benchmark.report.formats import percent
from panda_anomalib.benchmark.report.summary import DatasetResult
from panda_anomalib.benchmark.report.thumbnails import thumbnail

__all__ = ["example_pictures"]


def example_pictures(result: DatasetResult, name: str) -> Details | None:
    """The hardest class of the best model: normal images that look anomalous, and the reverse.

    None if no distances were saved; a sentence in place of the pictures where the files are elsewhere.
    """
    found = _hardest(result)
    if found is None:
        return None
    one, outcome = found
    summary = f"Examples: what {outcome.model} gets most wrong in {one.category}, its hardest class"
    if outcome.examples is None:
        return None
    normal, anomalous = outcome.examples.normal, outcome.examples.anomalous
    strips = [
        Pictures(
            "Normal, but more distant than many anomalous images", _pictures(normal, f"{name}-normal", "anomalous")
        ),
        Pictures(
            "Anomalous, but less distant than many normal images", _pictures(anomalous, f"{name}-missed", "normal")
        ),
    ]
    if not any(picture.jpeg for strip in strips for picture in strip.pictures):
        where = normal[0].path if normal else anomalous[0].path
        return Details(summary, [Text(f"The images are not on this machine, or cannot be read ('{where}', ...).")])
    return Details(summary, strips)


def _hardest(result: DatasetResult) -> tuple[ClassResult, Outcome] | None:
    ranking = [*result.ranking, *result.means]
    for model in ranking:
        having = [one for one in result.classes if model in one.outcomes and one.outcomes[model].examples]
        if having:
            hardest = min(having, key=lambda one: one.outcomes[model].mean)
            return hardest, hardest.outcomes[model]
    return None


def _pictures(examples: list[Example], name: str, others: str) -> list[Picture]:
    side = "more" if others == "anomalous" else "less"
    return [
        Picture(
            f"{name}-{number}",
            *thumbnail(example.path),
            caption=f"{side} distant than {percent(example.misranked, 0)} % of {others}",
        )
        for number, example in enumerate(examples, start=1)
    ]
