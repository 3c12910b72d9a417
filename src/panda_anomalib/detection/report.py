"""What a detection tells its user: the most anomalous images, what the threshold is worth, what to do next."""

import os
import shlex
from pathlib import Path

import pandas as pd

from panda_anomalib.calibration import Calibration, fewest_images, realised_rates
from panda_anomalib.commands import PROGRAM
from panda_anomalib.detection.run import Detection

__all__ = ["describe", "describe_threshold"]

_SHOWN = 10  # images
_NEIGHBORS = 2  # normal images named for each


def describe(detection: Detection) -> str:
    """Text for a terminal, with paths as seen from the working folder."""
    table, calibrated = detection.table, detection.calibration.num_calibration > 0
    nearest = ", with the normal images nearest to them" if calibrated else ", by distance"
    parts = [
        _describe_verdict(detection),
        f"The {min(_SHOWN, len(table))} most anomalous{nearest}:",
        "\n".join(_describe_row(row) for _, row in table.head(_SHOWN).iterrows()),
        describe_threshold(detection.calibration),
        _describe_files(detection),
        _describe_next(detection),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def describe_threshold(calibration: Calibration) -> str:
    """What a threshold is worth: the rate of false alarms that so many normal images can promise."""
    rate, count = calibration.false_positive_rate, calibration.num_calibration
    asked, fewest = f"{_percent(rate)} false alarms", fewest_images(rate)
    if count == 0:
        return (
            "No threshold: one normal image cannot be compared with another, so nothing can be called anomalous.\n"
            f"From 2 normal images on there is a threshold; one for {asked} takes at least {fewest}."
        )
    mean, low, high = realised_rates(count, rate)
    threshold = f"Threshold: distance {float(calibration.threshold):.4g} (score 0.5)"
    expected = (
        f"Of new normal images like these, expect {_percent(mean)} to be called anomalous (nine times out of ten "
        f"between {_percent(low)} and {_percent(high)})."
    )
    if count >= fewest:
        return f"{threshold}, for {asked}, from {count} normal images.\n{expected}"
    return (
        f"{threshold}, the largest of {count} normal images: too few for the {asked} asked for.\n"
        f"The smallest p-value they allow is 1/{count + 1} = {1 / (count + 1):.2g}; {asked} take at least {fewest} "
        f"normal images.\n{expected}"
    )


def _describe_verdict(detection: Detection) -> str:
    count, normal = len(detection.table), detection.num_normal
    compared = f"compared with {normal} normal image{'s' if normal > 1 else ''}"
    if detection.calibration.num_calibration == 0:
        return f"{count} images {compared}."
    return f"{int(detection.table['predicted_label'].sum())} of {count} images are judged anomalous, {compared}."


def _describe_row(row: pd.Series) -> str:
    path = _shown(row["path"])
    if pd.isna(row["p_value"]):
        return f"  distance {row['distance']:10.4g}  {path}"
    verdict = "anomalous" if row["predicted_label"] == 1 else ""
    names = [f"neighbor_{i}" for i in range(1, _NEIGHBORS + 1)]
    nearest = [_shown(row[name]) for name in names if name in row and not pd.isna(row[name])]
    line = f"  score {row['score']:.3f}  p {row['p_value']:<7.2g} {verdict:9}  {path}"
    return "\n".join([line, *(f"{'':15}nearest normal image  {neighbor}" for neighbor in nearest)])


def _describe_files(detection: Detection) -> str:
    drawn = (detection.folder / "images").is_dir()
    places = [
        (detection.folder / "predictions.csv", "all images; the same as .parquet"),
        (detection.folder / "overview.png", "the most and the least anomalous images, all scores") if drawn else None,
        (detection.folder / "images", "images beside the normal ones that are nearest") if drawn else None,
        (detection.checkpoint, "the fitted model") if detection.checkpoint else None,
    ]
    shown = [(_shown(place[0]), place[1]) for place in places if place is not None]
    width = max(len(path) for path, _ in shown)
    return "\n".join(["Everything is there:", *(f"  {path:{width}}  {what}" for path, what in shown)])


def _describe_next(detection: Detection) -> str:
    if detection.checkpoint is None:
        return ""
    model = shlex.quote(_shown(detection.checkpoint))
    return "\n".join(
        [
            "Next:",
            f"  score more images:  {PROGRAM} detect --model {model} --images more_images",
            f"  use it elsewhere:   {PROGRAM} export --model {detection.name} --export_type onnx --ckpt_path {model}",
        ]
    )


def _shown(path: str | os.PathLike[str]) -> str:
    absolute, here = Path(path).absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
