"""The server of the live page: runs until it is stopped."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.browse.about import Rejects
from beholder.browse.marks import check_writable, summary
from beholder.browse.options import LOOPBACK_HOSTS, BrowseOptions
from beholder.browse.pictures import NUM_LOOKED_UP, Pictures, gone_warning
from beholder.browse.safety import Guard, new_token
from beholder.browse.session import opened
from beholder.browse.stacks import stacks_warning
from beholder.errors import InputError, OutputError, os_error_text
from beholder.locate.locate import PictureFinder
from beholder.locate.named_sources import named_in
from beholder.models.download import is_offline
from beholder.pixels.picture import PixelOptions
from beholder.scoreset.joined import with_joined
from beholder.scoreset.row_names import open_each_once

if TYPE_CHECKING:
    import uvicorn

    from beholder.browse.connections import ServerLimits

_LOOKED_AT = 512
"""So many first samples tell which folder relative names count from; where that is unclear, it is said at the start."""


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
    from beholder.browse.app import make_app

    marks = options.marks_path
    check_writable(marks)
    scratch = Path(tempfile.mkdtemp(prefix="beholder-browse-"))
    cores = len(os.sched_getaffinity(0))
    try:
        with contextlib.ExitStack() as stack:
            named = {"score_column": options.score_column, "sample_column": options.sample_column}
            scores = stack.enter_context(open_each_once(options.scores, options.repeated, num_threads=cores, **named))
            scores = with_joined(scores, options.join, scratch, num_threads=cores)
            session = stack.enter_context(opened(scores, scratch, options))
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
            first = session.addresses(np.arange(min(_LOOKED_AT, session.store.num_rows)))
            samples = [address for address in first if address is not None]
            finder.sources(samples)
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


def make_server(app: Any, limits: ServerLimits | None = None) -> uvicorn.Server:
    """A web server that is not running yet."""
    from beholder.browse import connections

    return connections.make_server(app, limits)


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
