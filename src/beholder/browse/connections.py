"""A web server that drops connections which send no request or read no answer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from beholder.errors import os_error_text

_GRACE_S = 2
_MOST_HEAD_BYTES = 64 << 10
_BACKLOG = 128
"""So many visitors may be let in at once."""
_KEPT_FILES = 64
"""So many descriptors are left for pictures, marks and processes, where the system allows few."""
_FEWEST_CONNECTIONS = 8
_QUIET_S = 60.0
"""The same warning is shown once in this time."""


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """What one connection, and all together, may take.

    Attributes:
        head_s: seconds for the head of a request, from its first byte, or from when the connection was made.
        idle_s: seconds that a connection may wait between two requests.
        write_s: seconds in which a visitor has to read some of an answer.
        num_connections: at once; fewer where the process may open few files. One more takes the place of the one that has
            been without a request for longest; where all have one, it is turned away.
    """

    head_s: float = 15.0
    idle_s: float = 30.0
    write_s: float = 60.0
    num_connections: int = 256

    def most_connections(self) -> int:
        """As many as the process may have now."""
        most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if most_files == resource.RLIM_INFINITY:
            return self.num_connections
        return min(self.num_connections, max(_FEWEST_CONNECTIONS, (most_files - _KEPT_FILES) // 2))


class _Connection(H11Protocol):
    """uvicorn's, with an end to waiting: uvicorn itself bounds only the pause after an answer."""

    def __init__(self, *arguments: Any, limits: ServerLimits, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._waits_since = self.loop.time()

    @property
    def waits_since(self) -> float | None:
        """Since when no request of it is being answered, by the loop's clock; None: one is."""
        return self._waits_since if self.cycle is None or self.cycle.response_complete else None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, let another go for it, or turn it away."""
        super().connection_made(transport)
        alive = [item for item in self.connections if isinstance(item, _Connection) and not item.transport.is_closing()]
        if len(alive) > self._limits.most_connections():
            waiting = [item for item in alive if item is not self and item.waits_since is not None]
            if not waiting:
                transport.write(_TURNED_AWAY)
                self.drop()
                return
            min(waiting, key=lambda item: item.waits_since or 0.0).drop()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """An answer is out."""
        self._waits_since = self.loop.time()
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The visitor does not read as fast as is written."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Most of what was written is read."""
        super().resume_writing()
        self._cancel(self._write_timer)

    def timeout_keep_alive_handler(self) -> None:
        """The pause after an answer is over."""
        super().timeout_keep_alive_handler()
        self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._cancel(self._head_timer)
        self._cancel(self._write_timer)
        super().connection_lost(exc)

    def drop(self) -> None:
        """End it; what is written already may still be read for a while."""
        self.transport.close()
        self._cancel(self._write_timer)
        self._write_timer = self.loop.call_later(self._limits.write_s, self.transport.abort)

    def _watch(self) -> None:
        """See to it that a request that has begun comes to its end: the time is not begun anew by each byte of it."""
        is_awaited = self.waits_since is not None and self.timeout_keep_alive_task is None
        if not is_awaited or self.transport.is_closing():
            self._cancel(self._head_timer)
            self._head_timer = None
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_s, self.drop)

    @staticmethod
    def _cancel(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


_BODY = b'{"error": "too many visitors are being answered; try again"}'
_TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class _Server(uvicorn.Server):
    """uvicorn's; what goes wrong outside of requests is one line, and it goes on."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Begin to serve."""
        asyncio.get_running_loop().set_exception_handler(_Troubles())
        await super().startup(sockets)


class _Troubles:
    """Tells what went wrong in the event loop, the same thing once a minute."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Tell it."""
        warn_once(self._told, _trouble_text(context.get("exception"), str(context.get("message", ""))))


def warn_once(told: dict[str, float], text: str) -> None:
    """One warning line on stderr, unless `told` (text -> when, by `time.monotonic`) has it already."""
    now = time.monotonic()
    if now - told.get(text, -_QUIET_S) >= _QUIET_S:
        told[text] = now
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody is there to read it
            print(f"warning: {text}", file=sys.stderr, flush=True)


def _trouble_text(error: object, message: str) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (
            f"too many files and connections are open (this process may have {most_files}); new visitors wait until some are "
            "closed; allow more with ulimit -n"
        )
    told = os_error_text(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}" if error else ""
    return " ".join(f"the web server: {message}{': ' if message and told else ''}{told}".split())[:500]


def make_server(app: Any, limits: ServerLimits | None = None) -> uvicorn.Server:
    """A web server that is not running yet; quiet, and its answers do not name it."""
    limits = limits or ServerLimits()
    protocol = functools.partial(_Connection, limits=limits)
    return _Server(
        uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", protocol),
            loop="asyncio",
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            backlog=_BACKLOG,
            timeout_keep_alive=cast("int", limits.idle_s),
            timeout_graceful_shutdown=_GRACE_S,
            h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
        )
    )
