"""Hostile visitors: requests that never end, are too large or make no sense, answers that nobody reads, too many of them."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from beholder.browse.options import BrowseOptions
from beholder.browse.safety import BodyLimit
from beholder.browse.server import ServerLimits
from oracles.browse_clients import Ask, client_of
from oracles.browse_page import until
from oracles.browse_sets import Served, running, write_set
from oracles.program import start


@pytest.fixture
def ask(photo_set: Path, tmp_path: Path) -> Iterator[Ask]:
    yield from client_of(photo_set, tmp_path, tmp_path / "m.jsonl")


def served_by(photo_set: Path, tmp_path: Path, **limits: Any) -> Any:
    options = BrowseOptions(scores=str(photo_set), no_open=True, marks=str(tmp_path / "m.jsonl"))
    return running(options, photo_set.parent, ServerLimits(**limits))


def connected(served: Served, timeout_s: float = 60) -> socket.socket:
    host, port = served.url.split("/")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=timeout_s)


def rest_of(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    found = b""
    try:
        while piece := connection.recv(65_536):
            found += piece
    except ConnectionResetError:
        pass
    return found


HALVES = [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"POST /api/view HTTP/1.1\r\nHost: localhost\r\n"]


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


@pytest.mark.slow
def test_requests_that_never_end_are_dropped(photo_set: Path, tmp_path: Path) -> None:
    with served_by(photo_set, tmp_path, head_s=0.5, idle_s=0.5) as served:
        connections = [connected(served) for _ in HALVES]
        for connection, half in zip(connections, HALVES, strict=True):
            connection.sendall(half)
        for connection in connections:
            assert rest_of(connection) == b""
        again = connected(served)  # a second request on one connection, after an answer, a letter at a time
        again.sendall(b"GET /static/icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert again.recv(15) == b"HTTP/1.1 200 OK"
        again.sendall(b"GET / HTTP/1.1\r\nX: ")
        with pytest.raises(ConnectionError):  # it was closed, though letters came all the time
            send_for_ever(again)
        until(lambda: not served.server.server_state.connections)
        assert httpx.get(served.url).status_code == 200


def test_one_connection_more_takes_the_place_of_one_that_asks_for_nothing(photo_set: Path, tmp_path: Path) -> None:
    with served_by(photo_set, tmp_path, num_connections=8) as served:
        silent = [connected(served) for _ in range(8)]
        until(lambda: len(served.server.server_state.connections) == 8)
        assert httpx.get(served.url).status_code == 200
        assert rest_of(silent[0]) == b"", "the one that was silent for longest"
        many = [connected(served) for _ in range(100)]
        assert httpx.get(served.url).status_code == 200
        until(lambda: len(served.server.server_state.connections) <= 8)
        for connection in [*silent, *many]:
            connection.close()


def test_an_answer_that_nobody_reads_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (1800, 1800, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "pictures/0.png", compress_level=0)  # 9.7 MB: more than any socket holds
    rows = {"sample": ["pictures/0.png"], "aesthetic_score": np.full(1, 5, np.float32)}
    path = write_set(tmp_path / "s.parquet", rows, sources=["pictures"], folder=tmp_path)
    with served_by(path, tmp_path, write_s=0.5) as served:
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect(("127.0.0.1", int(served.url.split(":")[2].strip("/"))))
            lazy.sendall(b"GET /picture/x/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: bool(served.server.server_state.connections))
            until(lambda: not served.server.server_state.connections)
        whole = httpx.get(f"{served.url}picture/x/0")
        assert whole.content == (tmp_path / "pictures/0.png").read_bytes()


def test_bodies_have_a_size_by_path(photo_server: Served) -> None:
    own = {"origin": photo_server.url.rstrip("/"), "content-type": "application/json"}
    for path, most in (("api/view", 1 << 20), ("api/marks", 256 << 10), ("api/listing", 16 << 10), ("nothing", 16 << 10)):
        for body in (b"[" + b" " * most + b"]", iter([b"[", *[b" " * 4096] * (most // 4096), b"]"])):
            found = httpx.post(f"{photo_server.url}{path}", content=body, headers=own)
            assert found.status_code == 413, path
            assert "larger than" in found.json()["error"]
        found = httpx.post(f"{photo_server.url}{path}", content=b"[" + b" " * (most - 2) + b"]", headers=own)
        assert found.status_code in (400, 404), path
    with connected(photo_server) as huge:
        huge.sendall(
            b"POST /api/marks HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\ncontent-type: application/json\r\n"
            b"Content-Length: 99999999999999999999999\r\n\r\n"
        )
        assert huge.recv(12) in (b"HTTP/1.1 413", b"HTTP/1.1 400")
    rows = list(range(60)) * 160
    assert httpx.post(f"{photo_server.url}api/marks", json={"rows": rows, "mark": None}, headers=own).status_code == 200


def test_a_body_that_does_not_come_is_given_up() -> None:
    sent: list[Any] = []

    async def never() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it gets whole requests only")

    scope = {"type": "http", "method": "POST", "path": "/api/view", "headers": []}
    asyncio.run(BodyLimit(behind, body_s=0.05)(scope, never, send))
    assert sent[0]["status"] == 408
    assert "did not come to its end" in json.loads(sent[1]["body"])["error"]


VIEW = {"score": "aesthetic_score"}
DEEP = "[" * 100_000
NO_REQUESTS: list[tuple[str, str]] = [
    ("/api/view", '{"score": "aesthetic_score", "where": "sample = \'\\ud800\'"}'),
    ("/api/view", '{"score": "aesthetic_score", "where": "sample = \'a\\u0000b\'"}'),
    ("/api/view", '{"score": "\\udfff"}'),
    ("/api/view", '{"score": "aesthetic_score", "\\ud800": 1}'),
    ("/api/view", '{"score": "aesthetic_score", "line\\nbreak": 1}'),
    ("/api/view", '{"score": "aesthetic_score", "filters": [{"column": "\\ud800", "kind": "null"}]}'),
    ("/api/view", '{"score": "aesthetic_score", "filters": [{"column": "label", "kind": "contains", "text": "\\ud800"}]}'),
    ("/api/view", '{"score": "aesthetic_score", "filters": [{"column": "label", "kind": "in", "values": ["\\ud800"]}]}'),
    ("/api/view", '{"score": "aesthetic_score", "filters": [{"column": "width", "kind": "range", "low": "\\ud800"}]}'),
    ("/api/view", '{"score": "aesthetic_score", "filters": [{"column": "width", "kind": "range", "low": NaN}]}'),
    ("/api/view", '{"score": "aesthetic_score", "where": ' + json.dumps("(" * 9000 + "true" + ")" * 9000) + "}"),
    ("/api/view", '{"score": ' + "9" * 5000 + "}"),
    ("/api/view", DEEP),
    ("/api/view", '{"score": ' * 50_000),
    ("/api/listing", '{"view": "\\ud800", "tab": "all"}'),
    ("/api/listing", '{"view": "x", "tab": "all", "threshold": 1e999}'),
    ("/api/listing", '{"view": "x", "tab": "all", "seed": 1e99}'),
    ("/api/marks", '{"rows": [1e400], "mark": "keep"}'),
    ("/api/marks", '{"rows": [' + "9" * 4000 + '], "mark": "keep"}'),
    ("/api/marks", '{"rows": [1], "mark": "\\ud800"}'),
    ("/api/marks", "\x00"),
    ("/api/marks", ""),
]


@pytest.mark.parametrize(("path", "body"), NO_REQUESTS, ids=[f"{path[5:]}-{body[:40]!a}" for path, body in NO_REQUESTS])
def test_what_makes_no_sense_is_refused_with_one_line(photo_asked: Any, path: str, body: str) -> None:
    for data in (body.encode(), body.encode("utf-16")):
        found = photo_asked(path, data)
        assert 400 <= found.status_code < 500, found.text
        said = found.json()["error"]
        assert said
        assert "\n" not in said
        assert len(said) < 1100


@pytest.fixture(scope="module")
def photo_asked(photo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Posts bytes to a running server, or, without any, gets."""
    folder = tmp_path_factory.mktemp("asked")
    with served_by(photo_set, folder) as served, httpx.Client(timeout=60) as client:
        own = {"origin": served.url.rstrip("/"), "content-type": "application/json"}

        def ask(path: str, data: bytes | None = None, **parameters: Any) -> httpx.Response:
            address = served.url.rstrip("/") + path
            if data is None:
                return client.get(address, params=parameters)
            return client.post(address, content=data, headers=own)

        yield ask


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """JSON of any kind."""
    simple = [None, True, 0, -1, 2**31, 2**63, 10**30, 0.5, -1e308, float("nan"), float("inf"), "", "aesthetic_score", "all",
              "label", "width", "in", "range", "\ud800", "a\0b", "x" * 5000, "'; --", "width > 1", "keep"]  # fmt: skip
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        keys = ["score", "where", "filters", "column", "kind", "low", "values", "view", "tab", "rows", "mark", "\udc80"]
        return {key: odd_value(rng, depth + 1) for key in rng.sample(keys, rng.randrange(5))}
    return rng.choice(simple)


