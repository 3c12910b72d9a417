"""Data: truthful reading, one-class data sets from folders and of the papers, images to predict, demo images."""

from panda_anomalib.data.birds import Birds200
from panda_anomalib.data.cats_vs_dogs import CatsVsDogs, OxfordPets
from panda_anomalib.data.dataset import PredictImages
from panda_anomalib.data.demo import Demo
from panda_anomalib.data.dior import Dior
from panda_anomalib.data.flowers import Flowers102
from panda_anomalib.data.folder import OneClassFolder
from panda_anomalib.data.image_sets import ImageSets
from panda_anomalib.data.reading import read_image
from panda_anomalib.data.torchvision_sets import Cifar10, Cifar100, FashionMnist, Mnist
from panda_anomalib.data.wbc import Wbc

__all__ = [
    "Birds200",
    "CatsVsDogs",
    "Cifar10",
    "Cifar100",
    "Demo",
    "Dior",
    "FashionMnist",
    "Flowers102",
    "ImageSets",
    "Mnist",
    "OneClassFolder",
    "OxfordPets",
    "PredictImages",
    "Wbc",
    "read_image",
]
