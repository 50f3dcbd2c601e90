"""Files by name in, a web server on this machine that gives them out, with byte ranges; it can be told to fail."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Gives `files`; of any file, bytes from `fails_from` on are answered with 503 while that is set.

    Attributes:
        files: name -> bytes.
        fails_from: None: everything is given.
        asked: names and first bytes of all GET requests so far.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Pages)
        self.files = dict(files)
        self.fails_from: int | None = None
        self.asked: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        """Its address, without a slash behind."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may hang up in the middle of an answer."""


class _Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        name = self.path.split("?")[0].strip("/")
        data = self.server.files.get(name)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = 0, len(data or b"")
        if wanted:
            start, stop = int(wanted[1]), min(stop, int(wanted[2]) + 1) if wanted[2] else stop
        if with_body:
            self.server.asked.append((name, start))
        fails = self.server.fails_from is not None and with_body and stop > self.server.fails_from
        if data is None or fails:
            self.send_response(404 if data is None else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if with_body:
            self.wfile.write(data[start:stop])


@contextlib.contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[FileServer]:
    """A server that runs in a thread until the end of the block."""
    server = FileServer(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
