"""Heads and towers from servers that never end, unpack to far more than they send, or hardly send anything."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest
from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

from beholder import load_head
from beholder.errors import HeadError
from beholder.io import remote
from beholder.models import download, transfer
from beholder.models.catalog import HeadEntry, Source
from beholder.models.download import from_hub, watched_bar
from beholder.models.towers import from_url, load_tower
from oracles.hub import Hub
from oracles.web import Answer, Server, running, serving

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
        download.fetch_entry(entry)
    assert not download.cached_path(entry).exists()


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
    """A clock that goes on at every look."""

    def __init__(self, step: float = 1) -> None:
        self.seconds, self.step = 0.0, step

    def __call__(self) -> float:
        self.seconds += self.step
        return self.seconds


def test_a_transfer_of_100_bytes_a_second_is_given_up_and_a_slow_one_is_not() -> None:
    clock = Clock()
    watch = transfer.Watch("x.pth", 10**9, clock=clock)
    with pytest.raises(HeadError, match=r"x\.pth: only 6,000 bytes came in 60 s; try again later"):
        any(watch(100) for _ in range(1000))
    assert clock.seconds == 61
    watch = transfer.Watch("x.pth", 10**9, clock=Clock())
    assert not any(watch(2000) for _ in range(1000))


def test_what_came_whole_is_taken_however_long_it_took() -> None:
    watch = transfer.Watch("x.pth", 7000, clock=Clock())
    assert not any(watch(50) for _ in range(60))
    watch(4000)


def test_a_slow_hub_is_noticed_while_the_file_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour passes from one look at the clock to the next."""
    hub = Hub()
    hub.add_hub_file("me/head", "head.safetensors", bytes(1 << 20))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with running(hub), pytest.raises(HeadError, match=r"cannot get head\.safetensors of me/head: only [\d,]+ bytes came in"):
        from_hub(Source(repo="me/head", file="head.safetensors"), clock=Clock(3600))


@dataclass
class XetReport:
    """What hf_xet says of a download, as far as the hub's client reads it."""

    total_bytes: int
    total_bytes_completed: int
    total_transfer_bytes_completed: int
    total_bytes_completion_rate: float = 1e6
    total_transfer_bytes_completion_rate: float = 1e6


@pytest.mark.parametrize("in_thread", [False, True])
def test_xet_counts_bytes_when_they_come_and_when_they_are_written(in_thread: bool) -> None:
    """The client's own reporter, told of a whole file in one step, as at the end of a quick download."""
    watch = transfer.Watch("x.safetensors", 3000)
    words = {"reconstruction_desc": "x", "total": 3000, "log_level": 0, "tqdm_class": watched_bar(watch)}
    with XetDownloadProgressReporter(**words) as progress, ThreadPoolExecutor(1) as pool:
        for done in (1000, 3000):
            report = XetReport(3000, done, done + 7)
            pool.submit(progress.update_progress, report).result() if in_thread else progress.update_progress(report)
    too_much = transfer.Watch("x.safetensors", 2999)
    words["tqdm_class"] = watched_bar(too_much)
    with (
        XetDownloadProgressReporter(**words) as progress,
        pytest.raises(HeadError, match="3,000 bytes come where at most 2,999"),
    ):
        progress.update_progress(XetReport(3000, 3000, 3000))


@pytest.mark.parametrize("way", ["whole", "endless"])
def test_a_large_file_comes_whole_where_a_server_gives_no_parts(tmp_path: Path, way: str) -> None:
    """By the kind of the refusal, not by its words, which may stand in an address as well."""
    data = bytes(transfer.LARGE_BYTES + 5)
    with serving({"large": data}) as server:
        (tmp_path / "large").touch()
        transfer.get_large(f"{server.url}/{way}/large", tmp_path / "large", "large", most_bytes=1 << 30)
        assert (tmp_path / "large").read_bytes() == data
        server.asked.clear()
        with pytest.raises(transfer.UnavailableError, match="cannot get"):
            transfer.get_large(f"{server.url}/gone/gives no parts", tmp_path / "large", "large", most_bytes=1 << 30)
        assert len(server.asked) == 1, "asked for the size, and in vain once more"


class Heard(Answer):
    """A page of which the headers that it is asked for with are kept."""

    def answer(self, *, with_body: bool) -> None:
        self.server.heard.append(dict(self.headers))  # type: ignore[attr-defined]
        self.send(200, b"page" if with_body else b"", promised=4)


def test_settings_of_the_web_client_hold_for_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user told fsspec of proxies and credentials; the limits of time are beside it."""
    monkeypatch.setitem(fsspec.config.conf, "http", {"client_kwargs": {"headers": {"X-Key": "mine"}}})
    server = Server(Heard)
    server.heard = []  # type: ignore[attr-defined]
    with running(server):
        transfer.get(f"{server.url}/page", tmp_path / "page", 100)
        file_system, _ = remote.filesystem(f"{server.url}/page")
    assert (tmp_path / "page").read_bytes() == b"page"
    assert {one.get("X-Key") for one in server.heard} == {"mine"}  # type: ignore[attr-defined]
    timeout = file_system.client_kwargs["timeout"]
    assert (timeout.total, timeout.sock_connect, timeout.sock_read) == (None, remote.CONNECT_S, remote.SILENCE_S)
