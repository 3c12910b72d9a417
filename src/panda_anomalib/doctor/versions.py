"""Checks of what is installed: whether it is there, of the right version, and can be imported."""

import importlib.metadata
import importlib.util
import platform
import sys
import time

from panda_anomalib.doctor.findings import Finding, build_of, install_command, version_of

__all__ = ["SHOWN", "check_anomalib", "check_packages", "check_python", "check_torch", "check_torchvision"]

SHOWN = ("anomalib", "torch", "torchvision", "timm", "lightning", "faiss-cpu", "jsonargparse", "openvino")
"""Distributions whose versions matter most."""
_OURS = "panda-anomalib"
_OTHER_BUILDS = {"faiss-cpu": "faiss"}  # importable from distributions of other names, which do as well


def check_python() -> Finding:
    """Python's version against the range that is tested."""
    from packaging.specifiers import SpecifierSet

    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    wanted = importlib.metadata.metadata(_OURS)["Requires-Python"]
    if SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        return Finding("ok", found)
    return Finding("error", f"{found}; must be {wanted}", "uv venv --python 3.11 .venv, and install there")


def check_packages() -> list[Finding]:
    """Versions against what this package, anomalib and torchvision ask for."""
    problems = []
    for owner in (_OURS, "anomalib", "torchvision"):
        try:
            unmet = _unmet(owner)
        except importlib.metadata.PackageNotFoundError:
            if owner == _OURS:
                found = f"{owner} is on the path but not installed, so what it requires is not known"
                problems.append(Finding("error", found, f"{install_command('-e', '.')} (in its folder)"))
            continue
        if unmet:
            listed = ", ".join(f"{plain} ({instead})" for plain, instead in unmet.items())
            problems.append(Finding("error", f"{owner} needs {listed}", install_command(*unmet)))
    versions = {name: version_of(name) for name in SHOWN}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return problems or [Finding("ok", listed)]


def _unmet(owner: str) -> dict[str, str]:
    """What a distribution requires and does not have, and what is there instead; PackageNotFoundError if it is not."""
    from packaging.requirements import Requirement

    unmet = {}
    for requirement in map(Requirement, importlib.metadata.requires(owner) or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, version = requirement.name, version_of(requirement.name)
        plain = f"{name}{requirement.specifier}"
        if version is None:
            module = _OTHER_BUILDS.get(name)
            if module is None or importlib.util.find_spec(module) is None:
                unmet[plain] = "not installed"
        elif not requirement.specifier.contains(version, prereleases=True):
            unmet[plain] = f"got {version}"
    return unmet


def check_torch() -> Finding:
    """Whether torch can be imported and computes."""
    import torch

    total = float(torch.ones(2, 2).matmul(torch.ones(2, 2)).sum())
    if total != 8:
        return Finding("error", f"torch {torch.__version__} multiplies wrongly: {total} instead of 8", _reinstall())
    kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "no CUDA"
    return Finding("ok", f"{torch.__version__} ({kind}), computes")


def check_torchvision() -> Finding:
    """Whether torchvision is of the same build as torch: by importing it and calling one of its compiled operators."""
    builds = f"torch {build_of('torch')} and torchvision {build_of('torchvision')}"
    try:
        import torch
        import torchvision

        kept = torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]]), torch.tensor([0.5, 0.9]), 0.5).tolist()
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        text = str(error).strip().splitlines()[0]
        return Finding("error", f"{builds} are not of one build, or one of them is not whole: {text}", _reinstall())
    if kept != [1]:
        return Finding("error", f"{builds}: an operator answers {kept} instead of [1]", _reinstall())
    suffixes = [str(package.__version__).partition("+")[2] for package in (torch, torchvision)]
    if all(suffixes) and suffixes[0] != suffixes[1]:
        return Finding("warning", f"{builds} are of different builds; on the CPU they work together", _reinstall())
    return Finding("ok", f"{builds.partition(' and ')[2]} works with torch {torch.__version__}")


def _reinstall() -> str:
    return f"{install_command('torch', 'torchvision', again=True)} (both in one command, from one index)"


def check_anomalib() -> Finding:
    """Whether anomalib can be imported and knows our models."""
    start = time.monotonic()
    import anomalib
    from anomalib.models import list_models

    import panda_anomalib.models

    seconds = time.monotonic() - start
    names = [name.lower() for name in panda_anomalib.models.__all__]
    missing = set(names) - {name.replace("_", "") for name in list_models()}
    if missing:
        return Finding(
            "error", f"anomalib {anomalib.__version__} does not list our models {', '.join(sorted(missing))}"
        )
    return Finding("ok", f"{anomalib.__version__} imports in {seconds:.0f} s and knows our {len(names)} models")
