"""Whether a server can be reached."""

import socket
import threading
from collections.abc import Iterator

import pytest

from panda_anomalib.network import is_reachable, is_told_offline

NOWHERE = "https://127.0.0.1:9"  # the discard service, which nobody offers


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[str]:
    """A server of this machine that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_accepts_is_reachable(server: str) -> None:
    """And one that is not there is not."""
    assert is_reachable(f"https://{server}")
    assert not is_reachable(NOWHERE)


def test_the_proxy_is_asked_where_there_is_one(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind it the server itself cannot be reached, and need not be; unless it is one the proxy is not for."""
    for proxy in (f"http://{server}", server):
        monkeypatch.setenv("https_proxy", proxy)
        assert is_reachable(NOWHERE)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert not is_reachable(NOWHERE)


def test_a_firewall_that_swallows_everything_costs_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name look-up takes no time limit: without one of our own this test would never end."""
    over = threading.Event()

    def swallow(*_: object, **__: object) -> socket.socket:
        over.wait()
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", swallow)
    assert not is_reachable("https://somewhere.example")
    over.set()


@pytest.mark.parametrize(("value", "told"), [("1", True), ("ON", True), ("0", False), ("", False), ("false", False)])
def test_offline_as_the_hubs_client_reads_it(value: str, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything but a clear no."""
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert is_told_offline() is told
