"""Fisher files: the diagonal Fisher information of a backbone, with what it was computed from."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from panda_anomalib.atomic import check_writable, write_atomically

__all__ = ["SAMPLE_WEIGHT", "FisherFile", "check_output", "load_fisher", "save_fisher", "suggested_weight"]

logger = logging.getLogger(__name__)

SAMPLE_WEIGHT = 1e4
"""PANDA's EWC weight, which we take to be meant for Eq. 3: squared gradients of single images."""

_FORMAT = "panda_anomalib.fisher.1"


class FisherFile(NamedTuple):
    """Content of a Fisher file."""

    fisher: dict[str, Tensor]
    """By the names of the parameters in the backbone's network."""
    provenance: dict[str, str]
    """``backbone``, ``mode``, ``suggested_weight`` and more, see ``save_fisher``."""

    @property
    def weight(self) -> float:
        """EWC weight for which this Fisher information counts as PANDA's 1e4 does."""
        return float(self.provenance["suggested_weight"])


def suggested_weight(mode: str, minibatch_size: int) -> float:
    """EWC weight that belongs to a Fisher computed in this mode: 1e4, times the size of squared minibatches.

    The squared mean of b gradients without mean is 1/b of their mean square.
    """
    return SAMPLE_WEIGHT * (minibatch_size if mode == "minibatch" else 1)


def check_output(path: str | os.PathLike[str]) -> Path:
    """Path of a Fisher file to write, before the work that ends in it.

    Raises:
        ValueError: If it does not end in ``.safetensors``.
        FileExistsError: If it is there already.
        OSError: If its folder cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"output must end in .safetensors, got '{path}'.")
    if path.exists():
        raise FileExistsError(f"output must not exist yet, got '{path}'; choose another name or remove it.")
    check_writable(path.parent, "folder of the output")
    return path


def save_fisher(path: str | os.PathLike[str], fisher: Mapping[str, Tensor], provenance: Mapping[str, str]) -> None:
    """Write a Fisher file; its folder is made.

    Args:
        path: File that is not there yet, ending in ``.safetensors``.
        fisher: Tensors by parameter name in the backbone's network.
        provenance: At least ``backbone`` and ``suggested_weight``; what there is no machine's path in.

    Raises:
        ValueError: If the name does not end in ``.safetensors``, or provenance lacks an entry.
        FileExistsError: If the file is there already.
    """
    path = check_output(path)
    if missing := {"backbone", "suggested_weight"} - provenance.keys():
        raise ValueError(f"provenance must have {', '.join(sorted(missing))}, got {', '.join(provenance) or 'none'}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in fisher.items()}
    try:
        write_atomically(path, lambda file: save_file(tensors, file, metadata={**provenance, "format": _FORMAT}))
    except SafetensorError as error:  # a full disk
        raise OSError(f"output must be a file that can be written, got '{path}' ({error}); make room.") from error


def load_fisher(
    path: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    weights_sha256: str | None = None,
    shapes: Mapping[str, torch.Size] | None = None,
) -> FisherFile:
    """Read a Fisher file and check that it is for this backbone.

    Args:
        path: Fisher file.
        backbone: timm's name of the network it must be for; a weight tag counts where both names have one.
        weights_sha256: Of the weight file; where the Fisher was computed with another, a warning says so (the same
            weights come in files of several formats).
        shapes: Shapes by name that it must have; of these names only are the tensors returned.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a Fisher file, or of another backbone, or lacks names, or has other shapes or values
            that are not finite or negative.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"fisher must be an existing file, got '{path}'; make it with: panda-anomalib fisher.")
    try:
        with safe_open(path, framework="pt") as file:
            provenance = dict(file.metadata() or {})
            names = list(file.keys()) if shapes is None else [name for name in shapes if name in set(file.keys())]
            fisher = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"fisher file '{path}' cannot be read ({error}); it is broken or of another kind.") from error
    if provenance.pop("format", None) != _FORMAT:
        raise ValueError(f"fisher must be a file made by panda-anomalib fisher, got '{path}', which is none.")
    made_for = provenance["backbone"]
    if backbone is not None and not _same_backbone(backbone, made_for):
        raise ValueError(f"fisher must be for the backbone {backbone!r}, got '{path}' for {made_for!r}; make another.")
    made_with = provenance.get("weights_sha256")
    if weights_sha256 and made_with and weights_sha256 != made_with:
        logger.warning(
            "Fisher file %s was computed with another weight file of %s (SHA-256 %s, not %s).",
            path.name,
            made_for,
            made_with[:12],
            weights_sha256[:12],
        )
    check_fisher(fisher, shapes or {name: value.shape for name, value in fisher.items()}, what=f"fisher file '{path}'")
    return FisherFile(fisher, provenance)


def check_fisher(fisher: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], *, what: str = "fisher") -> None:
    """Refuse a Fisher that does not fit the parameters.

    Args:
        fisher: Tensors by name; further names do no harm.
        shapes: Shapes of the parameters by name.
        what: Its name in the message.

    Raises:
        ValueError: If names are missing, shapes differ, or values are negative or not finite.
    """
    if missing := [name for name in shapes if name not in fisher]:
        raise ValueError(
            f"{what} must have every trained parameter, got {len(missing)} missing: "
            f"{', '.join(missing[:4])}; make another for this backbone."
        )
    for name, shape in shapes.items():
        if fisher[name].shape != shape:
            raise ValueError(
                f"{what} must fit the parameters, got {name} {tuple(fisher[name].shape)} instead of "
                f"{tuple(shape)}; make another for this backbone."
            )
        if not (fisher[name].isfinite().all() and (fisher[name] >= 0).all()):
            raise ValueError(f"{what} must be finite and at least 0, got other values in {name}; make another.")


def _same_backbone(first: str, second: str) -> bool:
    (architecture, _, tag), (other, _, other_tag) = first.partition("."), second.partition(".")
    return architecture == other and (tag == other_tag or not tag or not other_tag)
