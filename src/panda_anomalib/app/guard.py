"""What every answer and every request has to have, so that no page of somebody else's can use this server."""

from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

_HEADERS = {
    # nothing but what this server itself gives: no fonts, scripts or counters from elsewhere
    "content-security-policy": "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",  # numbers of images start again with the next server
}
_MARK = "x-requested-with"
"""A header that a page of another origin cannot send without being allowed to."""


class Guard:
    """Middleware: refuses requests that change something but do not come from our own page; sets headers.

    Args:
        app: What it guards.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: Any = MutableHeaders(scope=message)
                headers.update(_HEADERS)
            await send(message)

        if scope["type"] == "http" and scope["method"] == "POST" and _MARK not in Headers(scope=scope):
            await PlainTextResponse("Only from this server's own page.", 403)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)
