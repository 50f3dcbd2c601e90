"""Embeddings on web servers, good ones and poor ones: the bits of local files, or one clear line."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from beholder import BeholderError, OutputError
from beholder.jobs.score import ScoreOptions, score
from beholder.scores.summary import RunSummary

N, D = 600, 24
ROWS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float16)


def npy(rows: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


def npz(rows: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, embeddings=rows)
    return stream.getvalue()


def table(rows: Any, *, as_csv: bool) -> bytes:
    frame = pl.DataFrame(
        {"sample": [f"{i}.jpg" for i in range(N)], **{str(i): rows[:, i].astype(np.float32) for i in range(D)}}
    )
    stream = io.BytesIO()
    if as_csv:
        frame.write_csv(stream)
    else:
        frame.write_parquet(stream)
    return stream.getvalue()


FORMATS = {
    "c.npy": npy(ROWS), "fortran.npy": npy(np.asfortranarray(ROWS)), "x.npz": npz(ROWS),
    "x.parquet": table(ROWS, as_csv=False), "logits.csv": table(ROWS, as_csv=True), "big.npy": npy(np.tile(ROWS, (300, 1))),
}  # fmt: skip


def run(source: str, out: str | Path, head: Path, **options: Any) -> RunSummary:
    return score(ScoreOptions(sources=(source,), out=str(out), heads=(str(head),), **options))


def one_line(source: str, out: str | Path, head: Path, **options: Any) -> str:
    """The line a refused job gives."""
    with pytest.raises(BeholderError) as caught:
        run(source, out, head, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Pages(BaseHTTPRequestHandler):
    """`/ranges/NAME` as a good server gives it, `/whole/NAME` without byte ranges, `/endless/NAME` without a size."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        kind, _, name = self.path.split("?")[0].strip("/").partition("/")
        data = FORMATS.get(name)
        if data is None or kind == "broken":
            self.send_response(404 if data is None else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if kind == "ranges" else None
        start, stop = 0, len(data)
        if wanted:
            start, stop = int(wanted[1]), min(stop, int(wanted[2]) + 1) if wanted[2] else stop
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        if kind == "endless":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if with_body:
            self.wfile.write(data[start:stop])
        self.close_connection = kind == "endless"


class QuietServer(ThreadingHTTPServer):
    """Clients may hang up in the middle of an answer."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """The address of a web server on this machine."""
    running = QuietServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "big.npy"])
def test_a_web_server_gives_the_bits_of_local_files(web: str, tmp_path: Path, small_head: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name])
    run(f"{web}/ranges/{name}", tmp_path / "remote.parquet", small_head, shard_rows=250)
    run(str(tmp_path / name), tmp_path / "local.parquet", small_head)
    assert pl.read_parquet(tmp_path / "remote.parquet").equals(pl.read_parquet(tmp_path / "local.parquet"))


def test_a_signed_address_is_no_glob(web: str, tmp_path: Path, small_head: Path) -> None:
    summary = run(f"{web}/ranges/c.npy?signature=a%2Fb&expires=9", tmp_path / "out.parquet", small_head)
    assert summary.num_scored == N


@pytest.mark.parametrize("name", ["c.npy", "fortran.npy"])
def test_of_small_files_a_server_need_not_give_parts(web: str, tmp_path: Path, small_head: Path, name: str) -> None:
    run(f"{web}/whole/{name}", tmp_path / "remote.parquet", small_head, shard_rows=250)
    run(f"{web}/ranges/{name}", tmp_path / "parts.parquet", small_head)
    assert pl.read_parquet(tmp_path / "remote.parquet").equals(pl.read_parquet(tmp_path / "parts.parquet"))


@pytest.mark.parametrize("name", ["big.npy", "x.npz"])
def test_a_server_without_byte_ranges_is_one_clear_line(web: str, tmp_path: Path, small_head: Path, name: str) -> None:
    assert len(FORMATS["big.npy"]) > 8 << 20
    line = one_line(f"{web}/whole/{name}", tmp_path / "out", small_head, shard_rows=1000)
    assert line == f"cannot read {web}/whole/{name}: the server gives no parts of files (byte ranges); download it first"


@pytest.mark.parametrize("name", FORMATS)
def test_a_server_that_tells_no_size_is_one_clear_line(web: str, tmp_path: Path, small_head: Path, name: str) -> None:
    line = one_line(f"{web}/endless/{name}", tmp_path / "out", small_head)
    assert line == f"cannot read {web}/endless/{name}: the server does not tell its size; download it first"


def test_missing_pages_broken_and_dead_servers_are_told_apart(web: str, tmp_path: Path, small_head: Path) -> None:
    assert one_line(f"{web}/ranges/no.npy", tmp_path / "out", small_head).endswith("/no.npy does not exist; check the path")
    line = one_line(f"{web}/broken/c.npy", tmp_path / "out", small_head)
    assert f"cannot read {web}/broken/c.npy" in line
    assert "503" in line
    line = one_line("http://127.0.0.1:9/c.npy", tmp_path / "out", small_head)
    assert line.startswith("cannot read http://127.0.0.1:9/c.npy: ")
    assert "does not exist" not in line


def test_nothing_is_written_to_a_web_server(web: str, tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(OutputError, match="a web server takes no files"):
        run(str(tmp_path / "x.npy"), f"{web}/ranges/out.parquet", small_head)
