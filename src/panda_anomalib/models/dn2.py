"""DN2: nearest neighbours of frozen pretrained embeddings (Bergman, Cohen & Hoshen, arXiv:2002.10445)."""

from collections.abc import Sequence
from typing import Any

import timm
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from omegaconf import OmegaConf
from torch import nn
from typing_extensions import override

from panda_anomalib.backbones import Backbone, EmbeddingNormalization, ImagePreProcessor, weights_transform
from panda_anomalib.backbones.normalization import NormalizationName
from panda_anomalib.backbones.pooling import PoolingName, pooling_parts
from panda_anomalib.backbones.runtimes import RuntimeName
from panda_anomalib.backbones.weights import check_backbone
from panda_anomalib.calibration import Calibration
from panda_anomalib.models.base import DetectorMixin
from panda_anomalib.models.detector import Detector
from panda_anomalib.scorers import ScorerName, make_scorer

__all__ = ["Dn2"]


class Dn2(DetectorMixin, AnomalibModule):
    """Image-level one-class anomaly detection by distance to the embeddings of normal images.

    One pass over the normal images makes the memory bank and, from the distances of each of them to the others, the
    threshold. Nothing is trained.

    Args:
        backbone: timm's name of the network.
        weights: ``default`` (installed package, hub cache or hub), ``packaged``, ``random``, or the path of a file.
        backbone_args: Further arguments of the network's constructor, such as ``{"img_size": 224}``.
        pooling: ``default`` (the network's own), ``avg``, ``max``, ``gem`` or ``avg+max``.
        normalization: ``none`` (the papers), ``l2``, or ``power_l2`` (signed power, then l2).
        power: Exponent of ``power_l2``.
        scorer: ``whitening`` (neighbours in whitened space), ``knn`` (the papers), ``kmeans`` or ``center``.
        num_neighbors: Neighbours that count, for scorers that have them; by default the scorer's own, 2.
        scorer_args: Further arguments of the scorer, such as ``{"distance": "cosine"}``.
        resize: Shorter side, or (height, width), in pixels; by default as the weights were trained.
        crop: Side of the centre crop in pixels; by default as the weights were trained.
        false_positive_rate: Share of normal images that may be called anomalous; sets the threshold.
        runtime: What executes the backbone: ``auto``, ``eager``, ``channels_last``, ``compile``, ``openvino``, or
            one of the last three with ``_bf16`` (faster on some processors, three digits of precision).
        pre_processor: anomalib's component, or whether to have ours.
        post_processor: anomalib's component, or whether to have ours.
        evaluator: anomalib's component, or whether to have ours.
        visualizer: anomalib's component, or whether to have ours.

    Raises:
        ValueError: If an argument is not accepted; the message says what is.

    Example:
        >>> from panda_anomalib import Dn2, Engine, OneClassFolder
        >>> engine = Engine()
        >>> data = OneClassFolder(root="demo", normal_class="good")  # doctest: +SKIP
        >>> engine.fit(Dn2(), datamodule=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        weights: str = "default",
        backbone_args: dict[str, Any] | None = None,
        pooling: PoolingName = "default",
        normalization: NormalizationName = "power_l2",
        power: float = 0.5,
        scorer: ScorerName = "whitening",
        num_neighbors: int | None = None,
        scorer_args: dict[str, Any] | None = None,
        resize: int | Sequence[int] | None = None,
        crop: int | Sequence[int] | None = None,
        false_positive_rate: float = 0.05,
        runtime: RuntimeName = "auto",
        pre_processor: PreProcessor | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        # OmegaConf's containers must not reach the checkpoint, which holds plain data only.
        backbone_args, scorer_args, resize, crop = map(_plain, (backbone_args, scorer_args, resize, crop))
        check_backbone(backbone)
        if pre_processor is True:
            pre_processor = self.build_pre_processor(
                {"backbone": backbone, "backbone_args": backbone_args, "resize": resize, "crop": crop}
            )
        super().__init__(
            pre_processor=pre_processor,
            post_processor=Calibration(false_positive_rate) if post_processor is True else post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.initialize(runtime)

    @staticmethod
    @override
    def build_detector(arguments: dict[str, Any]) -> Detector:
        backbone = Backbone(
            arguments["backbone"],
            weights=arguments["weights"],
            pooling=arguments["pooling"],
            backbone_args=arguments["backbone_args"],
        )
        parts = len(pooling_parts(arguments["pooling"]))
        normalization = EmbeddingNormalization(arguments["normalization"], power=arguments["power"], num_parts=parts)
        scorer_args = dict(arguments["scorer_args"] or {})
        if arguments["num_neighbors"] is not None:
            scorer_args["num_neighbors"] = arguments["num_neighbors"]
        return Detector(backbone, normalization, make_scorer(arguments["scorer"], **scorer_args))

    @staticmethod
    @override
    def build_pre_processor(arguments: dict[str, Any]) -> ImagePreProcessor:
        cfg = timm.get_pretrained_cfg(arguments["backbone"])
        transform = weights_transform(
            cfg.to_dict() if cfg is not None else {},
            resize=arguments["resize"],
            crop=arguments["crop"],
            img_size=(arguments["backbone_args"] or {}).get("img_size"),
        )
        return ImagePreProcessor(transform)

    @staticmethod
    @override
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> ImagePreProcessor:
        """Pre-processor of the default backbone, for another input size if given (no crop then)."""
        return Dn2.build_pre_processor(
            {"backbone": "tf_efficientnet_lite0", "backbone_args": None, "resize": image_size, "crop": image_size}
        )


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
