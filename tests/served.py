"""A site behind a real server on this machine, for tests."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.applications import Starlette

from panda_anomalib.app.server import make_server


@contextmanager
def serving(site: Starlette) -> Iterator[str]:
    """Serve a site; gives host and port."""
    server = make_server(site)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
