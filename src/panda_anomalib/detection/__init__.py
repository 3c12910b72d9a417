"""From a folder of normal images and a folder of others to verdicts and a model, in one call."""

from panda_anomalib.detection.report import describe
from panda_anomalib.detection.run import Detection, detect

__all__ = ["Detection", "describe", "detect"]
