"""What a checkpoint holds of the images in its memory bank, or why it does not."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from panda_anomalib.bank.store import StoredModel
from panda_anomalib.models.bank_record import FORMAT, BankRecord, RemovedImages
from panda_anomalib.models.cleaning import Removal
from panda_anomalib.models.conditions import Conditions

__all__ = ["KeptImages"]


@dataclass
class KeptImages:
    """The training images of a bank: those in it, and those that cleaning has left out.

    Attributes:
        paths: Absolute paths.
        digests: SHA-256 of the files when they were embedded; empty where it is not known.
        embeddings: ``(N, D)``, or ``(N, S, D)`` of snapshots.
        calibrated: Whether the threshold comes from an image; None if it comes from all.
        conditions: Under which the embeddings were computed; empty where they are not known.
        removal: What cleaning has left out of them, if anything; the other methods forget it.
    """

    paths: list[str]
    digests: list[str]
    embeddings: Tensor
    calibrated: list[bool] | None
    conditions: Conditions
    removal: Removal | None = None

    @classmethod
    def of(cls, stored: StoredModel) -> "KeptImages":
        """Images of a checkpoint.

        Raises:
            ValueError: If it does not hold their embeddings; the message says why and what to do.
        """
        model, record = stored.model, stored.model.bank_record
        plain = stored.checkpoint["panda_anomalib"].get("bank")
        if plain is not None and record is None:
            raise ValueError(
                f"memory bank must be of format {FORMAT} or lower, got {plain['format']}, which a later version of "
                "panda_anomalib has written; use that version, or train again with this one."
            )
        if record is None and hasattr(model, "held_out"):
            raise ValueError(
                f"{model.name} must be written by this version of panda_anomalib for its bank to be changed, got one "
                "of an earlier version, which did not keep what its threshold comes from; train it again."
            )
        embeddings = record.embeddings if record is not None else None
        embeddings = model.model.scorer.fitted_embeddings() if embeddings is None else embeddings
        if embeddings is None:
            because = (
                "an earlier version of panda_anomalib has written it, which kept them for scorer knn only"
                if record is None
                else "it was trained with keep_embeddings=false"
            )
            raise ValueError(
                f"model must hold the embeddings of its normal images, got '{stored.path}' without: {because}; train "
                "again on the same images."
            )
        paths = list(model.training_paths)
        if "" in paths:
            raise ValueError("images of the bank must have paths, got some without; train with a datamodule.")
        record = record or BankRecord(None, [""] * len(paths))
        if not len(embeddings) == len(paths) == len(record.digests):
            raise ValueError(
                f"model must hold one embedding and one hash for each of its {len(paths)} images, got "
                f"{len(embeddings)} and {len(record.digests)} in '{stored.path}'; take another copy of it."
            )
        used = None if record.calibrated is None else set(record.calibrated)
        calibrated = None if used is None else [number in used for number in range(len(paths))]
        kept = cls(paths, record.digests, embeddings.cpu(), calibrated, record.conditions)
        return kept if record.removed is None else kept._with_removed(record.removed)

    def _with_removed(self, removed: RemovedImages) -> "KeptImages":
        if removed.embeddings is None:
            raise ValueError(
                "model must hold the embeddings of the images that cleaning has removed, got one without: it was "
                "trained with keep_embeddings=false; train again on the same images."
            )
        whole = KeptImages(
            [*self.paths, *removed.paths],
            [*self.digests, *removed.digests],
            torch.cat([self.embeddings, removed.embeddings]),
            None if self.calibrated is None else [*self.calibrated, *removed.calibrating],
            self.conditions,
        )
        count = len(whole.paths)
        places = torch.cat([removed.removal.kept(count), removed.removal.positions])  # of each in the training set
        whole = whole.select(places.argsort().tolist())
        whole.removal = removed.removal
        return whole

    def select(self, positions: Sequence[int]) -> "KeptImages":
        """The images at these positions, in this order."""
        return KeptImages(
            [self.paths[number] for number in positions],
            [self.digests[number] for number in positions],
            self.embeddings[torch.tensor(positions, dtype=torch.int64)],
            None if self.calibrated is None else [self.calibrated[number] for number in positions],
            self.conditions,
        )

    def with_new(self, paths: Sequence[str], digests: Sequence[str], embeddings: Tensor) -> "KeptImages":
        """These images and new ones, which may help to set the threshold: no network was trained on them."""
        return KeptImages(
            [*self.paths, *paths],
            [*self.digests, *digests],
            torch.cat([self.embeddings, embeddings]),
            None if self.calibrated is None else [*self.calibrated, *(True for _ in paths)],
            self.conditions,
        )

    def in_order(self) -> "KeptImages":
        """Sorted by path, as a fit from scratch has them."""
        return self.select(sorted(range(len(self.paths)), key=self.paths.__getitem__))
