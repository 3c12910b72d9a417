"""The normal images while a model is adapted to them: one pass through the stem, and embeddings whenever wanted."""

import copy
import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from anomalib.data import Batch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from typing_extensions import override

from panda_anomalib.adaptation.stem_cache import CacheName, StemOutputs
from panda_anomalib.backbones import Backbone, ImagePreProcessor, make_runtime
from panda_anomalib.models.bank_record import normal_digests
from panda_anomalib.models.base import DetectorMixin
from panda_anomalib.models.cleaning import Removal
from panda_anomalib.models.conditions import fit_conditions
from panda_anomalib.progress import track

__all__ = ["TrainingImagesMixin"]

logger = logging.getLogger(__name__)

_CALIBRATION_IMAGES = 20
"""Fewest images that give a false-positive rate of 0.05 a threshold."""


class TrainingImagesMixin(DetectorMixin):
    """Stem outputs of the normal images, and which of them are kept out of the training."""

    held_out: Tensor
    """Positions ``(M,)`` of the images that the threshold comes from; known from the start of a fit."""
    removal: Removal | None
    """Images that cleaning leaves out of centre, training and memory bank; known from the start of a fit."""

    @override
    def build_parts(self) -> None:
        super().build_parts()
        self.held_out = torch.empty(0, dtype=torch.int64)
        self.removal = None
        self._paths: list[str] = []
        self._digests: list[str] = []
        self._normals: StemOutputs | None = None
        self._test: tuple[StemOutputs, Tensor] | None = None

    @property
    def num_views(self) -> int:
        """How many views of each image the training sees."""
        raise NotImplementedError

    def read_images(self, *, embed: bool) -> Tensor:
        """Run all normal images through the stem, and keep its outputs where there is room.

        Args:
            embed: Whether to run them through the trunk, too.

        Returns:
            Embeddings ``(N, D)``, pooled and not normalised; empty when they were not asked for.
        """
        self._host_loader = self._find_host_loader()
        name = self._chosen_runtime()
        self.conditions = fit_conditions(name, self._host_loader.batch_size, self.device)
        logger.info("Stem of %s runs by %s.", self.model.backbone.name, name)
        self._stem = make_runtime(name, self.model.backbone.stem)
        if self._is_augmented:
            logger.info("train_augmentations are on: nothing is cached, every minibatch is read and drawn anew.")
        dataset: Any = self._host_loader.dataset
        cache: CacheName = "off" if self._is_augmented else self.hparams["cache"]
        self._normals = self.stem_outputs(self._clean(dataset), cache=cache)
        self._paths, self._num_paths = [], len(dataset)
        embeddings: list[Tensor] = [torch.empty(0)]

        def run_trunk(hidden: Tensor, _: list[int]) -> None:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                embeddings.append(self._embed_hidden(hidden[0]))

        self._normals.fill(run_trunk if embed else None)
        self._digests = normal_digests(self._paths)
        self.held_out = self._choose_held_out(len(dataset))
        return torch.cat(embeddings[1:] or embeddings)

    @property
    def trained_on(self) -> Tensor:
        """Positions of the images that minibatches are made of."""
        return self._not_removed(held_out=False)

    @property
    def held_out_normals(self) -> Tensor:
        """Positions of the images that are held out for the threshold and are not removed."""
        return self._not_removed(held_out=True)

    def _not_removed(self, *, held_out: bool) -> Tensor:
        count = len(self._at_hand())
        kept = torch.arange(count) if self.removal is None else self.removal.kept(count)
        return kept[torch.isin(kept, self.held_out) == held_out]

    def minibatch_images(self) -> StemOutputs:
        """What minibatches are taken from: the user's augmentations included."""
        if self._is_augmented:
            return self.stem_outputs(self._host_loader.dataset, cache="off")
        return self._at_hand()

    def close_images(self) -> None:
        """Give up what is kept of the images."""
        for outputs in (self._normals, self._test[0] if self._test else None):
            if outputs is not None:
                outputs.close()
        self._normals = self._test = None
        del self._host_loader, self._stem

    def _at_hand(self) -> StemOutputs:
        if self._normals is None:
            raise RuntimeError(f"the training images of {self.name} are at hand only while it is fitted.")
        return self._normals

    def _find_host_loader(self) -> "DataLoader[Any]":
        loader = self.trainer.fit_loop._data_source.dataloader()
        if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__"):
            raise ValueError(
                f"train_dataloaders must be a DataLoader over a dataset with a length, got {type(loader).__name__}; "
                "pass a datamodule."
            )
        if self.pre_processor is not None and not isinstance(self.pre_processor, ImagePreProcessor):
            raise ValueError(
                f"pre_processor must be panda_anomalib.backbones.ImagePreProcessor to adapt {self.name}, got "
                f"{type(self.pre_processor).__name__}; leave it out, or set resize and crop."
            )
        return loader

    def _clean(self, dataset: Any) -> Any:
        """The images as they are, without the user's augmentations."""
        if not self._is_augmented:
            return dataset
        dataset = copy.copy(dataset)
        dataset.augmentations = None
        if self.pre_processor is not None:
            self.pre_processor.install(dataset)
        return dataset

    @property
    def _is_augmented(self) -> bool:
        return getattr(getattr(self.trainer, "datamodule", None), "train_augmentations", None) is not None

    def stem_outputs(self, dataset: Any, description: str = "Stem outputs", *, cache: CacheName) -> StemOutputs:
        """Stem outputs of a dataset whose items are anomalib's, in batches as the trainer's."""
        loader = self._host_loader
        whole = dataset.dataset if isinstance(dataset, Subset) else dataset  # which knows what its workers do
        return StemOutputs(
            dataset,
            lambda batch: self._encode(batch, whole),
            batch_size=loader.batch_size or 1,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            num_views=self.num_views,
            cache=cache,
            description=description,
        )

    def _encode(self, batch: Batch, dataset: Any) -> Tensor:
        """The stem's output ``(V, B, ...)`` of each view of a batch of images."""
        self._hazards.look(batch, dataset)
        if batch.image_path is not None and len(self._paths) < self._num_paths:
            self._paths.extend(batch.image_path)  # the first pass over the normal images is in order
        batch = self.transfer_batch_to_device(batch, self.device, 0)
        if self.pre_processor is not None:
            self.pre_processor.prepare(batch, dataset)
        return self.run_stem(batch.image.float().as_subclass(Tensor))

    def run_stem(self, images: Tensor) -> Tensor:
        """The stem's output ``(V, B, ...)`` of each view of pre-processed images ``(B, 3, H, W)``."""
        views = [images, images.flip(-1)][: self.num_views]
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return torch.stack([self._stem(view) for view in views])

    def _choose_held_out(self, count: int) -> Tensor:
        share = self.hparams["calibration_share"]
        if share == 0:
            logger.warning(
                "calibration_share is 0: the threshold comes from images that the network was trained on, and more "
                "than false_positive_rate of new normal images will be called anomalous."
            )
            return torch.empty(0, dtype=torch.int64)
        number = min(max(round(share * count), _CALIBRATION_IMAGES), count // 2)
        chosen = np.random.default_rng([self.hparams["seed"], count]).permutation(count)[:number]
        return torch.from_numpy(np.sort(chosen))

    def _embed_hidden(self, hidden: Tensor, backbone: Backbone | None = None) -> Tensor:
        """Pooled embeddings ``(B, D)``, not normalised, of stem outputs; by the trunk of another backbone if given."""
        backbone = backbone or self.model.backbone
        return backbone.embed(backbone.trunk(hidden.to(self.device)))

    def embed_normals(self, indices: Tensor | None = None) -> Tensor:
        """Pooled embeddings ``(N, D)``, not normalised, of the normal training images with the current weights."""
        normals = self._at_hand()
        parts = (torch.arange(len(normals)) if indices is None else indices).split(normals.batch_size)
        return self._embed_parts(normals, track(parts, "Memory bank") if indices is None else parts)

    def embed_snapshot(self, backbone: Backbone) -> Tensor:
        """As ``embed_normals`` of all images, by a backbone that shares this one's stem."""
        normals = self._at_hand()
        return self._embed_parts(normals, torch.arange(len(normals)).split(normals.batch_size), backbone)

    def _embed_parts(self, outputs: StemOutputs, parts: Iterable[Tensor], backbone: Backbone | None = None) -> Tensor:
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return torch.cat([self._embed_hidden(outputs.fetch(part.tolist())[0], backbone) for part in parts])

    # ---- what a CollapseMonitor asks for

    def adaptation_probe(self, *, num_images: int, include_test: bool) -> dict[str, Tensor]:
        """Pooled embeddings of the same images at every call; ``val_normal`` are those kept out of the training."""
        trained = self.trained_on
        chosen = np.random.default_rng(self.hparams["seed"]).permutation(len(trained))[:num_images]
        probe = {"train": self.embed_normals(trained[torch.from_numpy(np.sort(chosen))])}
        if len(held_out := self.held_out_normals):
            probe["val_normal"] = self.embed_normals(held_out)
        if include_test and (test := self._test_images(num_images)) is not None:
            outputs, labels = test
            embeddings = self._embed_parts(outputs, torch.arange(len(outputs)).split(outputs.batch_size))
            probe |= {"test_normal": embeddings[~labels], "test_anomalous": embeddings[labels]}
        return probe

    def _test_images(self, num_images: int) -> tuple[StemOutputs, Tensor] | None:
        """Stem outputs and labels of up to ``num_images`` test images of either kind."""
        dataset: Any = getattr(getattr(self.trainer, "datamodule", None), "test_data", None)
        if self._test is None and dataset is not None:
            labels = dataset.samples["label_index"].to_numpy() == 1
            rng = np.random.default_rng(self.hparams["seed"])
            kinds = [rng.permutation(np.flatnonzero(labels == kind))[:num_images] for kind in (False, True)]
            chosen = np.sort(np.concatenate(kinds))
            outputs = self.stem_outputs(
                Subset(dataset, chosen.tolist()), "Stem outputs of test images", cache=self.hparams["cache"]
            )
            outputs.fill()
            self._test = outputs, torch.from_numpy(labels[chosen])
        return self._test
