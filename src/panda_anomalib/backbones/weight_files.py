"""Weight files, read without running what they may carry."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["file_sha256", "read_state_dict"]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a ``.safetensors`` or PyTorch file, also out of a training checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is broken, carries code or other objects, or holds no state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights must be default, packaged, random or the path of a file, got {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"weight file {path} must hold tensors only, but it carries code or other objects, which are not "
            "executed; save the network's state_dict, best as .safetensors."
        ) from error
    except Exception as error:
        raise ValueError(f"weight file {path} cannot be read ({error}); it is broken or truncated.") from error
    while isinstance(loaded, dict) and not any(isinstance(value, Tensor) for value in loaded.values()):
        inner = next((loaded[key] for key in ("state_dict", "model", "state_dict_ema") if key in loaded), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"weight file {path} must hold a state_dict (names and tensors), got {type(loaded).__name__}.")
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
