"""Checks of what is installed, against installations that are really broken."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torchvision

from panda_anomalib.doctor import Check, examine, versions
from panda_anomalib.doctor.findings import build_of, install_command
from panda_anomalib.doctor.versions import check_anomalib, check_packages, check_python, check_torch, check_torchvision

MakeDistribution = Callable[..., None]


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeDistribution:
    """Install a distribution that says of itself what is given, before all others on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, version: str, *lines: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        text = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
        (folder / "METADATA").write_text(text + "\n")

    return make


def test_this_installation_is_whole() -> None:
    """The versions that matter are listed; what is right has nothing to mend."""
    for finding in (check_python(), *check_packages(), check_torch(), check_torchvision(), check_anomalib()):
        assert (finding.status, finding.mend) == ("ok", "")
    (packages,) = check_packages()
    for name in ("anomalib 2.7", "torch ", "torchvision ", "timm ", "lightning ", "faiss-cpu ", "jsonargparse "):
        assert name in packages.found


def test_python_outside_the_tested_range(distribution: MakeDistribution) -> None:
    """The range is that of our own metadata."""
    distribution("panda-anomalib", "0.1.0", "Requires-Python: >=3.30")
    finding = check_python()
    assert finding.status == "error"
    assert finding.found.endswith("must be >=3.30")
    assert finding.mend.startswith("uv venv --python 3.11")


def test_versions_out_of_range_are_named_with_the_command_that_mends_them(distribution: MakeDistribution) -> None:
    """Ours of anomalib, anomalib's of Lightning, torchvision's of torch."""
    distribution("anomalib", "2.6.1", "Requires-Dist: lightning>=99", "Requires-Dist: nowhere>=1; extra == 'other'")
    distribution("torchvision", "0.99.0", "Requires-Dist: torch==1.2.3")
    ours, theirs, torchvisions = check_packages()
    assert {ours.status, theirs.status, torchvisions.status} == {"error"}
    assert ours.found == "panda-anomalib needs anomalib<2.8,>=2.7 (got 2.6.1)"
    assert ours.mend == install_command("anomalib<2.8,>=2.7")
    assert theirs.found.startswith("anomalib needs lightning>=99 (got ")
    assert torchvisions.found.startswith("torchvision needs torch==1.2.3 (got ")


def test_a_missing_package_is_named(distribution: MakeDistribution) -> None:
    """But faiss may come from another distribution than faiss-cpu. One command mends everything."""
    needed = [f"Requires-Dist: {name}" for name in ("no-such-thing>=2", "no-faiss>=1", "torch>=99", "timm")]
    distribution("panda-anomalib", "0.1.0", *needed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "_OTHER_BUILDS", {"no-faiss": "faiss"})
        (finding,) = check_packages()
    assert finding.found.startswith("panda-anomalib needs no-such-thing>=2 (not installed), torch>=99 (got ")
    assert finding.mend == install_command("no-such-thing>=2", "torch>=99")


def test_a_source_tree_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it needs is then unknown."""
    monkeypatch.setattr(versions, "_OURS", "no-such-distribution")
    assert "on the path but not installed" in check_packages()[0].found


def test_torchvision_without_its_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real package without its compiled part fails as one of another build does."""
    installed = Path(torchvision.__file__).parent
    shutil.copytree(
        installed, tmp_path / "torchvision", ignore=shutil.ignore_patterns("*.so", "__pycache__", "datasets")
    )
    (tmp_path / "torchvision/datasets").mkdir()
    (tmp_path / "torchvision/datasets/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    check = Check("torchvision", "panda_anomalib.doctor.versions:check_torchvision")
    (finding,) = examine([check])
    assert finding.status == "error"
    assert finding.found == (
        f"torch {build_of('torch')} and torchvision {torchvision.__version__} are not of one build, or one of them is "
        "not whole: operator torchvision::nms does not exist"
    )
    assert (
        finding.mend == f"{install_command('torch', 'torchvision', again=True)} (both in one command, from one index)"
    )


def test_different_builds_are_a_warning_where_they_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a torch for the CPU beside a torchvision for CUDA may."""
    monkeypatch.setattr(torchvision, "__version__", "0.25.0+elsewhere")
    finding = check_torchvision()
    assert finding.status == "warning"
    assert finding.found.endswith("are of different builds; on the CPU they work together")


def test_an_operator_that_answers_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported is not yet working."""
    import torch

    monkeypatch.setattr(torchvision.ops, "nms", lambda *_: torch.tensor([0, 1]))
    assert check_torchvision().found.endswith("an operator answers [0, 1] instead of [1]")


def test_anomalib_without_our_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named."""
    import anomalib.models

    monkeypatch.setattr(
        anomalib.models, "list_models", lambda: {"patchcore", "dn2", "dn2_set", "panda", "panda_ewc", "panda_ses"}
    )
    finding = check_anomalib()
    assert finding.status == "error"
    assert finding.found.endswith("does not list our models pandajoint, pandaoe")


def test_build_is_read_without_importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file that the package brings, in both of its spellings."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, line in (
        ("first_build", "__version__ = '1.2.3+cpu'"),
        ("second_build", '__version__: str = "4.5+cu130"'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')")
        (tmp_path / name / "version.py").write_text(f"import typing\n{line}\n")
    assert (build_of("first_build"), build_of("second_build"), build_of("no_build")) == ("1.2.3+cpu", "4.5+cu130", None)


@pytest.mark.parametrize(
    ("has_pip", "command"),
    [
        (True, f"{sys.executable} -m pip install --force-reinstall 'a>=1'"),
        (False, f"uv pip install --python {sys.executable} --reinstall 'a>=1'"),
    ],
)
def test_install_command_is_one_that_can_be_copied(
    has_pip: bool, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the environment has: uv makes environments without pip."""
    monkeypatch.setattr("panda_anomalib.doctor.findings.version_of", lambda _: "26.0" if has_pip else None)
    assert install_command("a>=1", again=True) == command
