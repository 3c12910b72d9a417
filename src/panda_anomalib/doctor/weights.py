"""Checks of where weights can come from."""

import importlib.util
from pathlib import Path

from panda_anomalib.doctor.findings import Finding, install_command

__all__ = ["check_hub", "check_packaged"]


def check_packaged() -> list[Finding]:
    """Whether the packaged weights are there and are those that were published."""
    from panda_anomalib.backbones.packaged import PACKAGED, packaged_state_dict

    whole, absent, findings = [], [], []
    for number, (name, packaged) in enumerate(PACKAGED.items()):
        if number > 0 and importlib.util.find_spec(packaged.package) is None:  # only the first one is required
            absent.append(name)
            continue
        try:
            packaged_state_dict(name)
            whole.append(name)
        except (FileNotFoundError, ValueError) as error:
            findings.append(
                Finding("error", str(error), install_command(f"{packaged.distribution}==0.1.0", again=True))
            )
    if whole:
        more = f"; not installed (extra lite): {', '.join(absent)}" if absent else ""
        findings.append(Finding("ok", f"{', '.join(whole)}: packaged, SHA-256 as published{more}"))
    return findings


def check_hub() -> Finding:
    """What the hub's cache holds, and whether the hub can be reached. Neither is needed for the packaged weights."""
    from huggingface_hub import constants

    from panda_anomalib.network import is_reachable, is_told_offline

    cache = Path(constants.HF_HUB_CACHE)
    count = len(list(cache.glob("models--timm--*"))) if cache.is_dir() else 0
    cached = f"{count} of timm's networks in {cache}"
    if constants.HF_HUB_OFFLINE or is_told_offline():
        return Finding("ok", f"offline by HF_HUB_OFFLINE; {cached}; packaged weights need no network")
    if is_reachable(constants.ENDPOINT):
        return Finding("ok", f"{constants.ENDPOINT} answers; {cached}")
    return Finding("ok", f"{constants.ENDPOINT} is out of reach; {cached}; packaged weights need no network")
