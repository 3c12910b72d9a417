"""Sample-wise early stopping (PANDA-SES): several snapshots of one trunk, the farthest of them decides."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from panda_anomalib.backbones import Backbone, EmbeddingNormalization, RuntimeName, make_runtime
from panda_anomalib.models.detector import Detector
from panda_anomalib.scorers import Scorer
from panda_anomalib.scorers.base import Neighbors, ScoredEmbeddings

__all__ = ["EnsembleDetector", "EnsembleScorer"]

_HELD_OUT = 10  # one image in ten measures the typical distance (PANDA, appendix D)


class EnsembleScorer(Scorer):
    """Largest distance over snapshots, each divided by the snapshot's typical distance of a normal image.

    ``d(x) = max_t scorer_t(x) / s_t`` (PANDA Sec. 3). ``s_t`` is the mean distance of a tenth of the normal images to a
    scorer fitted on the rest (appendix D), by the same split for all snapshots. Images are scored against all normal
    images. With fewer than 10 normal images, ``s_t`` is the mean over all of them, each held out in turn.

    Shapes: embeddings ``(N, S, D)`` or ``(B, S, D)`` for S snapshots, distances ``(B,)``, at least 0 and near 1 for
    normal images.

    Args:
        scorer: What scores the embeddings of one snapshot, unfitted; each snapshot gets a copy.
        num_snapshots: S.
    """

    typical_distances: Tensor
    """s_t, ``(S,)``; NaN before ``fit``."""

    def __init__(self, scorer: Scorer, num_snapshots: int = 0) -> None:
        super().__init__()
        self._new: tuple[Scorer] = (scorer,)  # a tuple hides it from state_dict()
        self.register_buffer("typical_distances", torch.empty(0))
        self.resize(num_snapshots)

    def resize(self, num_snapshots: int) -> None:
        """Start again, unfitted, for another number of snapshots."""
        device = self.calibration.device
        self.scorers = nn.ModuleList(copy.deepcopy(self._new[0]).to(device) for _ in range(num_snapshots))
        self.typical_distances = torch.full((num_snapshots,), torch.nan, device=device)
        self.calibration = torch.empty(0, device=device)

    @override
    def _check(self, embeddings: Tensor) -> None:
        if embeddings.ndim != 3 or embeddings.shape[1] != len(self.scorers):
            raise ValueError(
                f"embeddings must be (images, {len(self.scorers)} snapshots, dimensions), got "
                f"{tuple(embeddings.shape)}; load the snapshots before embedding the images."
            )
        for scorer, own in self._each(embeddings):
            scorer._check(own)

    @override
    def _fit(self, embeddings: Tensor) -> None:
        """Fit all snapshots.

        Raises:
            ValueError: If a typical distance is 0, which nothing can be divided by.
        """
        typical = []
        for scorer, own in self._each(embeddings):
            scorer.fit(own, calibrate=False)
            typical.append(self._typical_distance(scorer, own))
        self.typical_distances = torch.stack(typical)
        if zero := torch.nonzero(self.typical_distances == 0)[:, 0].tolist():
            raise ValueError(
                f"typical distance of normal images must be above 0, got 0 for snapshots {zero} of {len(typical)}; "
                "the images held out have exact duplicates among the others: remove duplicates."
            )

    @override
    def fitted_embeddings(self) -> Tensor | None:
        own = [cast("Scorer", scorer).fitted_embeddings() for scorer in self.scorers]
        held = [embeddings for embeddings in own if embeddings is not None]
        return torch.stack(held, dim=1) if held and len(held) == len(own) else None

    def _typical_distance(self, scorer: Scorer, embeddings: Tensor) -> Tensor:
        count = len(embeddings)
        if count < _HELD_OUT:
            return scorer._calibrate(embeddings).mean()
        order = torch.from_numpy(np.random.default_rng(0).permutation(count)).to(embeddings.device)
        held_out, rest = order[: count // _HELD_OUT], order[count // _HELD_OUT :]
        other = self._new[0]._for_size(len(rest))  # a copy, unfitted
        other.fit(embeddings[rest], calibrate=False)
        distances: Tensor = other(embeddings[held_out])
        return distances.mean()

    @override
    def _calibrate(self, embeddings: Tensor) -> Tensor:
        distances = [scorer._calibrate(own) for scorer, own in self._each(embeddings)]
        return (torch.stack(distances, dim=1) / self.typical_distances).amax(dim=1)

    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        return self.snapshot_distances(embeddings).amax(dim=1)

    def snapshot_distances(self, embeddings: Tensor) -> Tensor:
        """Distance to each snapshot in units of its typical distance, ``(B, S)``; RuntimeError before ``fit``."""
        self._require_fitted()
        return torch.stack([scorer(own) for scorer, own in self._each(embeddings)], dim=1) / self.typical_distances

    @override
    def neighbors(self, embeddings: Tensor, num_neighbors: int) -> Neighbors | None:
        return self.explain(embeddings, num_neighbors)[1]

    @override
    def explain(self, embeddings: Tensor, num_neighbors: int) -> ScoredEmbeddings:
        """Distances ``(B,)``, and the neighbours in the snapshot that decided, in units of its typical distance."""
        self._require_fitted()
        explained = [scorer.explain(own, num_neighbors) for scorer, own in self._each(embeddings)]
        distances, winners = (torch.stack([own for own, _ in explained], dim=1) / self.typical_distances).max(dim=1)
        named = [neighbors for _, neighbors in explained if neighbors is not None]
        if not named:
            return distances, None
        rows = torch.arange(len(winners), device=winners.device)
        lengths = torch.stack([length for length, _ in named])[winners, rows]  # (S, B, k) -> (B, k)
        positions = torch.stack([position for _, position in named])[winners, rows]
        return distances, (lengths / self.typical_distances[winners, None], positions)

    def _each(self, embeddings: Tensor) -> list[tuple[Any, Tensor]]:
        return list(zip(self.scorers, embeddings.unbind(dim=1), strict=True))

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if (typical := state_dict.get(f"{prefix}typical_distances")) is not None:
            self.resize(len(typical))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class EnsembleDetector(Detector):
    """Image -> largest distance over snapshots of the trunk, with one run of the stem for all of them.

    ``backbone`` is the network in training; it is not one of the snapshots. They come by ``load_snapshots`` when it is
    over, or from a checkpoint, which also decides how many there are. Saved state holds the stem once.

    Shapes: images ``(B, 3, H, W)``, pre-processed; embeddings ``(B, S, D)`` float32; distances ``(B,)``.

    Args:
        backbone: Image -> pooled embedding.
        normalization: Pooled embedding -> embedding.
        scorer: Embedding of one snapshot -> distance.
    """

    scorer: EnsembleScorer
    minibatches: Tensor
    """Number of minibatches ``(S,)`` after which each snapshot was taken, ascending."""

    def __init__(self, backbone: Backbone, normalization: EmbeddingNormalization, scorer: Scorer) -> None:
        super().__init__(backbone, normalization, EnsembleScorer(scorer))
        self.members = nn.ModuleList()
        self.register_buffer("minibatches", torch.empty(0, dtype=torch.int64))
        self.register_state_dict_post_hook(_leave_out_aliases)

    def load_snapshots(self, snapshots: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Take over trunks; the scorer is to be fitted again.

        Args:
            snapshots: Number of minibatches -> the trunk's parameters then, by ``backbone.trunk_parameters()``'s names.

        Raises:
            ValueError: If there are none, or names or shapes are not those of the backbone's trunk.
        """
        if not snapshots:
            raise ValueError("snapshots must be at least one, got none; train for longer or take them more often.")
        expected = {name: value.shape for name, value in self.backbone.trunk_parameters().items()}
        for minibatch, snapshot in snapshots.items():
            if (given := {name: value.shape for name, value in snapshot.items()}) != expected:
                differing = sorted(name for name, _ in given.items() ^ expected.items())
                raise ValueError(
                    f"snapshots must hold the trunk of {self.backbone.name}, got other names or shapes after minibatch "
                    f"{minibatch}: {', '.join(dict.fromkeys(differing[:4]))}; take them from a model of these settings."
                )
        ordered = sorted(snapshots)
        self._resize(len(ordered))
        self.minibatches = torch.tensor(ordered, device=self.minibatches.device)
        for member, minibatch in zip(self._forks, ordered, strict=True):
            for name, parameter in member.trunk_parameters().items():
                parameter.data.copy_(snapshots[minibatch][name])

    def snapshots(self) -> dict[int, dict[str, Tensor]]:
        """The snapshots as ``load_snapshots`` takes them; the tensors are the model's own."""
        own = [{name: value.detach() for name, value in member.trunk_parameters().items()} for member in self._forks]
        return dict(zip(self.minibatches.tolist(), own, strict=True))

    @property
    def _forks(self) -> list[Backbone]:
        return cast("list[Backbone]", list(self.members))

    def _resize(self, count: int) -> None:
        self.members = nn.ModuleList(self.backbone.fork() for _ in range(count))
        for member in self.members:
            member.requires_grad_(requires_grad=False)
        self.scorer.resize(count)
        self.runtime = None

    @override
    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(B, S, D)`` float32 of all snapshots; RuntimeError before there are any."""
        if len(self.members) == 0:
            raise RuntimeError("there are no snapshots of the trunk yet; train the model, or load a checkpoint.")
        run = self._embed_eagerly if self.runtime is None or torch.compiler.is_compiling() else self.runtime
        embeddings = run(images).float()
        return self.normalization(embeddings.flatten(0, 1)).unflatten(0, embeddings.shape[:2])

    def _embed_eagerly(self, images: Tensor) -> Tensor:
        hidden = self.backbone.stem(images)
        return torch.stack([member.embed(member.trunk(hidden)) for member in self._forks], dim=1)

    @override
    def make_runtime(self, name: RuntimeName, batch_size: int | None = None) -> Callable[[Tensor], Tensor]:
        """Runtime ``images -> (B, S, D)``: one of the stem and one of each trunk; see ``runtimes.make_runtime``."""
        stem = make_runtime(name, self.backbone.stem, batch_size=batch_size)
        trunks = [
            (member, make_runtime(name, member.trunk, images=False, batch_size=batch_size)) for member in self._forks
        ]

        def run(images: Tensor) -> Tensor:
            hidden = stem(images)
            return torch.stack([member.embed(trunk(hidden)) for member, trunk in trunks], dim=1)

        return run

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if (minibatches := state_dict.get(f"{prefix}minibatches")) is not None:
            self.minibatches = torch.empty_like(minibatches, device=self.minibatches.device)
            inside = f"{prefix}backbone."
            own = {key.removeprefix(inside): value for key, value in state_dict.items() if key.startswith(inside)}
            self.backbone.load_state_dict(own)  # first: the snapshots are copies of it
            self._resize(len(minibatches))
            for alias, name in _aliases(self).items():
                state_dict[prefix + alias] = state_dict[prefix + name]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _aliases(detector: EnsembleDetector) -> dict[str, str]:
    """Names in snapshots of the tensors that are the backbone's own, and their names there."""
    own = detector.backbone.state_dict(keep_vars=True)
    return {
        f"members.{number}.{name}": f"backbone.{name}"
        for number, member in enumerate(detector.members)
        for name, value in member.state_dict(keep_vars=True).items()
        if value is own[name]
    }


def _leave_out_aliases(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    del local_metadata
    if isinstance(module, EnsembleDetector):
        for alias in _aliases(module):
            del state_dict[prefix + alias]
