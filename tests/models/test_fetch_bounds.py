"""Heads and towers from servers that never end, unpack to far more than they send, or hardly send anything."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator

import pytest

from beholder import load_head
from beholder.errors import HeadError
from beholder.models import fetch, pieces
from beholder.models.registry import HeadEntry, Source
from beholder.models.tower_fetch import from_url
from beholder.models.towers import load_tower
from oracles.web import Answer, Server, running

TERABYTES = 10 * 10**12


class Endless(Answer):
    """/endless/...: zeros without end; /claims/...: says so beforehand; /gzip/...: 1 MB that unpack to 1 GB."""

    def answer(self, *, with_body: bool) -> None:
        way = self.name.partition("/")[0]
        self.send_response(206 if self.headers.get("Range") else 200)
        if way == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if way == "claims":
            self.send_header("Content-Length", str(TERABYTES))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        block = GZIP if way == "gzip" else bytes(1 << 16)
        with contextlib.suppress(OSError):
            while with_body:
                self.wfile.write(block)
                self.server.sent += len(block)  # type: ignore[attr-defined]
                if way == "gzip":
                    break


GZIP = gzip.compress(bytes(1 << 20), 1) * 1000


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(Endless)
    found.sent = 0  # type: ignore[attr-defined]
    with running(found):
        yield found


@pytest.mark.parametrize("way", ["endless", "claims", "gzip"])
def test_a_published_head_is_as_large_as_it_was_published(server: Server, way: str) -> None:
    source = Source(plain_url=f"{server.url}/{way}/head.pth")
    entry = HeadEntry(
        name="tiny", files=("tiny.pth",), sources=(source,), sha256="0" * 64, num_bytes=1000, licence="MIT",
        backbone="openai/clip-vit-base-patch32", dim=8, scale_note="",
    )  # fmt: skip
    with pytest.raises(HeadError, match=r"head\.pth: [\d,]+ bytes come where at most 1,048,576 are expected"):
        fetch.fetch_entry(entry)
    assert not fetch.cached_path(entry).exists()


@pytest.mark.parametrize("file", ["head.pth", "tower.pt"])
def test_any_address_that_claims_terabytes(server: Server, file: str) -> None:
    url = f"{server.url}/claims/{file}"
    with pytest.raises(HeadError, match="10,000,000,000,000 bytes come where at most"):
        load_head(url) if file == "head.pth" else from_url(url)
    assert server.sent < 64 << 20  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", ["endless", "claims", "gzip"])
@pytest.mark.parametrize("load", [load_head, load_tower])
def test_a_header_is_read_no_further_than_it_was_asked_for(server: Server, way: str, load: object) -> None:
    with pytest.raises(HeadError, match="is not a safetensors file|cannot read"):
        load(f"{server.url}/{way}/x.safetensors")  # type: ignore[operator]
    assert server.sent < 64 << 20  # type: ignore[attr-defined]


class Clock:
    """A clock that goes on a second at every look."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


def test_a_transfer_of_100_bytes_a_second_is_given_up_and_a_slow_one_is_not() -> None:
    clock = Clock()
    watch = pieces.Watch("x.pth", 10**9, clock=clock)
    with pytest.raises(HeadError, match=r"x\.pth: only 6,000 bytes came in 60 s; try again later"):
        any(watch(100) for _ in range(1000))
    assert clock.seconds == 61
    watch = pieces.Watch("x.pth", 10**9, clock=Clock())
    assert not any(watch(2000) for _ in range(1000))
