"""What can be found out about a memory bank without new images: is the file whole, are the images what they were."""

import os
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from panda_anomalib.backbones import Backbone
from panda_anomalib.bank.editing import refit
from panda_anomalib.bank.kept import KeptImages
from panda_anomalib.bank.near_copies import near_copies
from panda_anomalib.bank.store import StoredModel, read_model
from panda_anomalib.calibration import Calibration, fewest_images, realised_rates
from panda_anomalib.engine import existing_checkpoint
from panda_anomalib.models.bank_record import file_digests
from panda_anomalib.models.dn2_set import Dn2Set

__all__ = ["Finding", "check_bank"]


@dataclass
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: A word.
        level: ``ok``; ``note`` for what a reader should know; ``wrong`` for what needs mending.
        text: One sentence.
        items: Paths it is about, all of them.
    """

    topic: str
    level: Literal["ok", "note", "wrong"]
    text: str
    items: list[str] = field(default_factory=list)


def check_bank(model: str | os.PathLike[str]) -> list[Finding]:
    """Look at the file, its images, duplicates, weights and threshold; changes nothing.

    Args:
        model: Checkpoint, also of an earlier version.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint of one of our models.
    """
    if damage := _damage(Path(model)):
        return [Finding("file", "wrong", f"damaged: {damage}; take another copy.")]
    stored = read_model(model)
    findings = [Finding("file", "ok", f"whole, {stored.path.stat().st_size / 1e6:.1f} MB: all checksums are right.")]
    try:
        bank = KeptImages.of(stored)
    except ValueError as error:
        return [*findings, Finding("bank", "note", f"cannot be changed: {error}"), *_without_embeddings(stored)]
    made = ", ".join(f"{name} {value}" for name, value in bank.conditions.items())
    shape = " x ".join(map(str, bank.embeddings.shape))
    text = f"{stored.model.name} with the embeddings of {len(bank.paths)} images ({shape})"
    findings.append(Finding("bank", "ok", f"{text}; fitted with {made or 'what is not known'}."))
    findings += _cleaning(stored)
    if not isinstance(stored.model, Dn2Set):  # a set is no file
        findings += [*_images(bank.paths, bank.digests), _near_copies(bank)]
    findings += _without_embeddings(stored)
    findings.append(_refitted(stored, bank))  # last: it changes the model at hand
    return findings


def _damage(path: Path) -> str | None:
    file = existing_checkpoint(path)
    with zipfile.ZipFile(str(file)) as archive:
        try:
            part = archive.testzip()
        except (zipfile.BadZipFile, OSError) as error:
            return str(error)
    return None if part is None else f"the checksum of its part {part} is wrong"


def _cleaning(stored: StoredModel) -> Iterator[Finding]:
    record = stored.model.bank_record
    if record is not None and record.removed is not None:
        removed = record.removed.paths
        text = (
            f"cleaning={stored.model.hparams['cleaning']:g} has left {len(removed)} images out of the bank, the most "
            "unusual first; they still count for the threshold."
        )
        yield Finding("cleaning", "note", text, removed)


def _images(paths: list[str], digests: list[str]) -> Iterator[Finding]:
    found = file_digests(paths, "Hashes of the images")
    missing = [path for path in paths if not Path(path).is_file()]
    changed = [path for path, then, now in zip(paths, digests, found, strict=True) if then and now and then != now]
    unknown = sum(not digest for digest in digests)
    if changed:
        text = f"{len(changed)} of {len(paths)} files have changed since they were embedded: remove them and add them."
        yield Finding("images", "wrong", text, changed)
    if missing:
        text = f"{len(missing)} of {len(paths)} files are not where they were; scoring does not need them."
        yield Finding("images", "note", text, missing)
    if unknown:
        yield Finding("images", "note", f"the hashes of {unknown} of {len(paths)} files are not known.")
    if not (changed or missing or unknown):
        yield Finding("images", "ok", f"all {len(paths)} files are there and have their hash.")
    groups = defaultdict(list)
    for path, then, now in zip(paths, digests, found, strict=True):
        groups[then or now or path].append(path)
    copies = [path for group in groups.values() if len(group) > 1 for path in group]
    if copies:
        sets = sum(len(group) > 1 for group in groups.values())
        text = f"{len(copies)} images in {sets} groups are exact copies of each other: the threshold is too low."
        yield Finding("copies", "note", text, copies)
    else:
        yield Finding("copies", "ok", "no image is an exact copy of another.")


def _near_copies(bank: KeptImages) -> Finding:
    pairs = [
        f"{bank.paths[a]} and {bank.paths[b]}"
        for a, b in near_copies(bank.embeddings)
        if not bank.digests[a] or bank.digests[a] != bank.digests[b]
    ]
    if not pairs:
        return Finding("near", "ok", "no two images are nearly the same to the network.")
    text = (
        f"{len(pairs)} pairs are nearly the same to the network (one picture stored twice, frames of a film): the "
        "threshold may be too low."
    )
    return Finding("near", "note", text, pairs)


def _without_embeddings(stored: StoredModel) -> Iterator[Finding]:
    yield _weights(stored)
    calibration = stored.model.post_processor
    if not isinstance(calibration, Calibration):
        yield Finding("threshold", "note", "the post-processor is not ours: nothing is known of its threshold.")
        return
    count, asked = calibration.num_calibration, calibration.false_positive_rate
    mean, low, high = realised_rates(count, asked)
    text = (
        f"{float(calibration.threshold):.6g} from {count} images, for {_percent(asked)} of false alarms. So many give "
        f"{_percent(mean)} on average, and between {_percent(low)} and {_percent(high)} for nine of ten such banks."
    )
    if mean > asked:
        text += f" {_percent(asked)} needs at least {fewest_images(asked)} images."
    yield Finding("threshold", "note" if mean > asked else "ok", text)


def _percent(rate: float) -> str:
    return f"{100 * rate:.2g} %"


def _weights(stored: StoredModel) -> Finding:
    model, provenance = stored.model, stored.model.provenance
    source = ", ".join(f"{key} {provenance[key]}" for key in ("source", "file", "sha256") if key in provenance)
    if provenance.get("source") != "packaged":
        text = f"{provenance.get('backbone', model.hparams['backbone'])} from {source or 'an unknown source'}"
        return Finding("weights", "note", f"{text}: only packaged weights can be compared.")
    own = model.model.backbone
    try:
        packaged = Backbone(own.name, weights="packaged", backbone_args=model.hparams["backbone_args"])
        packaged.load_weights()
    except (ValueError, ImportError, OSError) as error:
        return Finding("weights", "note", f"the package of the weights cannot be read: {error}")
    theirs = packaged.network.state_dict()
    differing = [name for name, value in own.network.state_dict().items() if not torch.equal(value, theirs[name])]
    trained = set(own.trunk_parameters()) if hasattr(model, "held_out") else set()
    if wrong := [name for name in differing if name not in trained]:
        text = f"{len(wrong)} tensors of {own.name} are not those of the package: {', '.join(wrong[:3])}."
        return Finding("weights", "wrong", text)
    adapted = f", but for {len(differing)} that were trained" if differing else ""
    return Finding("weights", "ok", f"those of the package, bit for bit{adapted} ({own.name}, {source}).")


def _refitted(stored: StoredModel, bank: KeptImages) -> Finding:
    """Whether the scorer is what its embeddings give."""
    before = {name: value.clone() for name, value in stored.model.state_dict().items()}
    refit(stored.model, bank)
    after = stored.model.cpu().state_dict()
    changed = [name for name, value in before.items() if not _same(value, after[name])]
    if not changed:
        return Finding("scorer", "ok", "scorer and threshold are, bit for bit, what the embeddings give.")
    difference = max(_relative(before[name], after[name]) for name in changed)
    text = f"fitted again, {', '.join(changed[:3])} differ by up to {difference:.1e}"
    if difference > 1e-3:
        return Finding("scorer", "wrong", f"{text}: the file was altered; take another copy, or train again.")
    return Finding("scorer", "note", f"{text}: another processor or other versions.")


def _same(then: Tensor, now: Tensor) -> bool:
    """Equal bit for bit; calibration distances that nobody asked for are NaN."""
    return then.shape == now.shape and torch.allclose(then, now, rtol=0, atol=0, equal_nan=True)


def _relative(then: Tensor, now: Tensor) -> float:
    if then.shape != now.shape or not then.is_floating_point():
        return float("inf")
    return float((then - now).abs().max() / then.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
