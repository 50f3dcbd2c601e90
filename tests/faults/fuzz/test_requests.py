"""Mutated requests to the live page: each is answered, none by a failure of the program's own, and it goes on serving."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import random
import socket
import tempfile
import urllib.parse
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from beholder.browse.options import BrowseOptions
from beholder.errors import InputError
from oracles import odd_json
from oracles.browse_sets import Served, running, write_set
from oracles.fuzzing import Target, check
from oracles.mutating import ODD_NUMBERS, ODD_TEXTS, mutated
from oracles.tiers import mostly_slow

Change = Callable[[bytes], bytes]
ROWS = 12
_MOST_ANSWER = 4 << 20
_MOMENT_S = 0.3
_QUERIES = (
    ("/", {}), ("/static/app.js", {}), ("/static/x", {}), ("/api/set", {}), ("/api/values", {"column": "label"}),
    ("/api/range", {"column": "width"}), ("/api/count", {"view": "VIEW", "threshold": "5"}), ("/api/marks", {"since": "0"}),
    ("/api/rows", {"listing": "LISTING", "score": "aesthetic_score", "start": "0", "count": "5"}), ("/api/row/3", {}),
    ("/api/selection", {"listing": "LISTING", "start": "0", "count": "5"}), ("/api/rejects", {"reason": "truncated",
        "start": "0"}),
    ("/thumb/RUN/240/3", {}), ("/api/turned", {"rows": "1,2,3"}), ("/seen/RUN/3", {}), ("/picture/RUN/3", {}), ("/api/taste",
        {}),
    ("/api/command", {"view": "VIEW", "threshold": "5", "format": "csv"}), ("/api/export", {"view": "VIEW", "threshold": "5",
        "format": "txt"}),
)  # fmt: skip
_BODIES: tuple[tuple[str, Any], ...] = (
    ("/api/view", {"score": "aesthetic_score", "where": "width > 3", "filters": []}),
    ("/api/view", {"score": "aesthetic_score", "filters": [
        {"column": "width", "kind": "range", "low": 1, "high": 9.5}, {"column": "label", "kind": "contains", "text": "a"},
        {"column": "label", "kind": "in", "values": ["cat", None, 1, True]}, {"column": "label", "kind": "not_null"}]}),
    ("/api/listing", {"view": "VIEW", "tab": "all", "sort": "best", "threshold": 5.0, "low": 1.0, "high": 9.0, "seed": 0,
                      "stack": 1}),
    ("/api/listing", {"view": "VIEW", "tab": "stack", "stack": 1}), ("/api/listing", {"view": "VIEW", "tab": "undecided"}),
    ("/api/marks", {"rows": [1, 2], "mark": "keep"}), ("/api/marks", {"rows": [1], "mark": None}),
    ("/api/taste/read", {}), ("/api/taste/learn", {"score": "aesthetic_score"}), ("/api/taste/save", {}),
)  # fmt: skip


@functools.cache
def _served() -> Served:
    """A server of a small set, for all requests."""
    folder = Path.cwd().parent / "served"
    (folder / "p").mkdir(parents=True)
    for number in range(ROWS):
        Image.new("RGB", (20 + number, 20), (number, 9, 9)).save(folder / "p" / f"{number}.jpg")
    rows = {
        "sample": [f"p/{number}.jpg" for number in range(ROWS)],
        "aesthetic_score": np.linspace(2, 8, ROWS).astype(np.float32),
        "label": ["cat", "dog", None] * (ROWS // 3),
        "width": pa.array(range(ROWS), pa.int32()),
        "part": [float("nan"), 0.5, float("inf")] * (ROWS // 3),
    }
    path = write_set(
        folder / "s.parquet", rows, sources=["p"], folder=folder, rejects=[("p/x.jpg", "decode", "truncated", "-")]
    )
    (folder / "tmp").mkdir()
    tempfile.tempdir = str(folder / "tmp")  # what the server keeps while it runs is nothing that a request has left
    opened = contextlib.ExitStack()
    atexit.register(opened.close)
    options = BrowseOptions(scores=str(path), no_open=True, marks=str(folder / "m.jsonl"))
    return opened.enter_context(running(options, folder))


@functools.cache
def _port() -> int:
    return int(urllib.parse.urlsplit(_served().url).port or 0)


@functools.cache
def _names() -> Mapping[str, str]:
    """What stands for names that the server gives."""
    view = _told("POST", "/api/view", {"score": "aesthetic_score"})
    listing = _told("POST", "/api/listing", {"view": view["view"], "tab": "all", "threshold": 5.0})
    return {"VIEW": view["view"], "LISTING": listing["listing"], "RUN": _told("GET", "/api/set")["run"]}


def _told(method: str, path: str, body: Any = None) -> Any:
    status, _, data = _answer(_request(method, path, None if body is None else json.dumps(body).encode()))
    assert status == 200, data
    return json.loads(data)


def _request(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    """The bytes of a request, as the page itself makes it."""
    own = f"http://127.0.0.1:{_port()}"
    lines = {"Host": own.removeprefix("http://"), "Connection": "close"}
    if body is not None:
        lines |= {"Origin": own, "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines |= headers
    head = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "", ""]
    return "\r\n".join(head).encode("utf-8", "surrogatepass") + (body or b"")


def _answer(request: bytes, *, is_odd: bool = False) -> tuple[int, str, bytes]:
    """Status, headers, body; status 0: the server hung up without a word, or waits for more."""
    with socket.create_connection(("127.0.0.1", _port()), timeout=10) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
        connection.settimeout(_MOMENT_S if is_odd else 10)
        found = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            while (piece := connection.recv(1 << 16)) and len(found) < _MOST_ANSWER:
                found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    return int(words[1]) if len(words) > 1 else 0, head.decode("latin-1").lower(), body


def ask(path: Path) -> Hashable:
    """Send the bytes in the file. A refusal by the server is one here."""
    data = path.read_bytes()
    for name, value in _names().items():
        data = data.replace(name.encode(), value.encode())
    data = data.replace(b"PORT", str(_port()).encode())
    head, _, body = data.partition(b"\r\n\r\n")
    data = head.replace(b"LENGTH", str(len(body)).encode()) + data[len(head) :]
    status, head, body = _answer(data, is_odd=_is_odd(data))
    assert status not in (500, 501, 505) or (status == 501 and b"HTTP" in data), (status, body[:300])
    assert status != 200 or b"root:" not in body, "a file of the system"
    if "application/json" in head and "transfer-encoding" not in head and not data.startswith(b"HEAD"):
        told = json.loads(body, parse_constant=_no_number)
        if status >= 400:
            assert len(told["error"].splitlines()) == 1
    assert _answer(_request("GET", "/api/marks?since=0"))[0] == 200, "it serves no more"
    if status != 200:
        raise InputError(f"{status} {body[:60]!r}")
    return status, len(body) >> 10, head.partition("content-type")[2][:30]


def _is_odd(request: bytes) -> bool:
    """Whether a server may wait for more of a request, or keep the line open: its headers are not as `_plain` writes them."""
    head, _, body = request.partition(b"\r\n\r\n")
    said = [line.partition(b":")[2].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return (
        b"Connection: close" not in head
        or b"Transfer-Encoding" in head
        or b"Expect" in head
        or said not in ([], [b"%d" % len(body)])
    )


def _no_number(word: str) -> float:
    raise AssertionError(f"{word} is no JSON")


def _plain(method: str, target: str, body: Any = None, **headers: str) -> bytes:
    """A request whose port is put in later."""
    lines = {"Host": "127.0.0.1:PORT", "Connection": "close"}
    text = b""
    if body is not None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines |= {"Origin": "http://127.0.0.1:PORT", "Content-Type": "application/json", "Content-Length": "LENGTH"}
    lines |= headers
    head = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "", ""]
    return "\r\n".join(head).encode("utf-8", "surrogatepass") + text


def seeds() -> list[bytes]:
    """Sound requests."""
    found = [
        _plain("GET", path + ("?" + urllib.parse.urlencode(query) if query else ""))
        for path, query in _QUERIES
        if path not in ("/static/x", "/seen/RUN/3")
    ]
    return found + [_plain("POST", path, body) for path, body in (_BODIES[0], _BODIES[2], *_BODIES[5:7])]


def in_query(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A request with odd parameters, or an odd path."""
    path, query = rng.choice(_QUERIES)
    pairs = list(query.items())
    for _ in range(rng.choice((1, 1, 2))):
        match rng.randrange(6):
            case 0:
                pairs.append(
                    (rng.choice(("view", "x", "start", "count", "column", "")), rng.choice((*ODD_NUMBERS, *ODD_TEXTS)))
                )
            case 1 if pairs:
                del pairs[rng.randrange(len(pairs))]
            case 2:
                parts = path.split("/")
                parts[rng.randrange(1, len(parts))] = rng.choice((*ODD_NUMBERS, *ODD_TEXTS, "..", ".", "%2e%2e", "-1"))
                path = "/".join(parts)
            case _ if pairs:
                at = rng.randrange(len(pairs))
                pairs[at] = (
                    pairs[at][0],
                    rng.choice((*ODD_NUMBERS, *ODD_TEXTS, "-1", str(2**31), str(2**63), str(2**64), "1.5", "0,1,2," * 100)),
                )
            case _:
                path += rng.choice(("/", "//", "/..", "?", "#", "%", "%00", ";"))
    quoted = urllib.parse.quote(path, safe="/%.#?;", errors="surrogatepass") if rng.random() < 0.9 else "".join(path.split())
    text = urllib.parse.urlencode(pairs, errors="surrogatepass", encoding="utf-8")
    method = rng.choice(
        ("GET", "GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "G E T", "")
    )
    return _plain(method, quoted + (f"?{text}" if text else ""))


def in_body(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A request with an odd body."""
    path, body = rng.choice(_BODIES)
    text = odd_json.document(body, rng)
    if rng.random() < 0.1:
        text = mutated(text, rng)
    return _plain("POST", path, text)


def in_headers(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A request with odd headers."""
    odd = rng.choice((*ODD_TEXTS, *ODD_NUMBERS)).replace("\n", " ").replace("\r", " ")
    headers = {
        rng.choice(("Host", "Origin", "Content-Length", "Content-Type", "Transfer-Encoding", "Range", "If-None-Match", "Cookie",
                    "Expect",
                    "Sec-Fetch-Site", "Connection", "Upgrade", "Accept-Encoding", "X" * 70_000, "If-Modified-Since",
                    "Content-Encoding")):
        rng.choice((odd, "chunked", "bytes=0-", "bytes=9-1", "gzip", "websocket", "100-continue", "cross-site", "http://evil",
                    "a=b; c=d", "-1",
                    "localhost", "[::1", "127.0.0.1:99999", "text/plain", "application/json; charset=utf-16", "x" * 70_000))
        for _ in range(rng.choice((1, 1, 2)))
    }  # fmt: skip
    if rng.random() < 0.5:
        path, query = rng.choice(_QUERIES)
        return _plain("GET", path + ("?" + urllib.parse.urlencode(query) if query else ""), **headers)
    path, body = rng.choice(_BODIES)
    return _plain("POST", path, body, **headers)


_LIMITS: dict[str, Any] = {"limit_s": 8.0, "most_bytes": 400 << 20, "names_file": False, "is_made": True}
TARGETS: Mapping[str, Target] = {
    "addresses": Target(ask, seeds, "x.http", insides=(in_query,), count=20, **_LIMITS),
    "bodies": Target(ask, seeds, "x.http", insides=(in_body,), count=20, **_LIMITS),
    "headers": Target(ask, seeds, "x.http", insides=(in_headers,), count=13, **_LIMITS),
}


@pytest.mark.parametrize("name", mostly_slow(TARGETS))
def test_mutated_requests_are_answered(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_requests_for_a_minute(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path)
