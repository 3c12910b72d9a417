"""Adaptation of a pretrained backbone to normal images (PANDA, arXiv:2010.05903)."""
