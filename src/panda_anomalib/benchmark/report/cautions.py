"""What a reader has to know before any number: found in the results, said at the top."""

from collections.abc import Callable, Iterable, Iterator

import pandas as pd

from panda_anomalib.benchmark.report.analysis import Analysis
from panda_anomalib.benchmark.report.blocks import Notice
from panda_anomalib.benchmark.schema import OPTIMISTIC_SOURCE

__all__ = ["cautions"]


def cautions(analysis: Analysis) -> list[Notice]:
    """Notices, the gravest first."""
    order = ("failed", "warning", "note", "ok")
    found = [notice for rule in _RULES for notice in rule(analysis)]
    return sorted(found, key=lambda notice: order.index(notice.level))


def _failures(analysis: Analysis) -> Iterator[Notice]:
    failed, total = len(analysis.results.failed), len(analysis.results.jobs)
    if failed:
        yield Notice(
            "failed", f"{failed} of {total} jobs failed; they are listed under Failures, and missing elsewhere."
        )
    for result in analysis.datasets:
        partial = [
            f"{model} ({mean.num_classes} of {result.num_classes} classes)"
            for model, mean in result.means.items()
            if not result.is_complete(model)
        ]
        if partial:
            yield Notice(
                "warning",
                f"{result.dataset}: the means of {_listed(partial)} are over fewer classes and are not compared.",
            )


def _checks(analysis: Analysis) -> Iterator[Notice]:
    checks = analysis.results.checks
    if checks is None:
        yield Notice("warning", "The protocol was not checked: there is no checks.json beside the results.")
        return
    states = pd.Series([str(check.get("status", "")) for check in checks], dtype=object).value_counts()
    for state in ("failed", "warning", "not run"):
        if count := int(states.get(state, 0)):
            ended = {"warning": "ended with a warning", "not run": "could not be run"}.get(state, state)
            level = "failed" if state == "failed" else "warning"
            yield Notice(level, f"{_number(count, 'protocol check')} {ended}; see Protocol checks.")
    if len(checks) and set(states.index) == {"ok"}:
        yield Notice("ok", f"All {len(checks)} protocol checks passed.")


def _thresholds(analysis: Analysis) -> Iterator[Notice]:
    done = analysis.results.done
    models = done.loc[done["threshold_source"] == OPTIMISTIC_SOURCE, "model"].unique()
    if len(models):
        yield Notice(
            "warning",
            f"The threshold of {_listed(models)} was set on the test images themselves: F1, false alarms and misses at "
            "it are optimistic. AUROC needs no threshold and is not touched.",
        )


def _backwards(analysis: Analysis) -> Iterator[Notice]:
    below = [
        f"{outcome.model} on {result.dataset}, {result.category} ({100 * outcome.mean:.1f} %)"
        for result in analysis.classes
        for outcome in result.outcomes.values()
        if outcome.mean < 0.5
    ]
    if below:
        yield Notice("warning", f"Worse than chance, or scores with the wrong sign: {_listed(below, most=5)}.")


def _reported(analysis: Analysis) -> Iterator[Notice]:
    differing = {
        outcome.model: max(abs(outcome.aurocs[seed] - told) for seed, told in outcome.reported.items())
        for result in analysis.classes
        for outcome in result.outcomes.values()
        if outcome.reported
    }
    if differing:
        most = 100 * max(differing.values())
        yield Notice(
            "warning",
            f"The evaluator of {_listed(differing)} reported another AUROC than the raw distances have (by up to "
            f"{most:.1f} points: clamping or rounding scores makes ties). The tables have that of the distances.",
        )


def _seeds(analysis: Analysis) -> Iterator[Notice]:
    seeds = analysis.results.done.groupby(["dataset", "model"])["seed"].nunique()
    if len(seeds) and seeds.max() == 1:
        yield Notice("note", "Every job was run with one seed: there is no spread over seeds.")
    elif (alone := seeds[seeds == 1]).size:
        names = [f"{model} on {dataset}" for dataset, model in alone.index]
        yield Notice("note", f"Only one seed, so no spread: {_listed(names, most=5)}.")


def _scores(analysis: Analysis) -> Iterator[Notice]:
    reasons = pd.Series([reason for result in analysis.classes for reason in result.without_scores.values()], dtype=str)
    for reason, count in reasons.value_counts().items():
        yield Notice(
            "note",
            f"No interval, ROC curve or paired test for {_number(int(count), 'pair')} of model and class: {reason}.",
        )


def _mixtures(analysis: Analysis) -> Iterator[Notice]:
    done = analysis.results.done
    for column, what, consequence in (
        ("commit", "commits of the code", "differences between rows may come from it"),
        ("versions", "sets of package versions", "differences between rows may come from it"),
        ("machine", "machines", "times are not comparable between them"),
    ):
        values = done.loc[done[column] != "", column].unique()
        if len(values) > 1:
            yield Notice("warning", f"The jobs come from {len(values)} {what}: {consequence}.")


def _remarks(analysis: Analysis) -> Iterator[Notice]:
    for remark in analysis.results.remarks:
        yield Notice("note", remark)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _listed(names: Iterable[object], most: int = 8) -> str:
    known = [str(name) for name in names]
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


_RULES: tuple[Callable[[Analysis], Iterator[Notice]], ...] = (
    *(_failures, _checks, _thresholds, _backwards, _reported, _seeds, _scores, _mixtures, _remarks),
)
