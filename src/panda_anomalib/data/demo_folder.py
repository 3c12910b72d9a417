"""The demo images on disk: a folder that is whole, or is not there; never one of somebody else's."""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from panda_anomalib.data.demo_images import ABOUT, CATEGORIES, EDITION, draw_demo
from panda_anomalib.progress import track

__all__ = ["make_demo"]

_LIST = "demo.json"
_NAMED_IN_ERRORS = 3


class _State(NamedTuple):
    """What differs from the folder that `make_demo` would write; ``added`` are files of somebody else."""

    drawn_as: dict[str, Any] | None  # category, image seed and edition, None where there is no list of files
    altered: list[str]
    missing: list[str]
    added: list[str]


def make_demo(root: str | Path, category: str = "gravel", *, image_seed: int = 0, overwrite: bool = False) -> Path:
    """Draw the demo images into ``<root>/<category>`` in a few seconds, offline; a whole folder is left as it is.

    MVTec's layout: ``train/good``, ``test/good``, ``test/<defect>`` and, of the same names, ``ground_truth/<defect>``
    with masks. ``demo.json`` says for each file where it comes from, with its SHA-256. The folder appears when all
    files are written: an interrupted call leaves nothing.

    Args:
        root: Folder of the demo data; made if missing.
        category: ``brick``, ``grass`` or ``gravel``.
        image_seed: The same seed gives the same images.
        overwrite: Draw the images again where the folder holds demo images that were altered or have another seed.
            Files that the demo did not write are never deleted.

    Returns:
        The folder of the category.

    Raises:
        ValueError: For an unknown category or a negative seed.
        FileExistsError: If the folder holds other files, or demo images that are altered or have another seed.
        OSError: If the folder cannot be written to.
    """
    if category not in CATEGORIES:
        raise ValueError(f"category must be one of {', '.join(CATEGORIES)}, got {category!r}; choose one of them.")
    if image_seed < 0:
        raise ValueError(f"image_seed must be at least 0, got {image_seed}; choose another.")
    drawn_as = {"category": category, "image_seed": image_seed, "edition": EDITION}
    folder = Path(root) / category
    try:
        state = _compare(folder, drawn_as)
    except OSError as error:
        raise _unusable(root, error) from error
    if state is None:
        return folder
    if not overwrite and (problem := _describe(state, drawn_as)):
        advice = "set overwrite to true to draw them again, or choose another root."
        raise FileExistsError(f"'{folder}' must hold the demo images {problem}; {advice}")
    if state.added:
        raise FileExistsError(
            f"'{folder}' must hold nothing but demo images, got {_some(state.added)}; move what is yours elsewhere, or "
            "choose another root."
        )
    try:
        _write(folder, drawn_as)
    except OSError as error:
        if _compare(folder, drawn_as) is not None:  # else another process was faster
            raise _unusable(root, error) from error
    return folder


def _unusable(root: str | Path, error: OSError) -> OSError:
    return OSError(f"root must be a folder one can read and write, got '{root}' ({error}); choose another root.")


def _compare(folder: Path, drawn_as: dict[str, Any]) -> _State | None:
    """None if the folder is whole and drawn as asked; hidden files, such as those of file managers, do not count."""
    if not folder.exists():
        return _State(None, [], [], [])
    if not folder.is_dir():
        return _State(None, [], [], [folder.name])
    listed = _read_list(folder)
    files = {} if listed is None else listed["files"]
    ours = files if listed is None else {*files, _LIST}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    added = sorted(found - set(ours))
    if listed is None:
        return _State(None, [], [], added)
    missing = sorted(set(files) - found)
    altered = sorted(name for name in set(files) & found if _sha256(folder / name) != files[name]["sha256"])
    as_listed = {key: listed.get(key) for key in drawn_as}
    visible = [name for name in added if not name.rpartition("/")[2].startswith(".")]
    if as_listed == drawn_as and not (altered or missing or visible):
        return None
    return _State(as_listed, altered, missing, added)


def _read_list(folder: Path) -> dict[str, Any] | None:
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        return listed if all("sha256" in entry for entry in listed["files"].values()) else None
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):  # no list of ours
        return None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _describe(state: _State, drawn_as: dict[str, Any]) -> str:
    """What is wrong with demo images that are there; empty where there are none, or nothing is wrong with them."""
    if state.drawn_as is None:
        return ""
    differing = {key: value for key, value in state.drawn_as.items() if value != drawn_as[key]}
    if differing:
        asked = ", ".join(f"{key} {drawn_as[key]}" for key in differing)
        return (
            f"must hold the demo images of {asked}, got those of {', '.join(f'{k} {v}' for k, v in differing.items())}"
        )
    kinds = {"altered": state.altered, "missing": state.missing}
    counts = " and ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names)
    return f"as they were drawn, got {counts}" if counts else ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_IN_ERRORS} more" if len(names) > _NAMED_IN_ERRORS else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMED_IN_ERRORS]) + more


def _write(folder: Path, drawn_as: dict[str, Any]) -> None:
    """Write beside the folder's place and move it there as a whole, in exchange for what is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        files: dict[str, dict[str, Any]] = {}
        drawn = draw_demo(drawn_as["category"], drawn_as["image_seed"])
        for file in track(drawn, f"Drawing the demo images of {folder.name}"):
            path = new / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
            files[file.path] = {"sha256": hashlib.sha256(file.content).hexdigest(), **file.origin}
        listed = json.dumps({"about": ABOUT, **drawn_as, "files": files}, indent=1)
        (new / _LIST).write_text(listed + "\n", encoding="utf-8")
        try:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        except BaseException:  # an interruption, too, between the two
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
