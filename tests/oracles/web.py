"""What to answer in; a web server on this machine out: one that gives files, good or poor, and what others are made of."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import unquote


class Server(ThreadingHTTPServer):
    """A server on 127.0.0.1 at a free port; `Answer` says what it does."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: type[Answer]) -> None:
        super().__init__(("127.0.0.1", 0), answer)

    @property
    def url(self) -> str:
        """Its address, without a slash behind."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may hang up in the middle of an answer."""


class Answer(BaseHTTPRequestHandler):
    """Answers HEAD and GET with `answer`, which a class made of this one defines."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def answer(self, *, with_body: bool) -> None:
        """Answer one request; with_body: GET, not HEAD."""
        raise NotImplementedError

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    @property
    def name(self) -> str:
        """The path that is asked for, as text, without slashes around and without what stands behind `?`."""
        return unquote(self.path.split("?")[0]).strip("/")

    def part(self, num_bytes: int) -> tuple[int, int] | None:
        """First byte of a file, and the one behind the last, that are asked for; None: all of it."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return None
        return int(wanted[1]), min(num_bytes, int(wanted[2]) + 1) if wanted[2] else num_bytes

    def send_body(self, body: bytes) -> None:
        """Send the bytes behind the headers."""
        self.wfile.write(body)

    def send(
        self,
        status: int,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        promised: int | None = None,
        sized: bool = True,
    ) -> None:
        """Send an answer; promised: the length that is told, if not the body's; sized: whether one is told at all."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if sized:
            self.send_header("Content-Length", str(len(body) if promised is None else promised))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self.send_body(body)
        self.wfile.flush()
        self.close_connection = self.close_connection or not sized


AnyServer = TypeVar("AnyServer", bound=Server)


@contextlib.contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """Let a server run in a thread until the end of the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


WAYS = ("whole", "endless", "flaky", "broken")
"""How a poor server gives /WAY/NAME: without byte ranges; without a size; only every other time; never."""


class FileServer(Server):
    """Gives `files` at /NAME, with byte ranges, and at /WAY/NAME as poor servers do (`WAYS`).

    Attributes:
        files: name -> bytes.
        kind: the Content-Type that is told; None: none.
        fails_from: bytes of any file from here on are answered with 503; None: everything is given.
        asked: names and first bytes of all GET requests so far.
    """

    def __init__(self, files: Mapping[str, bytes], kind: str | None = None) -> None:
        super().__init__(_Files)
        self.files = dict(files)
        self.kind = kind
        self.fails_from: int | None = None
        self.asked: list[tuple[str, int]] = []


class _Files(Answer):
    server: FileServer

    def answer(self, *, with_body: bool) -> None:
        way, _, name = self.name.partition("/")
        if way not in WAYS:
            way, name = "", self.name
        data = self.server.files.get(name)
        part = self.part(len(data or b"")) if way not in ("whole", "endless") else None
        start, stop = part or (0, len(data or b""))
        if with_body:
            self.server.asked.append((name, start))
        if data is None:
            self.send(404)
        elif self._fails(way, stop, with_body=with_body):
            self.send(503)
        else:
            headers = {"Content-Type": self.server.kind} if self.server.kind else {}
            if part:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            body = data[start:stop] if with_body else b""
            self.send(206 if part else 200, body, headers=headers, promised=stop - start, sized=way != "endless")

    def _fails(self, way: str, stop: int, *, with_body: bool) -> bool:
        late = self.server.fails_from is not None and stop > self.server.fails_from
        odd = way == "flaky" and len(self.server.asked) % 2 == 1
        return way == "broken" or (with_body and (late or odd))


@contextlib.contextmanager
def serving(files: Mapping[str, bytes], kind: str | None = None) -> Iterator[FileServer]:
    """A server of files that runs until the end of the block; see `FileServer`."""
    with running(FileServer(files, kind)) as server:
        yield server
