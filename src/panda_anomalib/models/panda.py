"""PANDA with early stopping: compactness for a fixed number of minibatches (Reiss et al., arXiv:2010.05903, Sec. 3)."""

from anomalib.models.components import AnomalibModule

from panda_anomalib.models.adapted import AdaptationMixin

__all__ = ["Panda"]


class Panda(AdaptationMixin, AnomalibModule):
    """Pretrained network, pulled together on the normal images for 2 355 minibatches, then scored as DN2.

    Its arguments are those of ``AdaptationMixin``, with the paper's training as default.
    """
