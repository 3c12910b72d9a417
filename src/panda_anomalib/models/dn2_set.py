"""DN2 for sets of images: nearest neighbours of pooled embeddings (arXiv:2002.10445, Sec. 4.5)."""

from pathlib import Path
from typing import Any, get_args

from anomalib.data import Batch
from anomalib.models.components import AnomalibModule
from torch import Tensor
from typing_extensions import override

from panda_anomalib.models.dn2 import Dn2
from panda_anomalib.scorers import Scorer, ScorerName, ValueScorer, set_embeddings
from panda_anomalib.scorers.set_pooling import SetPoolingName
from panda_anomalib.set_pictures import SetThumbnails

__all__ = ["Dn2Set"]


class Dn2Set(Dn2, AnomalibModule):
    """Set-level one-class anomaly detection: whether images belong together, whatever each of them is like.

    The images of a set are embedded as by ``Dn2``, their embeddings made one, and that is scored like an image's. Needs
    a datamodule of sets, ``ImageSets``; whatever is told of images elsewhere is told of sets here.

    Args:
        set_pooling: How the embeddings of a set become one: ``mean``, ``max``, ``concatenation`` (in their order, for
            sets of one size), or ``covariance_trace``: no comparison with training sets, which only set the threshold;
            the more the images of a set differ from each other, the more anomalous it is.
        scorer: As of ``Dn2``; by default ``knn``, as the paper has it. ``covariance_trace`` has none.
        detector: Arguments of ``DetectorMixin``.
    """

    training_description = "Embeddings of normal sets"
    scored_things = "sets"
    training_sets: list[list[str]]
    """Paths of the images of each set in the memory bank, in its order."""

    def __init__(self, *, set_pooling: SetPoolingName = "mean", scorer: ScorerName = "knn", **detector: Any) -> None:
        if set_pooling not in get_args(SetPoolingName):
            raise ValueError(f"set_pooling must be one of {', '.join(get_args(SetPoolingName))}, got {set_pooling!r}.")
        super().__init__(scorer=scorer, **detector)
        self.training_sets = []
        self._images_of: dict[str, list[str]] = {}

    @override
    def build_scorer(self) -> Scorer:
        return ValueScorer() if self.hparams["set_pooling"] == "covariance_trace" else super().build_scorer()

    @override
    def embed_batch(self, batch: Batch) -> Tensor:
        """Embeddings ``(S, D')`` of the sets of a batch.

        Raises:
            ValueError: If the batch is of single images, or its sets do not fit the pooling.
        """
        images = getattr(batch, "set_images", None)
        if images is None:
            raise ValueError("data of Dn2Set must be sets of images, got single images; use the datamodule ImageSets.")
        self._images_of.update(zip(batch.image_path, images, strict=True))
        rows = self.embed_images(batch).split([len(own) for own in images])
        return set_embeddings(rows, self.hparams["set_pooling"])

    @override
    def fit_embeddings(self, embeddings: Tensor, paths: list[str], *args: Any, **kwargs: Any) -> None:
        super().fit_embeddings(embeddings, paths, *args, **kwargs)
        known = {**dict(zip(self.training_paths, self.training_sets, strict=False)), **self._images_of}
        self.training_sets = [known.get(name, []) for name in self.training_paths]

    def make_thumbnails(self, size: int, *, capacity: int) -> SetThumbnails:
        """Reader of sets as pictures, by their names."""
        known = dict(zip(self.training_paths, self.training_sets, strict=False))
        return SetThumbnails(
            size, capacity=capacity, images_of=lambda name: self._images_of.get(name) or known.get(name)
        )

    # ---- checkpoints

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["panda_anomalib"]["training_sets"] = self.training_sets

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.training_sets = [list(images) for images in checkpoint["panda_anomalib"]["training_sets"]]

    @override
    def _export(self, *args: Any, **kwargs: Any) -> Path:
        raise ValueError("model to export must score single images, got Dn2Set, which scores sets; use predict.")
