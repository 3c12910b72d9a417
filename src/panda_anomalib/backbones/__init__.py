"""Backbones: image -> embedding, with their weights, transforms and runtimes."""

from panda_anomalib.backbones.backbone import Backbone
from panda_anomalib.backbones.normalization import EmbeddingNormalization
from panda_anomalib.backbones.runtimes import RuntimeName, make_runtime
from panda_anomalib.backbones.transforms import ImagePreProcessor, weights_transform

__all__ = [
    "Backbone",
    "EmbeddingNormalization",
    "ImagePreProcessor",
    "RuntimeName",
    "make_runtime",
    "weights_transform",
]
