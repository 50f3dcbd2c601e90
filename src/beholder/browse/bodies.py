"""Requests in; those whose body is larger than the page ever sends, or takes too long to come, are refused with one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from beholder.browse.safety import SAFE_METHODS, App, Message, Receive, Scope, Send

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
            await _refuse(send, 408, f"the request did not come to its end in {self._body_s:g} s")
            return
        if body is None:
            await _refuse(send, 413, f"the request is larger than {most:,} bytes, which is more than the page sends")
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


async def _refuse(send: Send, status: int, text: str) -> None:
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": body})
