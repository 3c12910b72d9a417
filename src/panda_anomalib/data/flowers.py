"""Oxford Flowers 102."""

import re
from pathlib import Path

from torchvision.datasets import Flowers102 as TorchvisionFlowers102
from typing_extensions import override

from panda_anomalib.data.published import PublishedSet
from panda_anomalib.data.splits import OneClassSplit, split_table

__all__ = ["Flowers102"]

_PAPERS = 20  # of 102 classes are normal in turn


class Flowers102(PublishedSet):
    """Oxford Flowers 102: 10 normal training images, and all 7,169 images that are not for training to test.

    That is the official training split; the papers' test set is the official validation and test split together. They
    take the first 20 classes as normal in turn.

    Files: ``root/flowers-102/`` with ``jpg/``, ``imagelabels.mat`` and ``setid.mat``, as torchvision has it.
    """

    title = "Oxford Flowers 102"
    folder = "flowers102"
    contents = "flowers-102/ with jpg/, imagelabels.mat and setid.mat"
    origin = TorchvisionFlowers102._download_url_prefix
    known = tuple(
        f"{number:03}_{re.sub('[^a-z-]+', '_', name.rstrip('?'))}"
        for number, name in enumerate((name.replace("'", "") for name in TorchvisionFlowers102.classes), start=1)
    )

    @override
    def files(self) -> list[Path]:
        return [self.root / "flowers-102/jpg", *self.checksums()]

    @override
    def fetch(self) -> None:
        TorchvisionFlowers102(str(self.root), download=True)

    @override
    def checksums(self) -> dict[Path, str]:
        listed = TorchvisionFlowers102._file_dict
        return {self.root / "flowers-102" / listed[kind][0]: listed[kind][1] for kind in ("label", "setid")}

    @override
    def papers_classes(self) -> list[str]:
        return list(self.known[:_PAPERS])

    @override
    def split_files(self) -> OneClassSplit:
        rows = [
            (path, self.known[label], part == "train")
            for part in ("train", "val", "test")
            for path, label in TorchvisionFlowers102(str(self.root), part, loader=Path)
        ]
        return split_table(rows, self.normal_classes, self.title, "official training split against the two others")
