"""Small benchmarks: photographs that no network confuses, and configurations of a network with random weights."""

from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from skimage import data

__all__ = ["DN2", "draw_photos", "section", "write_config"]

DN2: dict[str, Any] = {
    "backbone": "test_resnet",
    "weights": "random",
    "visualizer": False,
    "runtime": "channels_last",
}


def draw_photos(root: Path, count: int = 10) -> Path:
    """Crops of two photographs as class folders of ``root``."""
    for name, picture in (("coffee", data.coffee()), ("astronaut", data.astronaut())):
        (root / name).mkdir(parents=True)
        for number in range(count):
            top = 240 * number // count
            Image.fromarray(picture[top : top + 160, 100:260]).save(root / name / f"{number:02}.png")
    return root


def section(root: Path | str, models: Any, /, **data_arguments: Any) -> dict[str, Any]:
    """Content of a configuration of these models on the photographs."""
    arguments = {"root": str(root), "normal_class": "coffee", **data_arguments}
    return {
        "accelerator": "cpu",
        "benchmark": {"seed": 0, "model": models, "data": {"class_path": "OneClassFolder", "init_args": arguments}},
    }


def write_config(path: Path, content: object) -> Path:
    """A configuration file."""
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path
