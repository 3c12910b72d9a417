"""The parts of the report, in reading order; each turns the analysis into a section, or into None if it has nothing."""

from collections.abc import Callable

from panda_anomalib.benchmark.report.analysis import Analysis
from panda_anomalib.benchmark.report.blocks import Section
from panda_anomalib.benchmark.report.sections.checks import checks_section
from panda_anomalib.benchmark.report.sections.cost import cost_section
from panda_anomalib.benchmark.report.sections.datasets import datasets_section
from panda_anomalib.benchmark.report.sections.failures import failures_section
from panda_anomalib.benchmark.report.sections.glance import glance_section
from panda_anomalib.benchmark.report.sections.provenance import provenance_section
from panda_anomalib.benchmark.report.sections.ranks import ranks_section
from panda_anomalib.benchmark.report.sections.thresholds import thresholds_section

__all__ = ["make_sections"]

_PARTS: tuple[Callable[[Analysis], Section | None], ...] = (
    *(glance_section, datasets_section, ranks_section, thresholds_section, cost_section, checks_section),
    *(failures_section, provenance_section),
)


def make_sections(analysis: Analysis) -> list[Section]:
    """All sections that have something to say."""
    return [section for part in _PARTS if (section := part(analysis))]
