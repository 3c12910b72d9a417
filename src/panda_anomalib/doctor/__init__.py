"""What is wrong with an installation, and how to mend it; see `panda_anomalib.doctor.examination`.

Nothing here imports anything heavy at the top of a module: the doctor answers where anomalib, torch or torchvision
cannot be imported. Each check runs in another process (`worker`), so one that crashes or hangs is itself a finding.
"""

from panda_anomalib.doctor.checks import all_checks
from panda_anomalib.doctor.examination import examine
from panda_anomalib.doctor.findings import Check, Finding

__all__ = ["Check", "Finding", "all_checks", "examine"]
