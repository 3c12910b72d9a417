"""Data: truthful reading, one folder per class, images to predict, demo images."""

from panda_anomalib.data.dataset import PredictImages
from panda_anomalib.data.demo import Demo
from panda_anomalib.data.one_class import OneClassFolder
from panda_anomalib.data.reading import read_image

__all__ = ["Demo", "OneClassFolder", "PredictImages", "read_image"]
