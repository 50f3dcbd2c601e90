"""Embeddings on web servers, good ones and poor ones: the bits of local files, or one clear line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from beholder import BeholderError, OutputError
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from beholder.scoring.summary import RunSummary
from oracles.web import serving

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
    "c.npy": npy(ROWS), "x.npz": npz(ROWS),
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


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """The address of a web server on this machine."""
    with serving(FORMATS) as server:
        yield server.url


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "big.npy"])
def test_a_web_server_gives_the_bits_of_local_files(web: str, tmp_path: Path, small_head: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name])
    run(f"{web}/{name}", tmp_path / "remote.parquet", small_head, shard_rows=250)
    run(str(tmp_path / name), tmp_path / "local.parquet", small_head)
    assert pl.read_parquet(tmp_path / "remote.parquet").equals(pl.read_parquet(tmp_path / "local.parquet"))


def test_a_signed_address_is_no_glob(web: str, tmp_path: Path, small_head: Path) -> None:
    summary = run(f"{web}/c.npy?signature=a%2Fb&expires=9", tmp_path / "out.parquet", small_head)
    assert summary.num_scored == N


@pytest.mark.parametrize("name", ["c.npy"])
def test_of_small_files_a_server_need_not_give_parts(web: str, tmp_path: Path, small_head: Path, name: str) -> None:
    run(f"{web}/whole/{name}", tmp_path / "remote.parquet", small_head, shard_rows=250)
    run(f"{web}/{name}", tmp_path / "parts.parquet", small_head)
    assert pl.read_parquet(tmp_path / "remote.parquet").equals(pl.read_parquet(tmp_path / "parts.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["big.npy", "x.npz"])
def test_a_server_without_byte_ranges_is_one_clear_line(web: str, tmp_path: Path, small_head: Path, name: str) -> None:
    assert len(FORMATS["big.npy"]) > 8 << 20
    line = one_line(f"{web}/whole/{name}", tmp_path / "out", small_head, shard_rows=1000)
    assert line == f"cannot read {web}/whole/{name}: the server gives no parts of files (byte ranges); download it first"


@pytest.mark.parametrize("name", FORMATS)
def test_a_server_that_tells_no_size_is_one_clear_line(web: str, tmp_path: Path, small_head: Path, name: str) -> None:
    line = one_line(f"{web}/endless/{name}", tmp_path / "out", small_head)
    assert line == f"cannot read {web}/endless/{name}: the server does not state its size; download it first"


def test_missing_pages_broken_and_dead_servers_are_told_apart(web: str, tmp_path: Path, small_head: Path) -> None:
    assert one_line(f"{web}/no.npy", tmp_path / "out", small_head).endswith("/no.npy does not exist; check the path")
    line = one_line(f"{web}/broken/c.npy", tmp_path / "out", small_head)
    assert f"cannot read {web}/broken/c.npy" in line
    assert "503" in line
    line = one_line("http://127.0.0.1:9/c.npy", tmp_path / "out", small_head)
    assert line.startswith("cannot read http://127.0.0.1:9/c.npy: ")
    assert "does not exist" not in line


def test_nothing_is_written_to_a_web_server(web: str, tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(OutputError, match="a web server takes no files"):
        run(str(tmp_path / "x.npy"), f"{web}/out.parquet", small_head)