def odd_request(rng: random.Random) -> tuple[str, Any]:
    bodies: dict[str, dict[str, Any]] = {
        "/api/view": {"score": "aesthetic_score", "where": "width > 70", "filters": [{"column": "label", "kind": "null"}]},
        "/api/listing": {"view": "x", "tab": "all", "sort": "best", "threshold": 5, "low": 1, "high": 2, "seed": 1},
        "/api/marks": {"rows": [1], "mark": None},
    }
    path = rng.choice(list(bodies))
    body: Any = bodies[path]
    for key in rng.sample(list(body), rng.randrange(1, len(body) + 1)):
        body[key] = odd_value(rng)
    if path == "/api/marks" and rng.random() < 0.9:
        body["mark"] = odd_value(rng)
    return path, body if rng.random() < 0.9 else odd_value(rng)


GETS = ["/api/set", "/api/values", "/api/range", "/api/count", "/api/rows", "/api/row/{}", "/api/rejects", "/api/marks",
        "/api/command", "/api/export", "/thumb/x/{}/{}", "/picture/x/{}", "/static/{}", "/{}"]  # fmt: skip
PARAMETERS = ["column", "view", "threshold", "listing", "score", "start", "count", "reason", "since", "format"]


@pytest.mark.parametrize("seed", range(4))
def test_odd_requests_are_answered_and_none_is_an_internal_error(photo_asked: Any, seed: int) -> None:
    rng = random.Random(seed)
    view = photo_asked("/api/view", b'{"score": "aesthetic_score"}').json()["view"]
    listing = photo_asked("/api/listing", json.dumps({"view": view, "tab": "all"}).encode()).json()["listing"]
    good = {"view": view, "listing": listing, "score": "aesthetic_score", "column": "width", "format": "txt", "threshold": 5,
            "start": 0, "count": 3, "since": 0, "reason": "", "x": 1}  # fmt: skip
    for _ in range(60):
        path, body = odd_request(rng)
        found = photo_asked(path, json.dumps(body).encode()[: rng.choice([None, None, None, rng.randrange(1, 50)])])
        assert found.status_code < 500, (path, body, found.text)
        odd = [
            str(value).encode("utf-8", "replace").decode() for value in (odd_value(rng, 3), rng.randrange(-(10**20), 10**20))
        ]
        given = {key: rng.choice([good[key], *odd]) for key in rng.sample(PARAMETERS, rng.randrange(len(PARAMETERS)))}
        place = rng.choice(GETS).format(*(rng.choice([*odd, "160", "3"])[:200].replace("\0", "%00") for _ in range(2)))
        found = photo_asked(place, **given)
        assert found.status_code < 500, (place, given, found.text)
    assert photo_asked("/").status_code == 200


