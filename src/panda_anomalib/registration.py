"""Make anomalib know our models and datamodules: the only module that touches anomalib's registry.

anomalib 2.7 has no entry points. A model exists for ``list_models`` and ``get_model("name")`` when its class is
imported; for ``get_model({"class_path": ...})`` its package must be in ``ALLOWED_MODULES`` or its name in
``anomalib.models``; ``get_datamodule`` looks in ``anomalib.data`` only.

Importing anomalib's models takes many seconds, so importing *us* must not do it: when anomalib's packages are not
loaded yet, a hook registers our classes at the moment they are. Nothing else
is patched.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["register", "register_with_anomalib"]


def register() -> None:
    """Load and register everything now. Repeating it changes nothing.

    Raises:
        RuntimeError: If anomalib already has another class of one of our names.
    """
    _register_datamodules()
    _register_models()


def register_with_anomalib() -> None:
    """Register what anomalib has loaded already, and the rest as soon as it is loaded."""
    for host, action in _ACTIONS.items():
        if host in sys.modules:
            action()
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def _register_models() -> None:
    host, ours = import_module("anomalib.models"), import_module("panda_anomalib.models")
    for name in getattr(ours, "__all__", []):  # absent while our models, which import anomalib's first, are loading
        _set_once(host, name, getattr(ours, name))
    host.ALLOWED_MODULES.update({"panda_anomalib", "panda_anomalib.models"})


def _register_datamodules() -> None:
    host, ours = import_module("anomalib.data"), import_module("panda_anomalib.data")
    for name in getattr(ours, "__all__", []):
        value = getattr(ours, name)
        if isinstance(value, type) and issubclass(value, host.AnomalibDataModule):
            _set_once(host, name, value)


def _set_once(host: ModuleType, name: str, value: type) -> None:
    if getattr(host, name, value) is not value:
        raise RuntimeError(
            f"{host.__name__}.{name} exists already in this anomalib; use the full name {value.__module__}.{name}."
        )
    setattr(host, name, value)


_ACTIONS: dict[str, Callable[[], None]] = {  # ours too: imported first, they load anomalib before they are complete
    "anomalib.data": _register_datamodules,
    "panda_anomalib.data": _register_datamodules,
    "anomalib.models": _register_models,
    "panda_anomalib.models": _register_models,
}


class _AfterImport(MetaPathFinder):
    """Import hook that registers our classes right after anomalib's packages have been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _ACTIONS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, _ACTIONS[fullname])
        return spec


class _RegisteringLoader(Loader):
    def __init__(self, loader: Loader, action: Callable[[], None]) -> None:
        self._loader = loader
        self._action = action

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._action()

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)  # resource access, get_source and the like
