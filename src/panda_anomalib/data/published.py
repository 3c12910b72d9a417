"""What the published data sets share: their files or a tree of class folders, download, and clear errors."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torchvision.datasets.utils import check_integrity
from typing_extensions import override

from panda_anomalib.data.files import find_classes
from panda_anomalib.data.one_class import OneClassData
from panda_anomalib.data.splits import OneClassSplit, check_classes, split_by_folders

__all__ = ["PublishedSet", "find_folder"]


class PublishedSet(OneClassData):
    """Base of the published data sets: each normal class against all classes of the test set.

    ``root`` holds the files as they are published, which each data set describes, or the images as
    ``train/<class>/...`` and ``test/<class>/...``.

    Args:
        root: Folder of the data.
        normal_class: Name of the normal class, or a list of several.
        download: Whether to download what is not there.
        **arguments: Those of `OneClassData`.

    Raises:
        ValueError: If an argument is not accepted; in `setup`, if a class is unknown, or a file is damaged.
        FileNotFoundError: In `setup`, if root does not hold the data.
        RuntimeError: In `prepare_data` and `setup`, if the data cannot be downloaded or unpacked.
    """

    title: ClassVar[str]
    """What the data set is called."""
    folder: ClassVar[str]
    """What its folder is called by custom, and the run folder."""
    contents: ClassVar[str]
    """What root must hold, for errors."""
    origin: ClassVar[str]
    """Where that comes from, for errors."""
    known: ClassVar[tuple[str, ...]] = ()
    """Classes of the published files, in their order, where that is known beforehand."""

    def __init__(
        self,
        root: Path | str,
        normal_class: str | int | Sequence[str | int],
        *,
        download: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(root, normal_class, **arguments)
        self.download = download

    @property
    @override
    def name(self) -> str:
        return self._name or self.folder

    # ---- what a data set says

    def files(self) -> list[Path]:
        """Published files and folders that must be there, where their place is fixed."""
        return []

    def has_files(self) -> bool:
        """Whether the published files are there, or what was made of them."""
        return all(path.exists() for path in self.files())

    @abstractmethod
    def split_files(self) -> OneClassSplit:
        """Split of the published files."""

    def fetch(self) -> None:
        """Download and unpack the published files.

        Raises:
            ValueError: If there is nothing that does.
        """
        raise ValueError(f"download must be false for {self.title}, which nothing here downloads; {self._advice()}")

    def checksums(self) -> dict[Path, str]:
        """MD5 of published files, where they are known."""
        return {}

    def unpack(self) -> None:
        """Look whether the published files are right, and make of them what ``split_files`` needs."""
        self.check_files()

    # ---- what follows from it

    @override
    def class_names(self) -> list[str]:
        if not self.has_files() and self.has_tree():
            return find_classes(self.root / "train")
        return self.papers_classes()

    def has_tree(self) -> bool:
        """Whether there is a tree of class folders."""
        return (self.root / "train").is_dir() and (self.root / "test").is_dir()

    def split_tree(self) -> OneClassSplit:
        """Split of the tree of class folders."""
        return split_by_folders(self.root / "train", self.root / "test", self.normal_classes)

    def papers_classes(self) -> list[str]:
        """Classes of the published files that the papers take as normal, in turn."""
        return list(self.known)

    @override
    def prepare_data(self) -> None:
        """Download and unpack, if that is needed; Lightning calls it in one process before ``setup`` in all."""
        if not self.has_files():
            if self.has_tree():
                return
            self._fetch_or_refuse()
        self._check_names()
        self.unpack()

    @override
    def split(self) -> OneClassSplit:
        self.prepare_data()  # where nobody has called it, and in the processes in which Lightning does not
        return self.split_files() if self.has_files() else self.split_tree()

    def _fetch_or_refuse(self) -> None:
        if not self.download:
            missing = next((f"'{path.relative_to(self.root)}'" for path in self.files() if not path.exists()), "them")
            raise FileNotFoundError(
                f"root must hold the files of {self.title}, got '{self.root}' without {missing}; {self._advice()}"
            )
        self._check_names()
        try:
            self.fetch()
        except (OSError, RuntimeError) as error:  # what torchvision raises has lines of its own
            raise RuntimeError(
                f"{self.title} must be in root or in reach, got {type(error).__name__} while downloading it: "
                f"{' '.join(str(error).split())}; {self._advice()}"
            ) from error

    def check_files(self) -> None:
        """Compare published files with their checksums.

        Raises:
            ValueError: If one has another one.
        """
        for path, checksum in self.checksums().items():
            if not check_integrity(path, checksum):
                raise self.damaged(f"another checksum of '{path}'")

    def damaged(self, what: str) -> ValueError:
        """Error for published files that are not as they should be."""
        return ValueError(
            f"the files of {self.title} must be complete and unchanged, got {what}; remove it, and unpack or download "
            "it again."
        )

    def _check_names(self) -> None:
        if self.known:  # before anything is downloaded or unpacked
            check_classes("normal_class", self.normal_classes, self.known, f"classes of {self.title}")

    def _advice(self) -> str:
        parts = [f"put {self.contents} there (from {self.origin})", "or images as train/<class>/ and test/<class>/"]
        if type(self).fetch is not PublishedSet.fetch and not self.download:
            parts.append("or set download to true")
        return f"{', '.join(parts)}."


def find_folder(root: Path, *markers: str) -> Path | None:
    """The folder that holds all of these files or folders: root itself, or one directly inside it."""
    inside = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return next((place for place in (root, *inside) if all((place / marker).exists() for marker in markers)), None)
