"""Add images to a memory bank and remove images from it; scorer and threshold are fitted again, nothing is trained."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from panda_anomalib.bank.embedding import NewEmbeddings, embed_images
from panda_anomalib.bank.kept import KeptImages
from panda_anomalib.bank.selection import find_in_bank, named, refuse_unreadable
from panda_anomalib.bank.store import StoredModel, changing
from panda_anomalib.data import PredictImages
from panda_anomalib.models.bank_record import exact_copies, file_digests
from panda_anomalib.models.base import DetectorMixin
from panda_anomalib.models.conditions import device_of, differences, fit_conditions, threads_of
from panda_anomalib.models.dn2_set import Dn2Set

__all__ = ["BankChange", "DuplicatesName", "add_images", "refit", "remove_images"]

logger = logging.getLogger(__name__)

DuplicatesName = Literal["error", "skip", "keep"]

_COMPARED = 4  # images of the bank that are embedded again beside new ones


@dataclass
class BankChange:
    """What a change has done.

    Attributes:
        path: The checkpoint.
        before: Number of images before, those included that cleaning left out of the bank.
        after: And after.
        thresholds: Threshold before and after; None where the model has none of ours.
        added: Absolute paths of the images that were added.
        removed: Those of the images that were removed.
        present: Images that were to be added and are in the bank already, with the same content.
        left_out: Images that were left out as exact copies of others.
        embedding: How the embeddings of added images were made.
        conditions: What is not as it was in the first fit, in words: another torch, another processor.
        cleaned: Images that the model's ``cleaning`` leaves out of the bank after the change.
    """

    path: Path
    before: int
    after: int
    thresholds: tuple[float, float] | None = None
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    embedding: NewEmbeddings | None = None
    conditions: str = ""
    cleaned: list[str] = field(default_factory=list)


def add_images(
    model: str | os.PathLike[str],
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    duplicates: DuplicatesName = "error",
    wait: float = 600.0,
) -> BankChange:
    """Add normal images to the memory bank of a trained model; its file is replaced atomically.

    The result equals, bit for bit, a fit from scratch on the same images at the same paths; for a model that is
    trained, with the network as it is, and up to the last digits. Images that are in the bank stay as they are; with
    ``cleaning`` it is chosen anew which images are left out.

    Args:
        model: Checkpoint.
        images: One or several image files, or folders that are searched for images.
        duplicates: What to do with new images that are exact copies of images in the bank or of each other (their
            distance to each other is 0, which makes the threshold too low): ``error`` refuses, ``skip`` leaves them
            out, ``keep`` adds them, as a fit from scratch would.
        wait: Seconds to wait for another process that is changing the same bank.

    Raises:
        FileNotFoundError: If the model or an image is missing.
        ValueError: If the model holds no embeddings, or was trained on a cleaned set, or an image cannot be read, has
            changed since it was added, or is an exact copy that was not to be. Nothing is changed then.
        RuntimeError: If the file cannot be replaced.
    """
    if duplicates not in get_args(DuplicatesName):
        raise ValueError(f"duplicates must be one of {', '.join(get_args(DuplicatesName))}, got {duplicates!r}.")
    paths = sorted({os.path.abspath(path) for path in PredictImages(images).paths})  # noqa: PTH100 - keeps links
    with changing(model, wait=wait) as stored:
        bank = _changeable(stored)
        own, known = (
            dict(zip(paths, file_digests(paths, "Hashes of the images"), strict=True)),
            dict(zip(bank.paths, bank.digests, strict=True)),
        )
        if changed := [path for path in paths if known.get(path, "") not in ("", own[path])]:
            raise ValueError(
                f"images in the bank must be what they were when they were added, got {len(changed)} that are not "
                f"({named(changed)}); remove them from the bank first, then add them."
            )
        new = [path for path in paths if path not in known]
        same = [new[number] for number in exact_copies([own[path] for path in new], known.values())]
        if same and duplicates == "error":
            raise ValueError(
                f"images must differ from those of the bank and from each other, got {len(same)} exact copies "
                f"({named(same)}); leave them out with duplicates 'skip', or add them all the same with 'keep'."
            )
        change = BankChange(stored.path, before=len(known), after=len(known), present=[p for p in paths if p in known])
        if duplicates == "skip":
            change.left_out = same
            new = sorted(set(new) - set(same))
        if new:
            refuse_unreadable(new)
            with threads_of(bank.conditions):
                change.embedding = embed_images(stored.model, new, _comparable(bank), bank.conditions)
            change.added = new
            _replace(stored, bank.with_new(new, [own[path] for path in new], change.embedding.embeddings), change)
        return change


def remove_images(
    model: str | os.PathLike[str],
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    wait: float = 600.0,
) -> BankChange:
    """Remove images from the memory bank of a trained model; its file is replaced atomically.

    The files need not exist any more. The result equals, bit for bit, a fit from scratch on the images that remain;
    for a model that is trained, with the network as it is, which has still seen them.

    Args:
        model: Checkpoint.
        images: One or several; each the path of an image in the bank, a folder of such, or the SHA-256 of a file, of
            which the first eight digits or more are enough.
        wait: Seconds to wait for another process that is changing the same bank.

    Raises:
        FileNotFoundError: If the model is missing.
        ValueError: If an image is not in the bank, too few remain, or the model holds no embeddings. Nothing is
            changed then.
        RuntimeError: If the file cannot be replaced.
    """
    given = [images] if isinstance(images, str | os.PathLike) else images
    if not (names := [os.fspath(image) for image in given]):
        raise ValueError("images must be at least one path or hash of an image in the bank, got none.")
    with changing(model, wait=wait) as stored:
        bank = _changeable(stored)
        removed = {number for name in names for number in find_in_bank(name, bank.paths, bank.digests)}
        rest = bank.select([number for number in range(len(bank.paths)) if number not in removed])
        change = BankChange(stored.path, before=len(bank.paths), after=0)
        change.removed = [bank.paths[number] for number in sorted(removed)]
        _replace(stored, rest, change)
        return change


def refit(model: DetectorMixin, images: KeptImages) -> None:
    """Fit the scorer and the threshold of a model on these images in this order, with the threads of the first fit.

    Raises:
        ValueError: If the images are too few.
    """
    held_out = None if images.calibrated is None else torch.tensor(images.calibrated).nonzero()[:, 0]
    if held_out is not None and not len(held_out):
        raise ValueError(f"images that {model.name} was not trained on must remain, for the threshold; got none.")
    model.conditions = dict(images.conditions)
    model.to(device_of(images.conditions))
    logger.info("Fitting scorer and threshold on %d images.", len(images.paths))
    with threads_of(images.conditions):
        model.fit_embeddings(
            images.embeddings.to(model.device),
            images.paths,
            held_out,
            digests=images.digests,
            removal=images.removal if _is_trained(model) else None,
        )


def _changeable(stored: StoredModel) -> KeptImages:
    if isinstance(stored.model, Dn2Set):
        raise ValueError("bank to change must be of single images, got one of Dn2Set, of sets; train again.")
    if _is_trained(stored.model) and stored.model.hparams["cleaning"]:
        raise ValueError(
            f"cleaning of a {stored.model.name} must be 0 for its bank to be changed, got "
            f"{stored.model.hparams['cleaning']}: which images are left out was decided before the training, by "
            "embeddings that it has changed; train again."
        )
    return KeptImages.of(stored)


def _is_trained(model: DetectorMixin) -> bool:
    return hasattr(model, "held_out")


def _replace(stored: StoredModel, images: KeptImages, change: BankChange) -> None:
    before = _threshold(stored.model)
    refit(stored.model, images.in_order())
    if before is not None:
        change.thresholds = before, float(_threshold(stored.model) or 0)
    change.after = len(images.paths)
    record = stored.model.bank_record
    change.cleaned = record.removed.paths if record is not None and record.removed is not None else []
    then = images.conditions
    with threads_of(then):
        now = fit_conditions(str(then.get("runtime", "")), int(then.get("batch_size", 0)), stored.model.device)
    change.conditions = differences(then, now) if then else ""
    stored.write()


def _comparable(bank: KeptImages) -> dict[str, Tensor]:
    """Up to four images of the bank, evenly spread, whose files are what they were, with their embeddings."""
    existing = [number for number, path in enumerate(bank.paths) if Path(path).is_file()]
    chosen = existing[:: max(1, len(existing) // _COMPARED)][:_COMPARED]
    digests = file_digests([bank.paths[number] for number in chosen])
    return {
        bank.paths[number]: bank.embeddings[number]
        for number, digest in zip(chosen, digests, strict=True)
        if bank.digests[number] in ("", digest)
    }


def _threshold(model: DetectorMixin) -> float | None:
    threshold = getattr(model.post_processor, "threshold", None)
    return None if threshold is None else float(threshold)
