"""The checks, in the order in which they are made: what others rest on comes first."""

from pathlib import Path

from panda_anomalib.doctor.findings import Check, install_command

__all__ = ["all_checks"]


def all_checks(results: str | Path = "results") -> list[Check]:
    """All checks.

    Args:
        results: Folder of the results, which must be writable.
    """
    host = "panda_anomalib.doctor"
    reinstall = install_command("torch", "torchvision", again=True)
    return [
        Check("python", f"{host}.versions:check_python"),
        Check("packages", f"{host}.versions:check_packages", mend=install_command("packaging")),
        Check("memory", f"{host}.machine:check_memory"),
        Check("folders", f"{host}.machine:check_folders", arguments={"results": str(results)}),
        Check("torch", f"{host}.versions:check_torch", "importing torch", mend=reinstall),
        Check("processor", f"{host}.machine:check_processor"),
        Check("devices", f"{host}.machine:check_devices", "trying the devices", ("torch",), mend=reinstall),
        Check("torchvision", f"{host}.versions:check_torchvision", "importing torchvision", ("torch",), mend=reinstall),
        Check(
            "search",
            f"{host}.trials:check_search",
            "importing scikit-learn and searching a memory bank",
            ("torch", "torchvision"),
            install_command("faiss-cpu", again=True),
        ),
        Check(
            "weights",
            f"{host}.weights:check_packaged",
            "importing timm and reading the packaged weights",
            ("torch", "torchvision"),
        ),
        Check("hub", f"{host}.weights:check_hub", "asking the hub", ("torch", "torchvision")),
        Check("runtimes", f"{host}.trials:check_runtimes", "trying the runtimes", ("torch", "torchvision")),
        Check(
            "anomalib",
            f"{host}.versions:check_anomalib",
            "importing anomalib, which takes up to half a minute",
            ("torch", "torchvision"),
            install_command("anomalib>=2.7,<2.8", again=True),
        ),
        Check("fit", f"{host}.trials:check_fit", "fitting a small model and testing it", ("anomalib",)),
    ]
