"""A timm network as a frozen image -> embedding function that can be split into stem and trunk."""

import copy
from typing import Any

import timm
import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from panda_anomalib.backbones.pooling import PoolingName, pool, pooling_parts
from panda_anomalib.backbones.weights import check_backbone, load_weights

__all__ = ["Backbone"]

_NUM_STAGES = 4  # of networks whose blocks all work at one resolution (plain vision transformers)


class Backbone(nn.Module):
    """Any timm network without its classifier, always in eval mode.

    Shapes: images ``(B, 3, H, W)``, normalised as the weights expect; feature map as the network makes it;
    embeddings ``(B, D)``.

    ``pooling="default"`` gives exactly ``timm.create_model(name, num_classes=0)``: the network's own readout (average
    for convolutional networks, the class token for most transformers). The others pool the last feature map over all
    positions (patch tokens only), before whatever the network's head does between pooling and classifier.

    Weights are loaded at first use, or by ``load_weights``: restoring a checkpoint needs neither network nor file.

    Args:
        name: timm's name of the network, with or without a weight tag (``resnet152.tv_in1k``).
        weights: ``default``, ``packaged``, ``random``, or the path of a weight file; see ``weights.load_weights``.
        pooling: How the feature map becomes a vector; ``avg+max`` concatenates two.
        trunk_stages: How many of the network's last stages form the trunk; the rest is the stem.
        backbone_args: Further arguments of the network's constructor, such as ``img_size``.

    Raises:
        ValueError: If the name is not timm's, or pooling or trunk_stages is not accepted.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str = "default",
        pooling: PoolingName = "default",
        trunk_stages: int = 2,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_backbone(name)
        if trunk_stages < 0:
            raise ValueError(f"trunk_stages must be at least 0, got {trunk_stages}.")
        self.name = name
        self.weights = weights
        self.poolings = pooling_parts(pooling)
        self.trunk_stages = trunk_stages
        self.network: Any = timm.create_model(name, pretrained=False, num_classes=0, **(backbone_args or {}))
        self.requires_grad_(requires_grad=False)
        self.eval()
        self.provenance: dict[str, str] | None = None
        self._weights_pending = True
        self._halves: tuple[nn.Module, nn.Module] | None = None

    def load_weights(self) -> None:
        """Load the weights unless they are there already, from the source or a checkpoint.

        Raises:
            ValueError: If the weight file is broken or does not fit.
            FileNotFoundError: If there are no weights at hand; the message names the ways out.
        """
        if self._weights_pending:
            self.provenance = load_weights(self.network, self.name, self.weights)
            self._weights_pending = False

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._weights_pending = False

    @override
    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode: batch-norm statistics are never moved (the authors' setting, and ours)."""
        return super().train(mode=False)

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.embed(self.feature_map(images))

    def feature_map(self, images: Tensor) -> Tensor:
        """Last feature map: ``(B, C, H, W)``, ``(B, H, W, C)`` or ``(B, N, C)``, as the network makes it."""
        self.load_weights()
        feature_map: Tensor = self.network.forward_features(images)
        return feature_map

    def embed(self, feature_map: Tensor) -> Tensor:
        """Pooled embedding ``(B, D)`` of a last feature map, float32 whatever the network computed in."""
        embeddings = [self._read_out(feature_map, kind) for kind in self.poolings]
        return torch.cat(embeddings, dim=1).float() if len(embeddings) > 1 else embeddings[0].float()

    def _read_out(self, feature_map: Tensor, kind: str) -> Tensor:
        head = self.network.forward_head
        if kind == "default":
            return head(feature_map)
        # A map of one position passes through the head's own pooling, whichever it is, unchanged.
        if feature_map.ndim == 3:  # (B, N, C): class and register tokens first
            prefix = getattr(self.network, "num_prefix_tokens", 0)
            pooled = pool(feature_map[:, prefix:], kind)
            return head(pooled[:, None].expand(-1, prefix + 1, -1))
        if getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            return head(pool(feature_map.flatten(1, 2), kind)[:, None, None])
        return head(pool(feature_map.flatten(2).transpose(1, 2), kind)[..., None, None])

    @property
    def stem(self) -> nn.Module:
        """Frozen first part: images -> what the trunk takes. Shares its parameters with ``network``."""
        self.load_weights()
        return self._split()[0]

    @property
    def trunk(self) -> nn.Module:
        """Last ``trunk_stages`` stages: output of the stem -> last feature map."""
        self.load_weights()
        return self._split()[1]

    @property
    def embedding_size(self) -> int:
        """D, the length of a pooled embedding."""
        size: int = getattr(self.network, "head_hidden_size", None) or self.network.num_features
        return size * len(self.poolings)

    def reload_weights(self) -> None:
        """Load the weights again, whatever training has made of them; see ``load_weights``."""
        self._weights_pending = True
        self.load_weights()

    def trunk_parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter of ``network`` that the stem does not use, by its name there.

        Raises:
            ValueError: If the trunk has no parameters: nothing could be trained.
        """
        in_stem = {id(parameter) for parameter in self._split()[0].parameters()}
        found = {name: value for name, value in self.network.named_parameters() if id(value) not in in_stem}
        if not found:
            raise ValueError(f"trunk_stages must be at least 1 to train {self.name}, got {self.trunk_stages}.")
        return found

    def fork(self) -> "Backbone":
        """Copy that shares the stem's modules with this backbone and has a trunk and a head of its own."""
        in_stem = {id(module) for module in self.stem.modules()}
        shared: dict[int, Any] = {id(module): module for module in self.network.modules() if id(module) in in_stem}
        shared |= {id(parameter): parameter for parameter in self.stem.parameters()}
        return copy.deepcopy(self, shared)

    def _split(self) -> tuple[nn.Module, nn.Module]:
        if self._halves is None:
            # a tuple hides the halves from state_dict(): their parameters are the network's own
            self._halves = _split_features(self.network, self._boundary())
        return self._halves

    def _boundary(self) -> str:
        """Path of the module whose output is handed from stem to trunk; '' for an empty stem."""
        info = self.network.feature_info
        stages = [(entry["module"], entry["reduction"]) for entry in (info if isinstance(info, list) else info.info)]
        if len({reduction for _, reduction in stages}) == 1:  # one resolution throughout: quarters of the blocks
            stages = [stages[round(len(stages) * (i + 1) / _NUM_STAGES) - 1] for i in range(_NUM_STAGES)]
        if self.trunk_stages > len(stages):
            raise ValueError(f"trunk_stages must be at most {len(stages)} for {self.name}, got {self.trunk_stages}.")
        return stages[-self.trunk_stages - 1][0] if self.trunk_stages < len(stages) else ""

    def __getstate__(self) -> dict[str, Any]:
        """State without the halves, which are made again where they are needed."""
        return {**self.__dict__, "_halves": None}


