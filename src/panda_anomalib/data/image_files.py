"""Image files that are looked at once and decoded once, however many datasets, epochs and workers read them."""

import mmap
import struct
import zlib
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from panda_anomalib.data.reading import decode_image, inspect_images, read_image, to_float
from panda_anomalib.room import CacheName, check_cache, take_room

__all__ = ["ImageFiles", "shared_image_files"]

_HEAD = struct.Struct("<III")  # checksum, height, width

Signature = tuple[int, int]  # time of the last change, and size: another one is another file


class ImageFiles:
    """What is known of image files: which cannot be read, and the decoded pixels of those that have been read.

    Room for the pixels of 8-bit images is taken by ``inspect``; whoever reads an image first fills its part. The room
    is shared with processes forked after that, which the workers of data loaders are on Linux: what one decodes, all
    have. A process that is started in another way gets none of it, and decodes each image anew.

    Args:
        cache: ``memory``, ``disk``, ``off``, or ``auto``: the first of these that has room.
        memory_budget: Bytes of memory to use at most; by default a quarter of what is available.
        folder: Where the memory map goes; by default the system's folder for temporary files.

    Raises:
        ValueError: If an argument is not accepted; in ``inspect``, if the cache asked for has no room.
    """

    def __init__(
        self, cache: CacheName = "auto", *, memory_budget: int | None = None, folder: Path | None = None
    ) -> None:
        check_cache(cache, memory_budget)
        self._cache = cache
        self._memory_budget = memory_budget
        self._folder = folder
        self._used = 0  # bytes of the memory budget
        self._signatures: dict[Path, Signature | None] = {}
        self._damage: dict[Path, str] = {}
        self._slots: dict[str, memoryview] = {}  # header and pixels (H, W, 3)

    def inspect(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Look at the files that are new or have changed, and take room for their pixels.

        Returns:
            Cause by path, of those of ``paths`` that cannot be read.
        """
        paths = list(paths)
        signatures = {path: _signature(path) for path in paths}
        new = [path for path in paths if signatures[path] is None or self._signatures.get(path) != signatures[path]]
        sizes: dict[str, int] = {}
        for path, found in inspect_images(new).items():
            self._signatures[path] = signatures[path]
            self._damage.pop(path, None)
            self._slots.pop(str(path), None)
            if found.damage is not None:
                self._damage[path] = found.damage
            elif found.num_bytes:
                sizes[str(path)] = _HEAD.size + found.num_bytes
        if sizes:
            self._take_room(sizes)
        return {path: self._damage[path] for path in paths if path in self._damage}

    def _take_room(self, sizes: dict[str, int]) -> None:
        size = sum(sizes.values())
        storage, room = take_room(
            size,
            f"Decoded pixels of {len(sizes)} images",
            self._cache,
            otherwise="Each is decoded again whenever it is read.",
            memory_budget=None if self._memory_budget is None else max(self._memory_budget - self._used, 0),
            folder=self._folder,
            allocate=_forkable_memory,
        )
        if room is None:
            return
        self._used += size if storage == "memory" else 0
        data, start = room.numpy().data, 0
        for path, length in sizes.items():
            self._slots[path] = data[start : start + length]
            start += length

    def read(self, path: str | PathLike[str]) -> tv_tensors.Image:
        """The image as ``read_image`` gives it, bit for bit and in the same layout; decoded at its first reading only.

        Raises:
            FileNotFoundError: As ``read_image``.
            ValueError: As ``read_image``.
        """
        slot = self._slots.get(str(path))
        if slot is None:
            return read_image(path)
        checksum, height, width = _HEAD.unpack_from(slot)
        pixels = slot[_HEAD.size :]
        # A flag could be seen before the pixels it stands for, which another process is writing; a checksum cannot.
        if 3 * height * width != len(pixels) or checksum != _checksum(pixels, height, width):
            image = decode_image(path)
            if image.dtype != torch.uint8 or image.numel() != len(pixels):
                return to_float(image)  # not what the header promised
            height, width = image.shape[1:]
            pixels[:] = image.permute(1, 2, 0).contiguous().view(-1).numpy().data
            _HEAD.pack_into(slot, 0, _checksum(pixels, height, width), height, width)
        kept = torch.frombuffer(pixels, dtype=torch.uint8).view(height, width, 3)
        return to_float(tv_tensors.Image(kept.permute(2, 0, 1)))

    def __deepcopy__(self, memo: dict[int, Any]) -> "ImageFiles":
        """Itself: anomalib copies whole datasets to split them."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Nothing of it goes to a process that is not forked."""
        return ImageFiles, ("off",)


_shared: dict[tuple[Path, CacheName, int | None], ImageFiles] = {}


def shared_image_files(root: Path, cache: CacheName = "auto", memory_budget: int | None = None) -> ImageFiles:
    """The files below a folder, one object for all who ask; kept until somebody asks for another folder's.

    Args:
        root: Folder.
        cache: See `ImageFiles`.
        memory_budget: See `ImageFiles`.
    """
    key = (root.resolve(), cache, memory_budget)
    if key not in _shared:
        files = ImageFiles(cache, memory_budget=memory_budget)
        _shared.clear()
        _shared[key] = files
    return _shared[key]


def _signature(path: Path) -> Signature | None:
    try:
        status = path.stat()
    except OSError:  # the look at the file will say why
        return None
    return status.st_mtime_ns, status.st_size


def _checksum(pixels: memoryview, height: int, width: int) -> int:
    """Never 0, which stands for no pixels, for an image of any size."""
    return zlib.crc32(pixels, zlib.crc32(struct.pack("<II", height, width))) or 1


def _forkable_memory(size: int) -> Tensor:
    """Bytes ``(size,)`` that this process and its forks have in common, taken page by page as they are written."""
    return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)
