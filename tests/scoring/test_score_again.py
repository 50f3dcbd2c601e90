"""Scoring again: what is done already, other options and inputs, and outputs that are somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import OutputError
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles.program import start
from oracles.score_jobs import ROWS, D, N, clip_retrieval_set, read_scores, run


def test_the_same_command_again_does_nothing_new(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    for out in (tmp_path / "out", tmp_path / "out.parquet", tmp_path / "out.csv"):
        first = run(tmp_path / "x.npy", out, small_head)
        files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
        again = run(tmp_path / "x.npy", out, small_head)
        assert again.num_new == 0
        assert again.num_scored == first.num_scored == N
        assert again.stats == first.stats
        assert files == {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("suffix", ["", ".parquet", ".csv"])
def test_other_options_are_refused_by_name(tmp_path: Path, small_head: Path, second_head: Path, suffix: str) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    out = tmp_path / f"out{suffix}"
    run(tmp_path / "x.npy", out, small_head)
    before = out.read_bytes() if suffix else (out / "scores" / "x.parquet").read_bytes()
    with pytest.raises(OutputError, match=r'--head was \["small"\], now it is \["second"\].*--overwrite'):
        run(tmp_path / "x.npy", out, second_head)
    assert before == (out.read_bytes() if suffix else (out / "scores" / "x.parquet").read_bytes())
    with pytest.raises(OutputError, match="--shard-rows was 1000000, now it is 10"):
        run(tmp_path / "x.npy", out, small_head, shard_rows=10)
    run(tmp_path / "x.npy", out, second_head, overwrite=True)
    with pytest.raises(OutputError, match=r'--head was \["second"\]'):
        run(tmp_path / "x.npy", out, small_head)


def test_a_folder_takes_up_parts_that_were_added(tmp_path: Path, small_head: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    np.save(source / "a.npy", ROWS[:1000])
    run(source, tmp_path / "out", small_head)
    np.save(source / "b.npy", ROWS[1000:])
    summary = run(source, tmp_path / "out", small_head)
    assert summary.num_new == 2000
    assert summary.num_read == N
    assert len(read_scores(tmp_path / "out")) == N


@pytest.mark.parametrize("suffix", ["", ".parquet", ".csv"])
def test_foreign_outputs_are_never_overwritten(tmp_path: Path, small_head: Path, suffix: str) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    out = tmp_path / f"out{suffix}"
    if suffix:
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        run(tmp_path / "x.npy", out, small_head)
    assert (out if suffix else out / "mine.txt").read_text() == "mine"
    if not suffix:
        with pytest.raises(OutputError, match="not a beholder run"):
            run(tmp_path / "x.npy", out, small_head, overwrite=True)
        assert (out / "mine.txt").read_text() == "mine"


def test_a_missing_shard_file_is_done_again(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    run(tmp_path / "x.npy", tmp_path / "out", small_head, shard_rows=1000)
    whole = read_scores(tmp_path / "out")
    (tmp_path / "out" / "scores" / "x-from-000000001000.parquet").unlink()
    summary = run(tmp_path / "x.npy", tmp_path / "out", small_head, shard_rows=1000)
    assert summary.num_new == 1000
    assert read_scores(tmp_path / "out").equals(whole)


def test_results_of_other_inputs_are_not_replaced(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS[:10])
    np.save(tmp_path / "b.npy", ROWS[10:20])
    for out in ("out", "out.parquet"):
        run(tmp_path / "b.npy", tmp_path / out, small_head)
        with pytest.raises(OutputError, match="holds results of b, and none of them is of the inputs now"):
            run(tmp_path / "a.npy", tmp_path / out, small_head)
        assert run(tmp_path / "b.npy", tmp_path / out, small_head).num_new == 0
        run(tmp_path / "a.npy", tmp_path / out, small_head, overwrite=True)
        assert run(tmp_path / "a.npy", tmp_path / out, small_head).num_read == 10


def test_an_embedding_set_is_never_taken_for_an_output(tmp_path: Path, small_head: Path) -> None:
    source = clip_retrieval_set(tmp_path / "set")
    stamp = json.dumps({"format": "beholder-embeddings", "backbone": "test/clip-24"})
    (source / "beholder.json").write_text(stamp)
    before = sorted(path.name for path in source.rglob("*"))
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is an input of this command"):
            run(source, source, small_head, overwrite=overwrite)
    assert (source / "beholder.json").read_text() == stamp
    assert sorted(path.name for path in source.rglob("*")) == before


def test_an_input_is_never_overwritten(tmp_path: Path, small_head: Path) -> None:
    pq.write_table(
        pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), D)}), tmp_path / "x.parquet"
    )
    (tmp_path / "link.parquet").symlink_to(tmp_path / "x.parquet")
    before = (tmp_path / "x.parquet").read_bytes()
    for out in ("x.parquet", "link.parquet", "../" + tmp_path.name + "/x.parquet"):
        with pytest.raises(OutputError, match="is an input of this command"):
            run(tmp_path / "x.parquet", tmp_path / out, small_head, overwrite=True)
    assert (tmp_path / "x.parquet").read_bytes() == before


def test_results_inside_the_source_are_not_read_as_embeddings(
    tmp_path: Path, small_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(
        pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), D)}), tmp_path / "x.parquet"
    )
    monkeypatch.chdir(tmp_path)
    for out in (None, "one.parquet", "two.csv"):
        options = ScoreOptions(sources=(".",), out=out, heads=(str(small_head),))
        assert score(options).num_new == N
        assert score(options).num_new == 0


@pytest.mark.slow
def test_two_runs_of_one_command_at_once_give_one_whole_result(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    line = ["score", str(tmp_path / "x.npy"), "-o", str(tmp_path / "out.parquet")]
    line += ["--head", str(small_head), "--shard-rows", "50", "-q"]
    running = [start(*line, stderr=PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=100)[1] for process in running]
    statuses = [process.returncode for process in running]
    assert 0 in statuses
    for status, error in zip(statuses, errors, strict=True):
        assert status == 0 or "another run" in error, error
    found = read_scores(tmp_path / "out.parquet")
    assert len(found) == found["sample"].n_unique() == N


def test_a_foreign_rejects_table_is_neither_overwritten_nor_deleted(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "out.parquet.rejects.parquet").write_text("precious")
    with pytest.raises(OutputError, match="in the way of the rejects table and is not ours"):
        run(tmp_path / "x.npy", tmp_path / "out.parquet", small_head, overwrite=True)
    assert (tmp_path / "out.parquet.rejects.parquet").read_text() == "precious"
