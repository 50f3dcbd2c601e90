"""A web server on 127.0.0.1 that serves files as plain URLs and as the Hugging Face hub does, and fails when told to."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Page:
    """What is served at a path: bytes or a file, and how it is served."""

    body: bytes | Path = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    cuts_left: int = 1 << 30
    ranges: bool = True

    @property
    def num_bytes(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size

    def part(self, start: int, stop: int) -> bytes:
        if isinstance(self.body, bytes):
            return self.body[start:stop]
        with self.body.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


class Web:
    """The server: `pages` by path, `log` of (method, path), `num_bytes_sent` of bodies."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.log: list[tuple[str, str]] = []
        self.num_bytes_sent = 0
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                web.answer(self, with_body=False)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = unquote(request.path.split("?", 1)[0])
        self.log.append((request.command, path))
        page = self.pages.get(path, Page(b"not here", 404, {"X-Error-Code": "EntryNotFound"}))
        start, stop, status = 0, page.num_bytes, page.status
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if wanted and page.ranges and status == 200:
            start, status = int(wanted[1]), 206
            stop = min(stop, int(wanted[2]) + 1) if wanted[2] else stop
        request.send_response(status)
        for name, value in page.headers.items():
            request.send_header(name, value)
        if status == 206:
            request.send_header("Content-Range", f"bytes {start}-{stop - 1}/{page.num_bytes}")
        request.send_header("Content-Length", str(stop - start))
        request.end_headers()
        if not with_body:
            return
        if page.cut_after is not None and page.cuts_left > 0 and stop - start > page.cut_after:
            page.cuts_left -= 1
            stop = start + page.cut_after
            request.close_connection = True
        data = page.part(start, stop)
        self.num_bytes_sent += len(data)
        request.wfile.write(data)
        request.wfile.flush()

    def add(self, path: str, body: bytes | Path = b"", **how: Any) -> Page:
        """Serve something at a plain path."""
        page = self.pages[path] = Page(body, **how)
        return page

    def add_hub_file(self, repo: str, file: str, body: bytes | Path, revision: str = "main", **how: Any) -> Page:
        """Serve a file as the hub does, under its branch and under its commit."""
        etag = hashlib.sha256(body if isinstance(body, bytes) else str(body.stat().st_size).encode()).hexdigest()
        page = Page(body, headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, **how)
        for name in (revision, COMMIT):
            self.pages[f"/{repo}/resolve/{name}/{file}"] = page
        return page


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A fresh server, which is also the hub."""
    server = Web()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.close()


@pytest.fixture
def dead_url() -> str:
    """The address of a server that was shut down: connections are refused."""
    server = Web()
    server.close()
    return server.url
