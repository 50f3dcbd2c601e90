"""The server of the live page: runs until it is stopped, and drops connections which send no request or read no answer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import resource
import shutil
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from beholder.browse.about import Rejects
from beholder.browse.app import make_app, warn_once
from beholder.browse.marks import check_writable, summary
from beholder.browse.options import LOOPBACK_HOSTS, BrowseOptions
from beholder.browse.pictures import NUM_LOOKED_UP, Pictures, gone_warning
from beholder.browse.safety import Guard, new_token
from beholder.browse.session import Session
from beholder.browse.stacks import stacks_warning
from beholder.errors import InputError, OutputError, os_error_text
from beholder.locate.locate import LOOKED_AT, PictureFinder
from beholder.locate.named_sources import named_in
from beholder.models.download import is_offline
from beholder.options import all_cores
from beholder.pixels.picture import PixelOptions
from beholder.scoreset.joined import with_joined
from beholder.scoreset.row_names import open_each_once


@dataclass(frozen=True)
class Address:
    """Where a page is shown.

    Attributes:
        url: to open, with the token where one is needed.
        num_rows: of the set.
        marks: file of the marks, and what it holds, in words.
        has_token: whether the address is a secret.
        warning: that none of the first pictures can be found; None where one was, or nothing is known.
        pictures: which column says where the pictures are; None: the rows' names do.
    """

    url: str
    num_rows: int
    marks: tuple[str, str]
    has_token: bool
    warning: str | None = None
    pictures: str | None = None


@contextlib.contextmanager
def listening(options: BrowseOptions) -> Iterator[tuple[socket.socket, int]]:
    """A socket that listens, and its port. Raises InputError: the port is taken, or the address is not this machine's."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise InputError(f"--host {options.host}: there is no such address; use 127.0.0.1, or 0.0.0.0 for all") from None
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(place)
            found.listen(128)
        except OSError as error:
            raise InputError(_bind_failed(options, error)) from None
        yield found, int(found.getsockname()[1])
    finally:
        found.close()


def _bind_failed(options: BrowseOptions, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {options.port} is taken by another program; choose another --port, or leave it out for a free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {options.host} is no address of this machine; use 127.0.0.1, or 0.0.0.0 for all"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {options.port} may not be used without special rights; choose one above 1023"
    return f"cannot listen on {options.host} port {options.port}: {os_error_text(error)}"


@contextlib.contextmanager
def serving(options: BrowseOptions, port: int) -> Iterator[tuple[Guard, Address]]:
    """The guarded application for a server on `port`, and its address; everything is let go of at the end."""
    marks = options.marks_path
    check_writable(marks)
    scratch = Path(tempfile.mkdtemp(prefix="beholder-browse-"))
    cores = all_cores()
    try:
        with contextlib.ExitStack() as stack:
            named = {"score_column": options.score_column, "sample_column": options.sample_column}
            scores = stack.enter_context(open_each_once(options.scores, options.repeated, num_threads=cores, **named))
            scores = with_joined(scores, options.join, scratch, num_threads=cores)
            session = stack.enter_context(Session(scores, scratch, options))
            column = session.picture_column
            finder = PictureFinder(
                scores.record,
                pictures=options.pictures,
                root=options.root,
                confined=True,
                offline=is_offline(options.offline),
                addresses=column is not None,
            )
            stack.enter_context(finder)
            first = session.addresses(np.arange(min(LOOKED_AT, session.store.num_rows)))
            samples = [address for address in first if address is not None]
            finder.sources(samples)  # where they are unclear, it is said at the start
            warnings = [*scores.notes, stacks_warning(session.stacks), gone_warning(finder, samples[:NUM_LOOKED_UP])]
            is_free = options.picture_column is None and column is None and not named_in(scores.record)
            if warnings[-1] is not None and is_free:
                warnings.append("--picture-column names a column with the pictures' paths or URLs")
            warning = "; ".join(filter(None, warnings)) or None
            pixels = PixelOptions.of_record(scores.record.get("pixels"))
            pictures = Pictures(finder, num_workers=min(8, max(2, cores)), pixels=pixels)
            stack.callback(pictures.close)
            token = new_token() if options.needs_token else None
            app = make_app(session, pictures, Rejects(scores.rejects), scratch)
            guard = Guard(app, port=port, host_names=_own_names(options.host), token=token)
            told = (str(marks), summary(session.marks))
            url, num_rows = _url(options.host, port, token), session.view(scores.score_columns[0], ()).num_matching
            note = None if column is None else column.note
            yield guard, Address(url, num_rows, told, has_token=token is not None, warning=warning, pictures=note)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _own_names(host: str) -> list[str]:
    """Names that visitors may use: the one that was given, and, where others can reach it, the machine's."""
    return [] if host in LOOPBACK_HOSTS else [host, socket.gethostname(), socket.getfqdn()]


def _url(host: str, port: int, token: str | None) -> str:
    """The address to open."""
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def browse(options: BrowseOptions, *, on_ready: Callable[[Address], None] = lambda address: None) -> None:
    """Show the scores until a KeyboardInterrupt, which the command line makes of SIGTERM and SIGHUP, too.

    Raises BeholderError before the first visitor, never after.
    """
    with listening(options) as (found, port), serving(options, port) as (guard, address):
        server = make_server(guard)
        threading.Thread(target=_tell, args=(server, address, options, on_ready), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn ends by itself, then hands the signal on
            server.run(sockets=[found])
        if not server.started:
            raise OutputError("the web server did not start; is the address still free?")


def _tell(server: uvicorn.Server, address: Address, options: BrowseOptions, on_ready: Callable[[Address], None]) -> None:
    """Wait until the server answers; then say so, and open the page."""
    pause = threading.Event()
    while not server.started and not server.should_exit:
        pause.wait(0.02)
    if not server.started:
        return
    if address.warning is not None:
        print(f"warning: {address.warning}", file=sys.stderr, flush=True)
    on_ready(address)
    has_screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not options.no_open and not address.has_token and has_screen:  # a browser's command line is no place for a secret
        with contextlib.suppress(webbrowser.Error, OSError):
            webbrowser.open(address.url)


_GRACE_S = 2
_MOST_HEAD_BYTES = 64 << 10
_BACKLOG = 128
"""So many visitors may be let in at once."""
_KEPT_FILES = 64
"""So many descriptors are left for pictures, marks and processes, where the system allows few."""
_FEWEST_CONNECTIONS = 8


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
    """uvicorn's; what goes wrong outside of requests is one line, the same thing once a minute, and it goes on."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Begin to serve."""
        told: dict[str, float] = {}

        def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            warn_once(told, _trouble_text(context.get("exception"), str(context.get("message", ""))))

        asyncio.get_running_loop().set_exception_handler(handle)
        await super().startup(sockets)


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
