"""Embeddings of a pass over images, each image once and in a fixed order."""

import os

import torch
from torch import Tensor

__all__ = ["EmbeddingStore"]


class EmbeddingStore:
    """Collects embeddings with the paths of their images, over batches in any order and over processes.

    Shapes: embeddings ``(B, D)`` in, ``(N, D)`` out.
    """

    def __init__(self) -> None:
        self._embeddings: list[Tensor] = []
        self._paths: list[str] = []

    def __len__(self) -> int:
        """Number of images added in this process."""
        return len(self._paths)

    def add(self, embeddings: Tensor, paths: list[str] | None) -> None:
        """Add a batch; images without a path keep the order in which they came."""
        self._embeddings.append(embeddings.detach())
        self._paths.extend(paths if paths is not None else [""] * len(embeddings))

    def gather(self) -> tuple[Tensor, list[str]]:
        """Everything collected by all processes, without the copies distributed samplers add.

        Sorted by absolute path: the order decides the folds of the calibration, and must not change with the folder
        that a command is run in, nor when images are added to the memory bank later.

        Raises:
            RuntimeError: If several processes collected images without paths, which cannot be told apart.
        """
        embeddings = torch.cat(self._embeddings) if self._embeddings else torch.empty(0, 0)
        paths = self._paths
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            pieces: list[tuple[Tensor, list[str]]] = [(torch.empty(0), [])] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(pieces, (embeddings.cpu(), paths))
            device = embeddings.device
            embeddings = torch.cat([piece for piece, _ in pieces if len(piece)]).to(device)
            paths = [path for _, own in pieces for path in own]
            if "" in paths:
                raise RuntimeError("images need paths when several devices collect them; use one device.")
            first = {path: position for position, path in reversed(list(enumerate(paths)))}
            order = [first[path] for path in sorted(first, key=os.path.abspath)]
        else:
            # stable: ties keep their order
            order = sorted(range(len(paths)), key=lambda position: os.path.abspath(paths[position]))  # noqa: PTH100
        return embeddings[torch.tensor(order, dtype=torch.int64)], [paths[position] for position in order]
