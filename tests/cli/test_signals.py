"""Commands ended by SIGTERM, SIGHUP and Ctrl-C: one line, the usual status, no temporary folder and no process left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracles import program
from oracles.processes import children_of, wait_until_gone
from oracles.tar_making import png
from oracles.tiers import mostly_slow

NUM_ROWS = 200_000
"""So many that selecting takes a second or more, in which it can be ended."""
ENDLESS = "len(list_filter(range(100000), lambda x: hash(sample || x) % 7 = 0)) > 40"
"""A condition that takes hours on so many rows."""


NOHUP = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test that failed leaves no command running, which would slow the others down."""
    yield
    while STARTED:
        STARTED.pop().kill()


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("scores") / "scores.parquet"
    names = pa.array([f"p/{number * 7919 % NUM_ROWS:07d}.jpg" for number in range(NUM_ROWS)])
    pq.write_table(pa.table({"sample": names, "aesthetic_score": rng.normal(5, 1, NUM_ROWS).astype(np.float32)}), path)
    return path


def start(folder: Path, *arguments: str, before: str = "") -> subprocess.Popen[str]:
    """A command with a folder of its own for temporary files."""
    (folder / "tmp").mkdir(exist_ok=True)
    how = {
        "cwd": folder,
        "env": {**os.environ, "TMPDIR": str(folder / "tmp")},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    running = program.start(*arguments, before=before, **how)
    STARTED.append(running)
    return running


def wait_for(running: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    """Until something of that name is there."""
    stop = time.monotonic() + 60
    while not list(folder.glob(pattern)):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < stop
        time.sleep(0.005)


SELECT, ADVISE = ("select", "--where", ENDLESS, "-o", "kept.parquet"), ("advise", "--where", ENDLESS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sent", "status"),
    [
        (SELECT, signal.SIGTERM, 143),
        pytest.param(SELECT, signal.SIGHUP, 129, marks=pytest.mark.slow),
        pytest.param(SELECT, signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(ADVISE, signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_temporary_folders_go(tmp_path: Path, scores: Path, sent: signal.Signals, status: int, arguments: list[str]) -> None:
    running = start(tmp_path, arguments[0], str(scores), *arguments[1:])
    wait_for(running, tmp_path / "tmp", "beholder-*")
    time.sleep(1.0)  # in the condition
    running.send_signal(sent)
    out, errors = running.communicate(timeout=60)
    assert (running.returncode, out) == (status, ""), errors
    assert errors.strip().splitlines()[-1] == "beholder: interrupted; run the same command again to continue"
    assert "Traceback" not in errors
    assert not list((tmp_path / "tmp").iterdir())
    assert not list(tmp_path.glob("kept*"))


@pytest.mark.slow
def test_a_closed_terminal_that_sends_sighup_twice_leaves_nothing(tmp_path: Path, scores: Path) -> None:
    running = start(tmp_path, "select", str(scores), "--where", ENDLESS, "-o", "kept.parquet")
    wait_for(running, tmp_path / "tmp", "beholder-*")
    time.sleep(1.0)
    for _ in range(50):
        if running.poll() is None:
            running.send_signal(signal.SIGHUP)
        time.sleep(0.002)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 129, errors
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("sent", mostly_slow([signal.SIGTERM, signal.SIGHUP, signal.SIGINT], slow=0))
def test_the_live_page_ends_while_a_filter_runs(tmp_path: Path, scores: Path, sent: signal.Signals) -> None:
    running = start(tmp_path, "browse", str(scores), "--no-open", "--json")
    assert running.stdout is not None
    url = json.loads(running.stdout.readline())["url"]
    body = {"score": "aesthetic_score", "where": ENDLESS}
    answers: list[object] = []

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            answers.append(httpx.post(f"{url}api/view", json=body, headers={"Origin": url[:-1]}, timeout=60).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(2.0)
    assert asking.is_alive(), answers  # the filter runs
    running.send_signal(sent)
    out, errors = running.communicate(timeout=60)
    asking.join(60)
    assert running.returncode == 0, out + errors
    assert errors.startswith("warning: cannot find any of the first 8 pictures")
    assert errors.count("\n") == 1  # there are none; no more is said
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.slow
def test_what_nohup_ignores_stays_ignored(tmp_path: Path, scores: Path) -> None:
    running = start(tmp_path, "select", str(scores), "--min-score", "5", "-o", "kept.txt", before=NOHUP)
    wait_for(running, tmp_path / "tmp", "beholder-*")
    running.send_signal(signal.SIGHUP)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert (tmp_path / "kept.txt").exists()


def test_scoring_that_was_terminated_goes_on(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(1).standard_normal((4_000, 24)).astype(np.float32))
    line = ["score", "x.npy", "-o", "out", "--head", str(small_head), "--shard-rows", "20"]
    running = start(tmp_path, *line)
    wait_for(running, tmp_path / "out" / "done", "*.json")
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 143, errors
    assert "run the same command again to continue" in errors
    assert 0 < len(list((tmp_path / "out" / "done").glob("*.json"))) < 200
    assert not list((tmp_path / "tmp").iterdir())
    again = start(tmp_path, *line)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "continuing:" in errors
    assert len(pl.read_parquet(tmp_path / "out" / "scores" / "*.parquet")) == 4_000


@pytest.mark.slow
def test_scoring_pictures_that_was_terminated_leaves_no_worker(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(320):
        (tmp_path / "photos" / f"{number:04d}.png").write_bytes(png(number, 300))
    line = ["score", "photos", "-o", "out", "--head", str(plain_head), "--backbone", str(small_tower), "--device", "cpu"]
    line += ["--workers", "2", "--shard-rows", "16"]
    running = start(tmp_path, *line)
    wait_for(running, tmp_path / "out" / "done", "*.json")
    workers = children_of(running.pid)
    assert len(workers) >= 2
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 143, errors
    assert "Traceback" not in errors
    wait_until_gone(workers, 10)
    assert 0 < len(list((tmp_path / "out" / "done").glob("*.json"))) < 20
    assert not list((tmp_path / "tmp").glob("beholder-*"))
    again = start(tmp_path, *line)
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert "continuing:" in errors
    names = pl.read_parquet(tmp_path / "out" / "scores" / "*.parquet")["sample"].to_list()
    assert sorted(names) == [f"photos/{number:04d}.png" for number in range(320)]


@pytest.mark.slow
def test_acts_and_undo_that_were_terminated_go_on(tmp_path: Path) -> None:
    names = [f"photos/{number:05d}.png" for number in range(4_000)]
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"%d" % number)
    (tmp_path / "s.csv").write_text("sample,aesthetic_score\n" + "".join(f"{name},5\n" for name in names))
    line = ["select", "s.csv", "--min-score", "5", "--move", "best", "--apply"]
    for command, folder in ((line, "best"), (["undo", "best.journal.jsonl", "--apply"], "photos")):
        running = start(tmp_path, *command)
        wait_for(running, tmp_path / folder, "*.png")
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=60)
        assert running.returncode == 143, errors
        assert errors.strip().splitlines()[-1] == "beholder: interrupted; run the same command again to continue"
        assert not list((tmp_path / "tmp").iterdir())
        assert 0 < len(list((tmp_path / folder).iterdir())) < len(names)
        again = start(tmp_path, *command)
        out, errors = again.communicate(timeout=120)
        assert again.returncode == 0, (out, errors)
        found = sorted((tmp_path / folder).glob("*.png"))
        assert [int(path.read_bytes()) for path in found] == list(range(len(names)))
    assert not (tmp_path / "best").exists()


@pytest.mark.slow
def test_a_report_that_was_terminated_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(150):
        (tmp_path / "photos" / f"{number}.png").write_bytes(png(number, 400))
    rows = "".join(f"photos/{number}.png,{number / 25}\n" for number in range(150))
    (tmp_path / "s.csv").write_text("sample,aesthetic_score\n" + rows)
    running = start(tmp_path, "report", "s.csv", "-o", "r.html")
    wait_for(running, tmp_path / "tmp", "beholder-*")
    stop = time.monotonic() + 60
    while not (workers := children_of(running.pid)):
        assert time.monotonic() < stop
        assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 143, errors
    wait_until_gone(workers, 10)
    assert not list((tmp_path / "tmp").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "s.csv", "tmp"]
