"""Starved and robbed runs: nothing half-written looks finished. What happens at random moments: `../faults`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder import InputError, OutputError
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles.program import beholder

ROWS = np.random.default_rng(0).standard_normal((12_000, 24)).astype(np.float32)
ROWS[[5, 777, 11_999]] = 0


def job(source: Path, out: Path, head: Path, **options: Any) -> ScoreOptions:
    return ScoreOptions(sources=(str(source),), out=str(out), heads=(str(head),), **options)


def command(*arguments: str, env: dict[str, str] | None = None, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return beholder(*arguments, env={**os.environ, **(env or {})}, **kwargs)


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
