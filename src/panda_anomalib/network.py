"""Whether a server can be reached, in no time; imports nothing heavy."""

import os
import socket
import threading
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

__all__ = ["is_reachable", "is_told_offline"]

_LIMIT = 0.8  # seconds


def is_told_offline() -> bool:
    """Whether the environment forbids the hub's client to use the network (``HF_HUB_OFFLINE``)."""
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no", "off")


def is_reachable(url: str) -> bool:
    """Whether a connection opens within 0.8 seconds, to the proxy where the environment names one for ``url``.

    The hub's client would retry for most of a minute, and a firewall that drops packets lets every client wait.
    """
    server = urlparse(url)
    proxy = getproxies().get(server.scheme)
    if proxy and not proxy_bypass(server.hostname or ""):
        server = urlparse(proxy if "://" in proxy else f"http://{proxy}")
    port = server.port or (443 if server.scheme == "https" else 80)
    reached = threading.Event()

    def connect() -> None:  # in a thread: a name look-up has no time limit of its own
        try:
            socket.create_connection((server.hostname or "", port), timeout=_LIMIT).close()
            reached.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout=_LIMIT)
    return reached.is_set()