def test_odd_bytes_on_the_wire_end_nothing(photo_server: Served) -> None:
    rng = random.Random(7)
    whole = b"GET /api/set HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\nCookie: a=\xff\r\nX-Y: z\r\n\r\n"
    for number in range(150):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 12)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with connected(photo_server) as one:
            one.sendall(bytes(data) if number % 3 else rng.randbytes(rng.randrange(1, 3000)))
            one.shutdown(socket.SHUT_WR)
            answer = rest_of(one)
            assert not answer.startswith((b"HTTP/1.1 5", b"HTTP/1.0 5")), (bytes(data), answer)
    assert httpx.get(f"{photo_server.url}api/set").status_code == 200
    for origin in ("http://[", "http://[::1", "\xff"):
        headers = {b"origin": origin.encode("latin-1"), b"content-type": b"application/json"}
        assert httpx.post(f"{photo_server.url}api/marks", content=b"{}", headers=headers).status_code == 403


def test_damaged_marks_of_others_are_counted_not_fatal(photo_set: Path, tmp_path: Path) -> None:
    marks = tmp_path / "m.jsonl"
    lines = ['{"sample": "\\ud800", "mark": "keep"}', "[" * 100_000, '{"sample": "pictures/001.jpg", "mark": "keep"}', "1"]
    marks.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for ask in client_of(photo_set, tmp_path, marks):
        view = ask("/api/view", VIEW).json()["view"]
        assert ask("/api/count", view=view, threshold=99).json()["marked_keep"] == 1


@pytest.mark.slow
def test_without_descriptors_it_says_so_in_a_line_and_goes_on(photo_set: Path, tmp_path: Path) -> None:
    marks = str(tmp_path / "m.jsonl")
    words = ["browse", str(photo_set), "--no-open", "--json", "--marks", marks]
    with start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            url = json.loads(process.stdout.readline())["url"]
            assert httpx.get(url).status_code == 200
            opened = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (opened + 3, 4096))
            host, port = url.split("/")[2].split(":")
            many = [socket.create_connection((host, int(port)), timeout=60) for _ in range(40)]
            line = process.stderr.readline()
            assert line.startswith("warning: too many files and connections are open")
            for connection in many:
                connection.close()
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (1024, 4096))
            assert httpx.get(f"{url}api/set", timeout=60).status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            rest = process.stderr.read().splitlines()  # on a slow machine the minute between two warnings may pass
            assert all(line.startswith("warning: too many files and connections are open") for line in rest), shlex.join(words)
        finally:
            process.kill()
