"""Models: the Lightning modules that anomalib runs, one file each."""

from panda_anomalib.models.dn2 import Dn2
from panda_anomalib.models.dn2_set import Dn2Set
from panda_anomalib.models.panda import Panda
from panda_anomalib.models.panda_ewc import PandaEwc
from panda_anomalib.models.panda_joint import PandaJoint
from panda_anomalib.models.panda_oe import PandaOe
from panda_anomalib.models.panda_ses import PandaSes

__all__ = ["Dn2", "Dn2Set", "Panda", "PandaEwc", "PandaJoint", "PandaOe", "PandaSes"]
