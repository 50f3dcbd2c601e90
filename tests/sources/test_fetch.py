"""Bytes of pictures from files, ranges and servers that answer, refuse, stumble or dawdle."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from beholder.pixels.picture import PictureError, PixelOptions
from beholder.sources.fetch import OpenArchives, ReadLimits, read_bytes
from beholder.sources.reader import PictureRef
from beholder.workers.pool import DecodePool
from oracles.odd_decoders import pixels_of
from oracles.web import Answer, Server, running

DATA = bytes(range(256)) * 40
QUICK = ReadLimits(timeout_s=3.0, first_pause_s=0.01)


class Counting(Server):
    """Answers by the path: /ok, /ranges, /404, /busy2 (503 twice), /drop2 (cut off twice), /slow/0.2, ..."""

    def __init__(self) -> None:
        super().__init__(Stumbling)
        self.asked: Counter[str] = Counter()
        self.now = self.most = 0
        self.guard = threading.Lock()


class Stumbling(Answer):
    server: Counting

    def answer(self, *, with_body: bool) -> None:
        server = self.server
        with server.guard:
            server.asked[self.path] += 1
            times = server.asked[self.path]
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            self.say(self.path.split("/")[1:], times)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with server.guard:
                server.now -= 1

    def say(self, words: list[str], times: int) -> None:
        kind = words[0]
        if kind.isdigit():
            self.send(int(kind), b"no")
        elif kind.startswith("busy") and times <= int(kind[4:]):
            self.send(503, b"later")
        elif kind.startswith("drop") and times <= int(kind[4:]):
            self.send(200, DATA[:100], promised=len(DATA))
            self.close_connection = True
        elif kind == "slow":
            time.sleep(float(words[1]))
            self.send(200, f"picture {words[2]}".encode() if len(words) > 2 else DATA)
        elif kind == "trickle":
            self.send(200, b"x", promised=1000)
            time.sleep(4)
            self.close_connection = True
        elif kind == "endless":
            self.send(200, sized=False)
            for _ in range(3000):
                self.wfile.write(bytes(1 << 16))
        elif kind == "ranges" and (part := self.part(len(DATA))):
            if part[0] >= len(DATA):
                self.send(416)
            else:
                self.send(206, DATA[slice(*part)])
        else:
            self.send(200, DATA)


@pytest.fixture(scope="module")
def server() -> Iterator[Counting]:
    with running(Counting()) as counting:
        yield counting


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def reason_of(ref: PictureRef, limits: ReadLimits = QUICK) -> tuple[str, str]:
    with pytest.raises(PictureError) as caught:
        read_bytes(ref, limits)
    assert "\n" not in str(caught.value)
    return str(caught.value.reason), str(caught.value)


def test_whole_files_and_ranges_from_a_server(server: Counting) -> None:
    assert read_bytes(PictureRef(path=f"{server.url}/ok/\N{SNOWMAN} a b.jpg?x=1&y=2"), QUICK) == DATA
    for kind in ("ranges", "ok"):  # one gives parts, the other sends all every time
        path = f"{server.url}/{kind}/part"
        assert read_bytes(PictureRef(path=path, offset=5, length=1000), QUICK) == DATA[5:1005]
        assert read_bytes(PictureRef(path=path, offset=0, length=3), QUICK) == DATA[:3]
        assert read_bytes(PictureRef(path=path, offset=10_000), QUICK) == DATA[10_000:]
        assert read_bytes(PictureRef(path=path, offset=10_000, length=0), QUICK) == b""
        reason, text = reason_of(PictureRef(path=path, offset=10_000, length=1000))
        assert reason == "truncated"
        assert "240 of 1,000 bytes" in text
    assert reason_of(PictureRef(path=f"{server.url}/ranges/past", offset=20_000, length=10))[0] == "truncated"


def test_what_a_server_refuses(server: Counting) -> None:
    for status, reason, num_asked in ((404, "missing", 1), (410, "missing", 1), (403, "unreadable", 1), (500, "unreadable", 3)):
        found, text = reason_of(PictureRef(path=f"{server.url}/{status}/a"))
        assert (found, server.asked[f"/{status}/a"]) == (reason, num_asked)
        assert str(status) in text
        assert server.url in text


@pytest.mark.parametrize("kind", ["busy", "drop"])
def test_passing_failures_are_tried_again(server: Counting, kind: str) -> None:
    assert read_bytes(PictureRef(path=f"{server.url}/{kind}2/a"), QUICK) == DATA
    assert server.asked[f"/{kind}2/a"] == 3
    reason, text = reason_of(PictureRef(path=f"{server.url}/{kind}3/a"))
    assert reason == "unreadable"
    assert "3 tries" in text


def test_slow_large_and_absent_servers(server: Counting) -> None:
    hasty = ReadLimits(timeout_s=0.3, first_pause_s=0.01)
    for path in ("slow/5", "trickle"):
        began = time.monotonic()
        assert reason_of(PictureRef(path=f"{server.url}/{path}"), hasty)[0] == "timed_out"
        assert 0.25 < time.monotonic() - began < 1.2
    small = ReadLimits(max_bytes=1000, timeout_s=10)
    assert reason_of(PictureRef(path=f"{server.url}/ok"), small)[0] == "too_large"
    assert reason_of(PictureRef(path=f"{server.url}/endless"), small)[0] == "too_large"
    assert reason_of(PictureRef(path=f"{server.url}/ok", offset=0, length=1001), small)[0] == "too_large"
    assert len(read_bytes(PictureRef(path=f"{server.url}/ok", offset=9240, length=1000), small)) == 1000
    assert reason_of(PictureRef(path="http://127.0.0.1:9/none"))[0] == "unreadable"
    assert reason_of(PictureRef(path="http://"))[0] == "unreadable"
    assert reason_of(PictureRef(path="nonsense://a/b"))[0] == "unreadable"


def test_other_file_systems() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/pictures/a", DATA)
    memory.pipe_file("/pictures/empty", b"")
    assert read_bytes(PictureRef(path="memory://pictures/a"), QUICK) == DATA
    assert read_bytes(PictureRef(path="memory://pictures/a", offset=7, length=20), QUICK) == DATA[7:27]
    assert read_bytes(PictureRef(path="memory://pictures/a", offset=10_000), QUICK) == DATA[10_000:]
    assert read_bytes(PictureRef(path="memory://pictures/empty"), QUICK) == b""
    assert reason_of(PictureRef(path="memory://pictures/none"))[0] == "missing"
    assert reason_of(PictureRef(path="memory://pictures/a", offset=10_000, length=1000))[0] == "truncated"
    assert reason_of(PictureRef(path="memory://pictures/a"), ReadLimits(max_bytes=9))[0] == "too_large"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").write_bytes(b"x")
    (tmp_path / "closed").chmod(0)
    reason, text = reason_of(PictureRef(path=str(tmp_path / "closed")))
    assert reason == "unreadable"
    assert "permission denied" in text


def test_a_few_archives_stay_open_and_a_whole_file_is_read_anew(tmp_path: Path) -> None:
    archives = OpenArchives(most=2)
    with contextlib.closing(archives):
        before = num_open_files()
        for number in range(5):
            path = tmp_path / f"{number}.tar"
            path.write_bytes(DATA)
            for offset in (3, 100):
                ref = PictureRef(path=str(path), offset=offset, length=50)
                assert read_bytes(ref, QUICK, archives) == DATA[offset : offset + 50]
            assert read_bytes(PictureRef(path=str(path)), QUICK, archives) == DATA
        assert num_open_files() == before + 2
    assert num_open_files() == before


@pytest.mark.slow
def test_a_worker_reads_several_urls_at_a_time_and_one_slow_server_holds_up_no_other() -> None:
    with running(Counting()) as server:
        _read_many(server)


def _read_many(server: Counting) -> None:
    paths = [f"{server.url}/slow/0.2/{number}" for number in range(32)]
    paths[3] = f"{server.url}/slow/60/3"
    paths[9] = f"{server.url}/404/9"
    options = PixelOptions(size_px=8)
    with DecodePool(options, num_workers=1, num_readers=8, timeout_s=1.5, decoder="oracles.odd_decoders:prepare") as pool:
        next(pool.map(iter([("started", PictureRef(data=b"x"))]))).release()
        server.most = 0
        for number, outcome in enumerate(pool.map(enumerate(PictureRef(path=path) for path in paths))):
            assert outcome.tag == number
            if number == 3:
                assert server.asked.total() > 8 + 3, "the readers went on while one was held up"
            if number in (3, 9):
                assert outcome.error is not None
                assert outcome.error.reason == {3: "timed_out", 9: "missing"}[number]
            else:
                np.testing.assert_array_equal(outcome.pixels, pixels_of(b"picture %d" % number, 8))
                outcome.release()
        assert 6 <= server.most <= 8
        assert pool.stats.slowest == "read"
        assert pool.stats.num_restarts == 0
