"""The images of a memory bank with how unusual each is among the others."""

import os

import pandas as pd
import torch
from torch import Tensor

from panda_anomalib.bank.store import StoredModel, read_model
from panda_anomalib.calibration import conformal_p_values

__all__ = ["list_images"]


def list_images(model: str | os.PathLike[str]) -> pd.DataFrame:
    """The normal images of a trained model, most unusual first: wrong ones among them stand out at the top.

    Columns: ``path``; ``sha256`` of the file when it was embedded, empty where it is not known; ``distance`` of the
    image to a scorer that had not seen it; ``p_value``, the share of normal images at least as unusual;
    ``sets_threshold``, whether its distance is among those that the threshold comes from; and ``removed``, whether
    cleaning has left it out of the bank.

    Args:
        model: Checkpoint, also of an earlier version.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or not of one of our models.
    """
    stored = read_model(model)
    paths, record = stored.model.training_paths, stored.model.bank_record
    distances = stored.model.model.scorer.calibration_distances()
    used = _sets_threshold(stored, distances)
    digests = record.digests if record is not None else [""] * len(paths)
    count = len(paths)
    if record is not None and (removed := record.removed) is not None:
        paths, digests = [*paths, *removed.paths], [*digests, *removed.digests]
        distances = torch.cat([distances, removed.distances])
        used = torch.cat([used, torch.tensor(removed.calibrating)])
    table = pd.DataFrame(
        {
            "path": paths,
            "sha256": digests,
            "distance": distances.numpy(),
            "p_value": _p_values(distances, used).numpy(),
            "sets_threshold": used.numpy(),
            "removed": [position >= count for position in range(len(paths))],
        }
    )
    return table.sort_values(["distance", "path"], ascending=[False, True], ignore_index=True)


def _sets_threshold(stored: StoredModel, distances: Tensor) -> Tensor:
    """Whether the threshold comes from each image, ``(N,)``."""
    record = stored.model.bank_record
    if record is None:  # of an earlier version
        known = getattr(stored.model.post_processor, "distances", distances)
        return torch.isin(distances, known)
    used = torch.ones(len(distances), dtype=torch.bool)
    if record.calibrated is not None:
        used[:] = False
        used[record.calibrated] = True
    return used


def _p_values(distances: Tensor, used: Tensor) -> Tensor:
    """Conformal p-values ``(N,)`` of the distances among those that set the threshold, each without itself."""
    reference = distances[used].sort().values
    at_least = conformal_p_values(distances, reference) * (len(reference) + 1)  # 1 + how many are at least as far
    count = at_least - used.float()  # itself is one of them
    return count / (len(reference) + (~used).float())
