"""Pages by path in; a server of them, plain and as the Hugging Face hub serves them, which fails when told to, out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oracles.web import Answer, Server

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Page:
    """What is served at a path: bytes or a file, and how it is served.

    Attributes:
        body: bytes, or a file that holds them.
        status: 200, or that of a failure.
        headers: what is told besides the length.
        cut_after: the connection breaks after so many bytes of an answer, `cuts_left` times; None: never.
        ranges: whether parts are given.
    """

    body: bytes | Path = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    cuts_left: int = 1 << 30
    ranges: bool = True

    @property
    def num_bytes(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size

    def bytes_of(self, start: int, stop: int) -> bytes:
        """The bytes from `start` on, that at `stop` not among them."""
        if isinstance(self.body, bytes):
            return self.body[start:stop]
        with self.body.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


class Hub(Server):
    """The server: `pages` by path, `log` of (method, path), `num_bytes_sent` of bodies."""

    def __init__(self, answers: type[Answer] | None = None) -> None:
        super().__init__(Pages if answers is None else answers)
        self.pages: dict[str, Page] = {}
        self.log: list[tuple[str, str]] = []
        self.num_bytes_sent = 0

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

    def publish(self, repo: str, folder: Path, revision: str = "main") -> None:
        """Serve all files of a folder as the hub does."""
        for path in folder.iterdir():
            self.add_hub_file(repo, path.name, path.read_bytes(), revision=revision)


class Pages(Answer):
    server: Hub

    def answer(self, *, with_body: bool) -> None:
        path = f"/{self.name}"
        self.server.log.append((self.command, path))
        page = self.server.pages.get(path, Page(b"not here", 404, {"X-Error-Code": "EntryNotFound"}))
        part = self.part(page.num_bytes) if page.ranges and page.status == 200 else None
        start, stop = part or (0, page.num_bytes)
        headers = dict(page.headers)
        if part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{page.num_bytes}"
        body = page.bytes_of(start, stop) if with_body else b""
        if page.cut_after is not None and page.cuts_left > 0 and len(body) > page.cut_after:
            page.cuts_left -= 1
            body = body[: page.cut_after]
            self.close_connection = True
        self.server.num_bytes_sent += len(body)
        self.send(206 if part else page.status, body, headers=headers, promised=stop - start)
