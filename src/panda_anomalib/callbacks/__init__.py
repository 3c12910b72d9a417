"""Lightning callbacks of the adaptation, and a progress bar; all work on Lightning modules that are not ours, too."""

from panda_anomalib.callbacks.collapse_monitor import CollapseMonitor
from panda_anomalib.callbacks.elastic_weight_consolidation import ElasticWeightConsolidation
from panda_anomalib.callbacks.label_free_stop import LabelFreeStop
from panda_anomalib.callbacks.snapshots import SnapshotEnsemble
from panda_anomalib.callbacks.step_progress_bar import StepProgressBar

__all__ = ["CollapseMonitor", "ElasticWeightConsolidation", "LabelFreeStop", "SnapshotEnsemble", "StepProgressBar"]
