"""A report on benchmarks that can be looked at: results folders in, an HTML page and Markdown out.

Reads what `panda_anomalib.benchmark.schema` describes, and bears what is missing. Imports neither torch nor anomalib.
"""

from panda_anomalib.benchmark.report.writing import Written, write_report

__all__ = ["Written", "write_report"]
