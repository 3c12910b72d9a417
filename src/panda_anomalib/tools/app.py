"""``panda-anomalib app``: look at a trained model in the browser."""

import argparse
import importlib.util
from pathlib import Path

from panda_anomalib.tools.parser import ToolParser

__all__ = ["check", "make_parser", "run"]


def make_parser() -> ToolParser:
    """Parser of ``app``."""
    parser = ToolParser("app", "panda-anomalib app results/Dn2/images/good/latest --images new_images")
    parser.add_argument("model", metavar="MODEL", help="a checkpoint (.ckpt), or a run folder: its newest checkpoint")
    parser.add_argument("--images", metavar="FOLDER", help="sort these by score first")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: only this machine's own)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default: 8000)")
    return parser


def check(arguments: argparse.Namespace) -> None:
    """Refuse at once what cannot work.

    Raises:
        RuntimeError: If the extra is not installed.
        FileNotFoundError: If there is no such model.
    """
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn", "jinja2")):
        raise RuntimeError("app needs the extra of that name; install it: pip install 'panda-anomalib[app]'")
    if not Path(arguments.model).exists():
        raise FileNotFoundError(f"model must be a checkpoint or a folder of runs, got '{arguments.model}'; check it.")


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted, which is how it is ended."""
    from panda_anomalib.app import serve

    try:
        serve(arguments.model, images=arguments.images, host=arguments.host, port=arguments.port)
    except KeyboardInterrupt:
        return 0
    return 0
