"""DN2 and PANDA image anomaly detection for anomalib.

Importing this package makes anomalib know its models and datamodules. The import itself is light: the models, and
with them torch and anomalib, are loaded when a name is first used, or as soon as anomalib's own models are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from panda_anomalib.registration import register_with_anomalib

if TYPE_CHECKING:
    from panda_anomalib.data import Demo as Demo
    from panda_anomalib.data import ImageSets as ImageSets
    from panda_anomalib.data import OneClassFolder as OneClassFolder
    from panda_anomalib.engine import Engine as Engine
    from panda_anomalib.models import Dn2 as Dn2
    from panda_anomalib.models import Dn2Set as Dn2Set
    from panda_anomalib.models import Panda as Panda
    from panda_anomalib.models import PandaEwc as PandaEwc
    from panda_anomalib.models import PandaJoint as PandaJoint
    from panda_anomalib.models import PandaOe as PandaOe
    from panda_anomalib.models import PandaSes as PandaSes

__version__ = "0.1.0"
_MODELS = ("Dn2", "Dn2Set", "Panda", "PandaEwc", "PandaJoint", "PandaOe", "PandaSes")
_DATA = ("Demo", "ImageSets", "OneClassFolder")
__all__ = [
    "Demo",
    "Dn2",
    "Dn2Set",
    "Engine",
    "ImageSets",
    "OneClassFolder",
    "Panda",
    "PandaEwc",
    "PandaJoint",
    "PandaOe",
    "PandaSes",
    "__version__",
]

_HOME = {"Engine": "engine", **dict.fromkeys(_DATA, "data"), **dict.fromkeys(_MODELS, "models")}


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names are {', '.join(__all__)}.")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


register_with_anomalib()
