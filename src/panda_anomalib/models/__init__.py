"""Models: the Lightning modules that anomalib runs, one file each."""

from panda_anomalib.models.dn2 import Dn2

__all__ = ["Dn2"]
