"""Checks of requests: only from the page itself, and of a limited size."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

SAFE_METHODS = ("GET", "HEAD")
FORM_BYTES = 64 * 1024  # of a form, in addition to the file
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(self)",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether a name or address is a loopback one."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


class Guard:
    """ASGI middleware against other sites (DNS rebinding, forged requests) and endless bodies."""

    def __init__(self, app: App, host: str, max_bytes: int) -> None:
        """Wrap an application.

        Args:
            app: The application.
            host: The address that the server is bound to. On loopback only names of loopback are
                accepted, otherwise also addresses and this machine's names: another site can
                reach the server only under a name of its own.
            max_bytes: Size of the largest upload.
        """
        self.app = app
        self.loopback = is_loopback(host)
        self.names = {"localhost", host}
        if not self.loopback:
            self.names |= {socket.gethostname(), f"{socket.gethostname()}.local", socket.getfqdn()}
        self.max_bytes = max_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            status, reason = refusal
            response = JSONResponse({"error": reason}, status, {"Connection": "close"})
            await response(scope, receive, send_guarded)
            return
        await self.app(scope, self._limited(receive), send_guarded)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Return the status and reason of a refusal; None if the request is accepted."""
        host = headers.get("host", "")
        name = _host_name(host)
        if not (self._is_address_of_ours(name) or name in self.names):
            return 421, f"not served under the name '{name}': open the address in the terminal"
        if method not in SAFE_METHODS and not _is_same_origin(headers, host):
            return 403, "refused: the request comes from another page"
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return 400, "Content-Length is not a number"
        if int(length) > self.max_bytes + FORM_BYTES:
            return 413, self._too_large()
        return None

    def _is_address_of_ours(self, name: str) -> bool:
        return _is_address(name) and (not self.loopback or is_loopback(name))

    def _limited(self, receive: Receive) -> Receive:
        """Count the bytes of the body, since Content-Length may be missing or wrong."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes + FORM_BYTES:
                raise TooLargeError(self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"larger than {self.max_bytes / 1e6:g} MB; try a shorter or smaller clip"


class TooLargeError(Exception):
    """A body that exceeds the limit."""


def _host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets; empty if it is invalid."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same_origin(headers: Headers, host: str) -> bool:
    """Whether a request comes from the page. Browsers report the origin, curl does not."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "same-origin") == "same-origin"
    return origin in (f"http://{host}", f"https://{host}")
