"""The server of the pages, on this machine only unless told otherwise."""

import errno
import logging
import socket
import tempfile
from pathlib import Path

import uvicorn
from rich.console import Console
from starlette.applications import Starlette

from panda_anomalib.app.gallery import Gallery
from panda_anomalib.app.site import make_site
from panda_anomalib.data.files import find_images
from panda_anomalib.progress import track
from panda_anomalib.scoring import ImageInspector

__all__ = ["make_server", "serve"]

logger = logging.getLogger(__name__)

_LOCAL = ("127.0.0.1", "localhost")


def serve(model: str | Path, *, images: str | Path | None = None, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Show a model in the browser until interrupted.

    Args:
        model: Checkpoint, or a folder with one below it.
        images: Folder of images to sort by score before the first page is shown.
        host: Address to listen on; any but this machine's own lets other machines ask, too.
        port: Port to listen on; 0 takes a free one.

    Raises:
        FileNotFoundError: If there is no checkpoint, or no such folder.
        ValueError: If the checkpoint is not of ours, the folder holds no image, or there is no such port.
        RuntimeError: If the port is taken, or the address not this machine's.
    """
    paths = _find_images(images)
    with _listen(host, port) as listening, tempfile.TemporaryDirectory() as uploads:
        gallery = Gallery(ImageInspector(model))
        for path in track(paths, "Scoring images") if paths else ():
            added = gallery.add(path, path.relative_to(Path(images or "")).as_posix())
            if isinstance(added, str):
                logger.warning("%s", added)
        if host not in _LOCAL:
            logger.warning("Whoever can reach %s can ask for verdicts, and see the images.", host)
        server = make_server(make_site(gallery, Path(uploads), public=host not in _LOCAL))
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}"
        Console(soft_wrap=True, highlight=False).print(f"Open {url} in a browser; Ctrl-C ends it.")
        server.run(sockets=[listening])


def make_server(site: Starlette) -> uvicorn.Server:
    """Server of a site, which says nothing but warnings."""
    return uvicorn.Server(uvicorn.Config(site, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))


def _find_images(folder: str | Path | None) -> list[Path]:
    if folder is None:
        return []
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"images must be an existing folder, got '{folder}'; check it.")
    paths = find_images(folder)
    if not paths:
        raise ValueError(f"images must be a folder with images, got none in '{folder}'; choose another.")
    return paths


def _listen(host: str, port: int) -> socket.socket:
    """Socket at the address: taken before the model is loaded, which takes longer."""
    if not 0 <= port < 2**16:  # the system would take the remainder
        raise ValueError(f"port must be from 0 to 65535, got {port}; 0 takes a free one.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RuntimeError(
                f"port must be free, got {port}, where another program listens; choose another."
            ) from None
        reason = error.strerror or error
        raise RuntimeError(f"host and port must be of this machine, got {host}:{port}: {reason}.") from None
