"""Pages by path in; a server of them, plain and as the Hugging Face hub serves them, which fails when told to, out."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

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
    """The server: `pages` by path, `log` of (method, path), `num_bytes_sent` of bodies.

    It takes uploads of who shows `token`: `made` are the repositories that were asked for, with whether they are private;
    files whose names end in one of `large_files` go to `large`, by sha256, as Git LFS has it.
    """

    def __init__(self, answers: type[Answer] | None = None) -> None:
        super().__init__(Pages if answers is None else answers)
        self.pages: dict[str, Page] = {}
        self.log: list[tuple[str, str]] = []
        self.num_bytes_sent = 0
        self.token = "hf_writer"
        self.made: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.large_files: tuple[str, ...] = ()

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

    def take(self, repo: str, commit: str) -> str:
        """Take a commit as the hub's own API has it (JSON lines), and serve its files; the commit's address."""
        for line in map(json.loads, commit.splitlines()):
            if line["key"] == "file":
                self.add_hub_file(repo, line["value"]["path"], base64.b64decode(line["value"]["content"]))
            elif line["key"] == "lfsFile":
                self.add_hub_file(repo, line["value"]["path"], self.large[line["value"]["oid"]])
        return f"{self.url}/{repo}/commit/{COMMIT}"

    def publish(self, repo: str, folder: Path, revision: str = "main") -> None:
        """Serve all files of a folder as the hub does."""
        for path in folder.iterdir():
            self.add_hub_file(repo, path.name, path.read_bytes(), revision=revision)


class Pages(Answer):
    server: Hub

    def answer(self, *, with_body: bool) -> None:
        path = f"/{self.name}"
        self.server.log.append((self.command, path))
        kind = self.name.split("/")
        if kind[:2] == ["api", "models"] and len(kind) == 4:
            self._say_model("/".join(kind[2:]))
            return
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

    def do_POST(self) -> None:
        """The hub's API, as far as an upload goes."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.log.append((self.command, f"/{self.name}"))
        kind = self.name.split("/")
        if self.name == "api/validate-yaml":
            return self._say({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._say({"error": "Invalid username or password."}, 401)
        if self.name == "api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            if repo in self.server.made:
                return self._say({"url": f"{self.server.url}/{repo}", "error": "You already created this model repo"}, 409)
            self.server.made[repo] = wanted.get("visibility") == "private"
            return self._say({"url": f"{self.server.url}/{repo}"})
        if kind[-2] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            return self._say({"files": [self._mode(name) for name in names]})
        if kind[-2] == "commit":
            return self._say({"commitUrl": self.server.take("/".join(kind[2:4]), body), "commitOid": COMMIT})
        assert self.name.endswith(".git/info/lfs/objects/batch")
        objects = [one | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}} for one in _objects(body)]
        return self._say({"transfer": "basic", "objects": objects})

    def _say_model(self, repo: str) -> None:
        """What is known of a repository that was made; one that is private is there for its writer alone."""
        may_read = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        if self.server.made.get(repo, True) and not (repo in self.server.made and may_read):
            return self.send(404, b"{}", headers={"X-Error-Code": "RepoNotFound", "Content-Type": "application/json"})
        start = f"/{repo}/resolve/main/"
        files = {path.removeprefix(start): page for path, page in self.server.pages.items() if path.startswith(start)}
        told: dict[str, Any] = {
            "id": repo,
            "private": self.server.made[repo],
            "siblings": [{"rfilename": name} for name in files],
        }
        if "README.md" in files:
            text = files["README.md"].bytes_of(0, files["README.md"].num_bytes).decode()
            told["cardData"] = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
        return self._say(told)

    def do_PUT(self) -> None:
        """A large file."""
        self.server.large[self.name.split("/")[-1]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send(200)

    def _mode(self, name: str) -> dict[str, Any]:
        mode = "lfs" if name.endswith(self.server.large_files or ("no such",)) else "regular"
        return {"path": name, "uploadMode": mode, "shouldIgnore": False}

    def _say(self, answer: Any, status: int = 200) -> None:
        self.send(status, json.dumps(answer).encode(), headers={"Content-Type": "application/json"})


def _objects(body: str) -> list[dict[str, Any]]:
    return list(json.loads(body)["objects"])
