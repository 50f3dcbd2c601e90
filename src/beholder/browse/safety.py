"""Refuses requests of other sites, for foreign host names, without the token, or too large, before any other code runs.

What each rule is for: docs/architecture.md, "browse".
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.responses import JSONResponse, PlainTextResponse, Response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SAFE_METHODS = frozenset({"GET", "HEAD"})
"""They change nothing."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PICTURE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""Go with every answer, beside the content security policy."""
_TOKEN_HINT = "open the address that `beholder browse` printed, with its token"


class Guard:
    """ASGI middleware in front of everything.

    1. Host: an IP address, localhost or the name it was started with; any other name may have been rebound to this address.
    2. Fetch metadata: whatever another site asks for is refused, but for opening the page itself.
    3. What changes something must come from the page's own origin (Origin or Sec-Fetch-Site says so) as JSON.
    4. The token, where one is wanted: in the address at the first visit, then in an HttpOnly, SameSite=Strict cookie.
    """

    def __init__(self, app: App, *, port: int, host_names: Iterable[str] = (), token: str | None = None) -> None:
        self._app = app
        self._host_names = {"localhost", *(name.lower() for name in host_names)}
        self._token = token
        self._cookie = f"beholder_{port}"  # cookies are shared by all ports of a host
        self._visit = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on with headers added."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        headers: dict[str, str] = {}
        twice: set[str] = set()
        for raw_name, raw_value in scope["headers"]:
            name = raw_name.decode("latin-1").lower()
            if name in headers:
                twice.add(name)
            headers[name] = raw_value.decode("latin-1")
        refusal = "the request has two Host headers" if "host" in twice else self._refusal(scope, headers)
        answer, new_cookie = self._app, None
        if refusal is not None:
            answer = _refused(scope, 403, refusal)
        elif self._token is not None and not self._knows_cookie(headers):
            if self._knows_token(scope):
                new_cookie = f"{self._cookie}={self._visit}; Path=/; HttpOnly; SameSite=Strict"
            else:
                answer = _refused(scope, 401, _TOKEN_HINT)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_headers(scope["path"], new_cookie)]
            await send(message)

        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> str | None:
        """Why a request is refused; None: it is not."""
        host = headers.get("host", "")
        if not self._is_own_host(host):
            return f"{host!r} is no name of this server"
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        is_visit = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate" and scope["method"] in SAFE_METHODS
        if site not in (None, "same-origin", "none") and not is_visit:
            return "another site asked for this"
        if origin is not None and _place_of(origin) != host.lower():
            return "another site asked for this"
        if scope["method"] in SAFE_METHODS:
            return None
        if origin is None and site != "same-origin":
            return "changes are taken from the page itself only"
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return "changes are taken as JSON only"
        return None

    def _is_own_host(self, host: str) -> bool:
        """Whether a Host header names this server: an address cannot be rebound, a name could be."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if any(mark in host for mark in "@/\\?# ,"):
            return False
        if name.lower() in self._host_names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _knows_cookie(self, headers: dict[str, str]) -> bool:
        """Whether the visit's cookie is there; what other programs of this host keep beside it may be of any form."""
        pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        given = [value for name, _, value in pairs if name == self._cookie]
        return any(hmac.compare_digest(value.encode(), self._visit.encode()) for value in given)

    def _knows_token(self, scope: Scope) -> bool:
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def _place_of(origin: str) -> str | None:
    """Host and port of an Origin header; None for one that is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _headers(path: str, cookie: str | None) -> list[tuple[bytes, bytes]]:
    policy = _PICTURE_POLICY if path.startswith(("/thumb/", "/picture/", "/seen/")) else _POLICY
    found = {**HEADERS, "content-security-policy": policy}
    if cookie is not None:
        found["set-cookie"] = cookie
    return [(name.encode(), value.encode()) for name, value in found.items()]


def _refused(scope: Scope, status: int, text: str) -> Response:
    """A refusal: one line, as JSON for the page's code, as text for people."""
    not_kept = {"cache-control": "no-store"}
    if scope["path"] == "/":
        return PlainTextResponse(f"beholder: {text}\n", status, not_kept)
    return JSONResponse({"error": text}, status, not_kept)


def new_token() -> str:
    """A token that nobody guesses: 256 random bits."""
    return secrets.token_urlsafe(32)


BODY_S = 30.0
"""Seconds in which a body has to be there."""
MOST_BYTES: Mapping[str, int] = {"/api/view": 1 << 20, "/api/marks": 256 << 10}
"""Of a body, by path: conditions of 20,000 letters and clicked values; 10,000 rows."""
MOST_OTHER_BYTES = 16 << 10


class BodyLimit:
    """ASGI middleware: the application behind it gets whole bodies only."""

    def __init__(self, app: App, *, body_s: float = BODY_S) -> None:
        self._app, self._body_s = app, body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:  # nobody reads the body of those
            await self._app(scope, receive, send)
            return
        most = MOST_BYTES.get(scope["path"], MOST_OTHER_BYTES)
        try:
            async with asyncio.timeout(self._body_s):
                body = await _read(scope, receive, most)
        except TimeoutError:
            await _refused(scope, 408, f"the request did not come to its end in {self._body_s:g} s")(scope, receive, send)
            return
        if body is None:
            text = f"the request is larger than {most:,} bytes, which is more than the page sends"
            await _refused(scope, 413, text)(scope, receive, send)
            return
        is_read = False

        async def receive_again() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return body

        await self._app(scope, receive_again, send)


async def _read(scope: Scope, receive: Receive, most: int) -> Message | None:
    """The whole body in one message, or that the visitor has gone; None: it is larger than `most` bytes."""
    for name, value in scope["headers"]:
        if name.lower() == b"content-length" and value.strip().isdigit() and (len(value) > 18 or int(value) > most):
            return None
    found = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        found += message.get("body", b"")
        if len(found) > most:
            return None
        if not message.get("more_body", False):
            return {"type": "http.request", "body": bytes(found), "more_body": False}
