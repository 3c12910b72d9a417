"""The memory bank of a trained model, changed without training again: images added, removed, listed, checked."""

from panda_anomalib.bank.checking import Finding, check_bank
from panda_anomalib.bank.editing import BankChange, add_images, remove_images
from panda_anomalib.bank.listing import list_images

__all__ = ["BankChange", "Finding", "add_images", "check_bank", "list_images", "remove_images"]
