"""Killed, starved and robbed runs: whatever happens, nothing half-written looks finished and no row is lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from beholder import InputError, OutputError
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles.program import beholder, python, start

NUM_KILLS = 60
ROWS = np.random.default_rng(0).standard_normal((12_000, 24)).astype(np.float32)
ROWS[[5, 777, 11_999]] = 0


def job(source: Path, out: Path, head: Path, **options: Any) -> ScoreOptions:
    return ScoreOptions(sources=(str(source),), out=str(out), heads=(str(head),), **options)


def _contents(out: Path) -> tuple[list[tuple[str, float]], list[str]]:
    """Sorted (sample, score) pairs and rejected samples of a finished score set."""
    if out.suffix == ".csv":
        frame = pl.read_csv(out)
        scored, rejects = frame.filter(pl.col("status") == "ok"), frame.filter(pl.col("status") != "ok")["sample"].to_list()
    elif out.suffix == ".parquet":
        scored, rejects = (
            pl.read_parquet(out),
            pl.read_parquet(out.with_name(out.name + ".rejects.parquet"))["sample"].to_list(),
        )
    else:
        scored = pl.read_parquet(out / "scores" / "*.parquet")
        rejects = pl.read_parquet(out / "rejects" / "*.parquet")["sample"].to_list()
    return sorted(zip(scored["sample"], scored["aesthetic_score"].cast(pl.Float32), strict=True)), sorted(rejects)


@pytest.mark.soak
def test_killed_at_random_moments_every_row_is_there_exactly_once(tmp_path: Path, small_head: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    np.save(source / "a.npy", ROWS[:7000])
    np.save(source / "b.npy", ROWS[7000:])
    score(job(source, tmp_path / "whole", small_head, shard_rows=100))
    expected = _contents(tmp_path / "whole")
    assert len(expected[0]) == 11_997
    assert len(expected[1]) == 3

    driver = Path(__file__).with_name("kill_driver.py")
    result = python(str(driver), str(source), str(tmp_path), str(small_head), str(NUM_KILLS), "0")
    assert result.returncode == 0, result.stderr
    kills, finished = map(int, result.stdout.split())
    assert kills >= NUM_KILLS
    for number in range(finished):
        assert _contents(tmp_path / f"out{number}{['', '.parquet', '.csv'][number % 3]}") == expected
    leftovers = [path for path in tmp_path.rglob("*") if path.name.startswith(".beholder-") or path.name.endswith(".partial")]
    assert not leftovers


def command(*arguments: str, env: dict[str, str] | None = None, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return beholder(*arguments, env={**os.environ, **(env or {})}, **kwargs)


@pytest.mark.slow
def test_ctrl_c_says_how_to_continue(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    line = ["score", str(tmp_path / "x.npy"), "-o", str(tmp_path / "out"),
            "--head", str(small_head), "--shard-rows", "20"]  # fmt: skip
    running = start(*line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list((tmp_path / "out" / "done").glob("*.json")):
        assert running.poll() is None
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted; run the same command again to continue" in errors
    assert "Traceback" not in errors
    again = command(
        "score", str(tmp_path / "x.npy"), "-o", str(tmp_path / "out"), "--head", str(small_head), "--shard-rows", "20"
    )
    assert again.returncode == 3
    assert "continuing:" in again.stderr
    assert len(pl.read_parquet(tmp_path / "out" / "scores" / "*.parquet")) == 11_997


@pytest.mark.parametrize("suffix", [pytest.param("", marks=pytest.mark.slow), ".parquet", ".csv"])
def test_a_file_that_may_not_grow_leaves_nothing_half_written(tmp_path: Path, small_head: Path, suffix: str) -> None:
    """A limit on file size stands for a full disk: the write fails in the middle, as it does there."""
    rows = np.random.default_rng(1).standard_normal((50_000, 24)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    out = tmp_path / f"out{suffix}"
    arguments = ["score", str(tmp_path / "x.npy"), "-o", str(out), "--head", str(small_head)]

    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    )
    # Once with nothing compiled before, which cannot be kept either; that takes its time.
    env = {} if suffix else {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    failed = command(*arguments, before=limit, env=env)
    assert failed.returncode == 1, failed.stderr
    assert "cannot write" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".parquet", ".csv") and path.is_file()]
    assert not list(tmp_path.rglob(".beholder-*"))
    done = command(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_one_clear_line_and_the_run_continues(tmp_path: Path, small_head: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this system does not let root mount a tmpfs")
    try:
        np.save(tmp_path / "x.npy", np.random.default_rng(1).standard_normal((100_000, 24)).astype(np.float32))
        arguments = [
            "score",
            str(tmp_path / "x.npy"),
            "-o",
            str(disk / "out"),
            "--head",
            str(small_head),
            "--shard-rows",
            "2000",
        ]
        failed = command(*arguments)
        assert failed.returncode == 1
        assert "the disk is full; free some space and run the same command again" in failed.stderr
        assert len(failed.stderr.strip().splitlines()[-1]) < 500
        assert "Traceback" not in failed.stderr
        done = len(list((disk / "out" / "done").glob("*.json")))
        assert 0 < done < 50
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        again = command(*arguments)
        assert again.returncode == 0, again.stderr
        assert f"{done} shards were already scored" in again.stderr
        assert len(pl.read_parquet(disk / "out" / "scores" / "*.parquet")) == 100_000
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_two_runs_cannot_write_the_same_output(tmp_path: Path, small_head: Path) -> None:
    from beholder.scoring.folder import RunFolder

    np.save(tmp_path / "x.npy", ROWS)
    with RunFolder(tmp_path / "out").locked(), pytest.raises(OutputError, match="another run is writing"):
        score(job(tmp_path / "x.npy", tmp_path / "out", small_head))


def test_an_unwritable_place_is_refused(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write .*: a part of its path is a file"):
        score(job(tmp_path / "x.npy", tmp_path / "file" / "out", small_head))
    with pytest.raises(OutputError, match="cannot write /proc/beholder"):
        score(job(tmp_path / "x.npy", Path("/proc/beholder/out"), small_head))


def test_a_part_that_vanishes_between_shards_stops_the_run_and_it_continues(tmp_path: Path, small_head: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    np.save(source / "a.npy", ROWS[:6000])
    np.save(source / "b.npy", ROWS[6000:])
    saved = (source / "b.npy").read_bytes()

    def vanish(rows: int, num_bytes: int) -> None:
        (source / "b.npy").unlink(missing_ok=True)

    with pytest.raises(InputError, match=r"cannot read .*b.npy: it does not exist \(any more\)"):
        score(job(source, tmp_path / "out", small_head), on_progress=vanish)
    assert not (tmp_path / "out" / "scores" / "b.parquet").exists()
    (source / "b.npy").write_bytes(saved)
    summary = score(job(source, tmp_path / "out", small_head))
    assert summary.num_new == 6000
    assert summary.num_read == 12_000


def test_the_shard_of_a_damaged_marker_is_done_again(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    score(job(tmp_path / "x.npy", tmp_path / "out", small_head))
    (tmp_path / "out" / "done" / "x.json").write_text("{")
    again = score(job(tmp_path / "x.npy", tmp_path / "out", small_head))
    assert (again.damaged, again.num_new, again.num_read) == (["x"], len(ROWS), len(ROWS))
