"""The ``model`` and ``data`` sections of a configuration: what they name must be there, and take what they give."""

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import anomalib.data
import anomalib.models
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule

from panda_anomalib.backbones.timm_weights import offer_packaged_weights
from panda_anomalib.data.one_class import OneClassData
from panda_anomalib.models.base import DetectorMixin

__all__ = ["build_data", "build_model", "check_data", "check_model", "class_names", "takes"]

Section = Mapping[str, Any]


def check_model(section: Section) -> None:
    """Refuse a model that is not there or does not take its arguments; ours are built for it, without weights.

    Raises:
        ValueError: If it is unknown, or an argument is not accepted.
    """
    kind = _model_class(section["class_path"])
    _check_arguments("model", kind, section)
    if issubclass(kind, DetectorMixin):  # building anomalib's fetches weights
        build_model(section)


def build_model(section: Section) -> AnomalibModule:
    """The model; anomalib's fetch their weights now, packaged ones from their package, ours when they are fitted."""
    offer_packaged_weights()
    return _model_class(section["class_path"])(**section.get("init_args", {}))


def check_data(section: Section) -> AnomalibDataModule:
    """The datamodule, after a look whether its files and classes are there, where it is one of ours.

    Raises:
        ValueError: If it or a class is unknown, or an argument is not accepted.
        FileNotFoundError: If its files are not there.
    """
    datamodule = build_data(section)
    if isinstance(datamodule, OneClassData):
        datamodule.split()
    return datamodule


def build_data(section: Section) -> AnomalibDataModule:
    """The datamodule, which has not looked at its files.

    Raises:
        ValueError: If it is unknown, or an argument is not accepted.
    """
    kind = _data_class(section["class_path"])
    _check_arguments("data", kind, section)
    try:
        return kind(**section.get("init_args", {}))
    except TypeError as error:  # an argument is missing
        raise ValueError(f"data.init_args of {kind.__name__} must be complete, got an error: {error}.") from error


def class_names(section: Section) -> list[str]:
    """Every class that can be the normal one of a data set.

    Raises:
        ValueError: If the data set does not say.
    """
    kind = _data_class(section["class_path"])
    if not issubclass(kind, OneClassData):
        raise ValueError(f"grid of classes must be a list for {kind.__name__}, got 'all'; name them.")
    arguments = section["init_args"]
    listed = arguments.get("classes") or ["any"]
    names: list[str] = build_data({**section, "init_args": {**arguments, "normal_class": listed[0]}}).class_names()
    return names


def takes(section: Section, argument: str) -> bool:
    """Whether the class that a ``data`` section names has this argument."""
    return argument in _arguments(_data_class(section["class_path"]))


def _model_class(path: str) -> type[Any]:
    module, _, name = path.rpartition(".")
    module = module or "anomalib.models"
    allowed = module in anomalib.models.ALLOWED_MODULES | {"anomalib.models"}  # what get_model allows
    found = getattr(import_module(module), name, None) if allowed else None
    if not (isinstance(found, type) and issubclass(found, AnomalibModule)):
        known = [model.__name__ for model in AnomalibModule.__subclasses__()]
        raise ValueError(f"model must be a model that anomalib knows, got {path!r}; {_nearest(name, known)}")
    return found


def _data_class(path: str) -> type[Any]:
    name = path.rpartition(".")[2]  # as anomalib's get_datamodule
    found = getattr(anomalib.data, name, None)
    if not (isinstance(found, type) and issubclass(found, AnomalibDataModule)):
        values = {known: getattr(anomalib.data, known) for known in dir(anomalib.data)}
        modules = [known for known, one in values.items() if isinstance(one, type) and _is_data(one)]
        raise ValueError(f"data must be a datamodule that anomalib knows, got {path!r}; {_nearest(name, modules)}")
    return found


def _is_data(kind: type) -> bool:
    return issubclass(kind, AnomalibDataModule) and kind is not AnomalibDataModule


def _check_arguments(part: str, kind: type[Any], section: Section) -> None:
    known = _arguments(kind)
    for name in section.get("init_args", {}):
        if name not in known:
            raise ValueError(
                f"{part}.init_args must be arguments of {kind.__name__}, got {name!r}; {_nearest(name, known)}"
            )


def _arguments(kind: type[Any]) -> list[str]:
    """Names that the constructor takes, and those of its bases as far as it hands on what it does not know."""
    names: list[str] = []
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names += [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return [name for name in dict.fromkeys(names) if name != "self"]


def _nearest(name: str, known: Iterable[str]) -> str:
    near: Sequence[str] = difflib.get_close_matches(name, list(known), n=3, cutoff=0)
    return f"the nearest are {', '.join(near)}." if near else "it takes none."