class _Features(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.network.forward_features(images)


class _StageTracer(fx.Tracer):
    """Trace through the containers around the boundary only; every other module stays whole."""

    def __init__(self, boundary: str) -> None:
        super().__init__()
        parts = f"network.{boundary}".split(".")
        self.containers = {".".join(parts[:i]) for i in range(1, len(parts))}

    @override
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.containers


def _split_features(network: nn.Module, boundary: str) -> tuple[nn.Module, nn.Module]:
    """Cut ``forward_features`` behind the module at path ``boundary``."""
    whole = _Features(network)
    if not boundary:
        return nn.Identity(), whole
    try:
        graph = _StageTracer(boundary).trace(whole)
    except Exception as error:
        raise ValueError(
            f"backbone {type(network).__name__} cannot be split into stem and trunk: torch.fx cannot follow its "
            f"forward_features ({error}); choose another backbone."
        ) from error
    nodes = list(graph.nodes)
    cut = next(node for node in nodes if node.op == "call_module" and node.target == f"network.{boundary}")
    before = nodes[: nodes.index(cut) + 1]
    stem, trunk = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in before:
        copies[node] = stem.node_copy(node, copies.__getitem__)
    stem.output(copies[cut])

    copies = {cut: trunk.placeholder("hidden")}

    def in_trunk(node: fx.Node) -> fx.Node:
        if node not in copies and node.op != "get_attr":
            raise ValueError(
                f"backbone {type(network).__name__} hands more than one tensor past {boundary} (also {node.name}); "
                "choose another trunk_stages or backbone."
            )
        if node not in copies:
            copies[node] = trunk.node_copy(node)
        return copies[node]

    for node in nodes[len(before) :]:
        copies[node] = trunk.node_copy(node, in_trunk)
    return fx.GraphModule(whole, stem), fx.GraphModule(whole, trunk)
