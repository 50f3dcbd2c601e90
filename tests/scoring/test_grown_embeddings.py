"""Embedding files that come, change and go since they were scored: only new work is done, as if from scratch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.scoreset.foreign import find_scores
from beholder.scoring.check import check_result
from beholder.scoring.status import status_of
from oracles import score_jobs
from oracles.program import python
from oracles.result_bytes import check_same
from oracles.score_jobs import D, run
from oracles.tiers import mostly_slow

SUFFIXES = ("", ".parquet", ".csv")
ROWS = score_jobs.ROWS.copy()
ROWS[[3, 120, 399]] = 0  # rejected


def check(sources: Any, out: Path, head: Path, expected: tuple[int, int, int, int], **more: Any) -> None:
    """Run again: rows read, scored by this run, changed, vanished; the result of a run from scratch; then nothing to do."""
    found = run(sources, out, head, **more)
    assert (found.num_read, found.num_new, found.num_changed, found.num_vanished) == expected
    scratch = out.parent / "scratch" / out.name
    shutil.rmtree(scratch.parent, ignore_errors=True)
    assert run(sources, scratch, head, **more).stats == found.stats
    check_same(out, scratch)
    assert run(sources, out, head, **more).num_new == 0


@pytest.mark.parametrize("suffix", mostly_slow(SUFFIXES))
def test_a_glob_of_arrays(tmp_path: Path, small_head: Path, suffix: str) -> None:
    glob, out = f"{tmp_path}/e*.npy", tmp_path / f"out{suffix}"
    np.save(tmp_path / "e2.npy", ROWS[:250])
    np.save(tmp_path / "e4.npy", ROWS[250:300])
    run(glob, out, small_head, shard_rows=100)
    np.save(tmp_path / "e1.npy", ROWS[300:350])
    np.save(tmp_path / "e10.npy", ROWS[350:450])
    check(glob, out, small_head, (450, 150, 0, 0), shard_rows=100)
    (tmp_path / "e2.npy").unlink()
    check(glob, out, small_head, (200, 0, 0, 250), shard_rows=100)
    np.save(tmp_path / "e4.npy", ROWS[250:300][::-1])  # of the same size
    check(glob, out, small_head, (200, 50, 50, 0), shard_rows=100)
    np.save(tmp_path / "e10.npy", ROWS[350:430])  # one shard now
    check(glob, out, small_head, (180, 80, 100, 0), shard_rows=100)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_of_parquet_files_with_other_columns(tmp_path: Path, small_head: Path, suffix: str) -> None:
    folder, out = tmp_path / "in", tmp_path / f"out{suffix}"
    folder.mkdir()

    def write(name: str, rows: np.ndarray, **columns: Any) -> None:
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), D)
        samples = [f"{name}, {row}\n" for row in range(len(rows))]
        pq.write_table(pa.table({"sample": samples, "embedding": lists, **columns}), folder / f"{name}.parquet")

    write("b", ROWS[:30], n=range(30))
    write("c", ROWS[100:140], n=range(40))
    run(folder, out, small_head, columns=("*",))
    write("a", ROWS[40:50], n=range(10))
    check(folder, out, small_head, (80, 10, 0, 0), columns=("*",))
    write("d", ROWS[50:60], n=["x"] * 10, more=[0.5] * 10)  # n is text everywhere now: those rows are scored anew
    check(folder, out, small_head, (90, 90, 0, 0), columns=("*",))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_of_vanished_files_can_be_kept(tmp_path: Path, small_head: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    for name, start in (("a", 0), ("b", 100), ("c", 390)):
        np.save(tmp_path / f"{name}.npy", ROWS[start : start + 40])
    a, b, c = (tmp_path / f"{name}.npy" for name in "abc")
    run([a, b, c], out, small_head, columns=())
    whole = shutil.copytree(out, tmp_path / "whole") if not suffix else shutil.copy(out, tmp_path / f"whole{suffix}")
    kept = run([a], out, small_head, vanished="keep")
    assert (kept.num_read, kept.num_new, kept.num_vanished, kept.num_kept) == (120, 0, 80, 80)
    again = run([a], out, small_head, vanished="keep")
    assert (again.num_read, again.num_new, again.num_kept) == (120, 0, 80)
    assert again.stats["aesthetic_score"].count == 117
    if suffix == ".parquet":
        assert pq.read_table(out).equals(pq.read_table(whole))
    elif suffix == ".csv":
        assert out.read_bytes() == Path(whole).read_bytes()
    else:
        found = [
            pq.read_table(out / "scores" / name)
            for name in ("a.parquet", "zz-vanished-00000.parquet", "zz-vanished-00001.parquet")
        ]
        expected = [pq.read_table(Path(whole) / "scores" / f"{name}.parquet") for name in "abc"]
        assert found == expected
    back = run([a, c], out, small_head, vanished="keep")
    assert (back.num_read, back.num_new, back.num_kept) == (120, 40, 40)
    check([a], out, small_head, (40, 0, 0, 80))


@pytest.mark.parametrize("suffix", ["", ".parquet"])
def test_inputs_that_are_called_as_rows_of_vanished_ones(tmp_path: Path, small_head: Path, suffix: str) -> None:
    folder, out = tmp_path / "in", tmp_path / f"out{suffix}"
    folder.mkdir()
    for name, start in (("e1", 0), ("e2", 10), ("zz-vanished-00000", 20), ("zz-vanished", 30)):
        np.save(folder / f"{name}.npy", ROWS[start : start + 10])
    run(folder, out, small_head, columns=())
    assert (status_of(str(out)).state, check_result(str(out)).is_whole) == ("finished", True)
    assert find_scores(str(out)).notes == ()
    expected = sorted(score_jobs.read_scores(out)["aesthetic_score"])
    assert len(expected) == 39, "row 3 is rejected"
    (folder / "e1.npy").unlink()
    kept = run(folder, out, small_head, columns=(), vanished="keep")
    assert (kept.num_read, kept.num_new, kept.num_kept) == (40, 0, 10)
    assert sorted(score_jobs.read_scores(out)["aesthetic_score"]) == expected
    assert (status_of(str(out)).state, check_result(str(out)).is_whole) == ("finished", True)


@pytest.mark.soak
def test_runs_over_changing_files_are_killed(tmp_path: Path, small_head: Path) -> None:
    """At random moments: while a result is taken apart, set aside, taken over, made and joined again."""
    driver = Path(__file__).with_name("kill_grown.py")
    found = python(str(driver), str(tmp_path), str(small_head), "10", "7")
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) >= 5
