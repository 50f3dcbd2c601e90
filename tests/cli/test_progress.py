"""What a long command says on its way: lines in a log, a bar on a terminal, nothing under --quiet; in a continued run, too."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from beholder import Head, save_head
from beholder.kernels.scoring import Affine
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles import program
from oracles.made_pictures import encoded, noise
from oracles.web import Answer, Server, running

OFTEN = {"BEHOLDER_PROGRESS_S": "0.05"}


class HoldingServer(Server):
    """Gives pictures, but the last one only once `released` is set."""

    def __init__(self) -> None:
        super().__init__(_Held)
        self.released = threading.Event()


class _Held(Answer):
    server: HoldingServer

    def answer(self, *, with_body: bool) -> None:
        if self.name == "4.png":
            self.server.released.wait(900)
        self.send(200, b"no picture" if self.name == "1.png" else encoded(noise("RGB", 60, 60, 1), "PNG"))


@pytest.fixture
def server() -> Iterator[HoldingServer]:
    with running(HoldingServer()) as found:
        yield found
        found.released.set()


def start(folder: Path, *arguments: str, **settings: object) -> subprocess.Popen[str]:
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": os.environ | OFTEN} | settings
    return program.start(*arguments, cwd=folder, **given)


def _read_terminal(handle: int, until: str | None = None) -> str:
    """What is written to a terminal until some text comes, or until everyone has closed it."""
    seen = b""
    while until is None or until.encode() not in seen:
        try:
            seen += os.read(handle, 65536)
        except OSError:  # it has been closed
            assert until is None, seen.decode()
            break
    return seen.decode("utf-8", "replace")


LINE = ("--device", "cpu", "--precision", "fp32", "--batch-size", "1", "--threads", "1", "-j", "0", "--timeout", "900",
        "--shard-rows", "2", "-o", "scores")  # fmt: skip


@pytest.fixture
def listing(tmp_path: Path, server: HoldingServer) -> Path:
    (tmp_path / "list.txt").write_text("".join(f"{server.url}/{number}.png\n" for number in range(5)))
    return tmp_path


def test_a_log_tells_how_far_a_run_is(listing: Path, server: HoldingServer, small_tower: Path, plain_head: Path) -> None:
    found = start(listing, "score", "list.txt", "--head", str(plain_head), "--backbone", str(small_tower), *LINE)
    assert found.stderr is not None
    seen = ""
    while "4 of 5 pictures (80 %)" not in seen or "waiting for: network" not in seen:
        seen = found.stderr.readline()
        assert seen, found.communicate()
    assert re.fullmatch(r"4 of 5 pictures \(80 %\)(, .* pictures/s, .* left)?, 1 rejected, waiting for: network\n", seen)
    server.released.set()
    out, _ = found.communicate(timeout=200)
    assert found.returncode == 3
    assert "read 5 = scored 4 + rejected 1" in out


def test_a_terminal_shows_a_bar_that_counts_what_was_done_before(
    listing: Path, server: HoldingServer, small_tower: Path, plain_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(listing)
    server.released.set()
    score(
        ScoreOptions(
            sources=("list.txt",), heads=(str(plain_head),), backbone=str(small_tower), device="cpu", precision="fp32",
            batch_size=1, num_threads=1, workers=0, timeout_s=900, shard_rows=2, out="scores",
        )
    )  # fmt: skip
    server.released.clear()
    (last,) = (listing / "scores" / "done").glob("*4.json")
    last.unlink()
    ours, theirs = pty.openpty()
    line = ("score", "list.txt", "--head", str(plain_head), "--backbone", str(small_tower), *LINE)
    found = start(listing, *line, stderr=theirs, env=os.environ | {"COLUMNS": "100", "TERM": "xterm"})
    os.close(theirs)
    shown = _read_terminal(ours, until="4 of 5 pictures (80 %), 1 rejected")  # and no rate, as nothing was done by this run
    assert "continuing: 2 shards were already scored (4 pictures)" in shown
    server.released.set()
    _read_terminal(ours)
    os.close(ours)
    out, _ = found.communicate(timeout=200)
    assert found.returncode == 3
    assert "4 scored before" in out
    assert "read 5 = scored 4 + rejected 1" in out


def test_lines_may_be_asked_for_seldom_or_never_and_quiet_is_quiet(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 24)).astype(np.float32)
    names = [f"x{position}" for position in range(24)]
    pl.DataFrame(rows, schema=names, orient="row").with_columns(pl.lit("a").alias("sample")).write_csv(tmp_path / "e.csv")
    save_head(Head(name="head", math=Affine(np.ones(24), 5.0)), tmp_path / "head.safetensors")
    line = ("score", "e.csv", "--head", "head.safetensors", "-o")
    quiet = start(tmp_path, *line, "quiet.parquet", "-q")
    never = start(tmp_path, *line, "never.parquet", env=os.environ | {"BEHOLDER_PROGRESS_S": "0"})
    often = start(tmp_path, *line, "often.parquet", env=os.environ | {"BEHOLDER_PROGRESS_S": "0.0001"})
    wrong = start(tmp_path, *line, "wrong.parquet", env=os.environ | {"BEHOLDER_PROGRESS_S": "often"})
    warning = "warning: no stamp (beholder.json) says what made these embeddings; the scores are right only if it was "
    for command in (quiet, never):
        _, err = command.communicate(timeout=100)
        assert command.returncode == 0
        assert re.sub("only if it was .*", "only if it was ", err) == warning + "\n"
    _, err = often.communicate(timeout=100)
    assert often.returncode == 0
    assert re.search(r"^looking at the sources, \d+ s so far$", err, flags=re.M)
    assert wrong.communicate(timeout=100)[1] == (
        "beholder: BEHOLDER_PROGRESS_S is 'often'; give a number of seconds, 0 for no lines\n"
    )
    assert not (tmp_path / "wrong.parquet").exists()


def _near_set(folder: Path, num_rows: int) -> tuple[str, ...]:
    """Scores and embeddings of so many rows in a folder; the flags that compare them."""
    rng = np.random.default_rng(3)
    names = [f"{number:06d}" for number in range(num_rows)]
    rows = rng.standard_normal((num_rows, 96)).astype(np.float32)
    np.savez(folder / "e.npz", embeddings=rows, samples=np.array(names))
    pl.DataFrame({"sample": names, "aesthetic_score": np.linspace(7, 1, num_rows)}).write_parquet(folder / "s.parquet")
    return ("select", "s.parquet", "--dedup", "0.5", "--embeddings", "e.npz", "--threads", "1", "-o", "kept.txt")


@pytest.mark.slow
def test_a_log_tells_how_far_the_comparison_of_rows_is(tmp_path: Path) -> None:
    line = _near_set(tmp_path, 24_000)
    found = start(tmp_path, *line, env=os.environ | {"BEHOLDER_PROGRESS_S": "0.01"})
    out, err = found.communicate(timeout=200)
    assert found.returncode == 0, err
    lines = err.splitlines()
    told = [line for line in lines if line.startswith("rows compared: ")]
    assert told, err
    form = r"rows compared: [\d,]+ of 24,000 \(\d+ %\)(, about \d+ s left)?"
    assert all(re.fullmatch(form, line) for line in told), told
    assert any("opening the scores: " in line for line in lines)
    assert "24,000" in out
    few = ("--where", "aesthetic_score > 6.9", "--overwrite", "-q")
    quiet = start(tmp_path, *line, *few, env=os.environ | {"BEHOLDER_PROGRESS_S": "0.01"})
    assert quiet.communicate(timeout=200) == ("", "")


def test_a_terminal_shows_a_bar_of_what_select_does(tmp_path: Path) -> None:
    line = _near_set(tmp_path, 4_000)
    ours, theirs = pty.openpty()
    found = start(tmp_path, *line, stderr=theirs, env=os.environ | {"COLUMNS": "100", "TERM": "xterm"})
    os.close(theirs)
    shown = _read_terminal(ours)
    os.close(ours)
    found.communicate(timeout=200)
    assert found.returncode == 0
    assert "starting" in shown or "opening the scores" in shown
