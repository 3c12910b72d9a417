"""Importing the package is light, and makes anomalib know its names whichever is imported first."""

import subprocess
import sys

import pytest

LIGHT = "import sys, panda_anomalib; assert not {'torch', 'anomalib', 'timm', 'lightning'} & set(sys.modules)"


def run(code: str) -> None:
    """Run code in a fresh interpreter."""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_import_is_light() -> None:
    """``panda-anomalib --version`` depends on it."""
    run(LIGHT)


@pytest.mark.parametrize(
    "first",
    [
        "import panda_anomalib, anomalib.models",
        "import anomalib.models, panda_anomalib",
        "from panda_anomalib import Dn2",
    ],
    ids=["ours first", "anomalib first", "model only"],
)
def test_models_and_datamodules_are_registered(first: str) -> None:
    """By import order: the hook, the immediate registration, and our models loading anomalib's."""
    run(
        f"{first}\n"
        "import anomalib.data, anomalib.models\n"
        "from anomalib.models import list_models, get_model\n"
        "assert 'dn2' in list_models()\n"
        "assert anomalib.models.Dn2.__module__ == 'panda_anomalib.models.dn2'\n"
        "assert anomalib.data.OneClassFolder.__module__ == 'panda_anomalib.data.folder'\n"
        "get_model({'class_path': 'panda_anomalib.Dn2', 'init_args': {'backbone': 'test_resnet'}})\n"
    )


def test_a_name_that_anomalib_has_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later anomalib may bring its own Dn2."""
    import anomalib.models

    from panda_anomalib.registration import register

    monkeypatch.setattr(anomalib.models, "Dn2", object, raising=False)
    with pytest.raises(RuntimeError, match=r"anomalib\.models\.Dn2 exists already .* panda_anomalib\.models\.dn2\.Dn2"):
        register()


def test_unknown_name() -> None:
    """The public names are listed."""
    import panda_anomalib

    with pytest.raises(AttributeError, match=r"has no attribute 'Dn3'; public names are .*\bDn2, .*\bPandaSes\b"):
        _ = panda_anomalib.Dn3
