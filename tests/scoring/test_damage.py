"""Damage in what earlier runs wrote is noticed and mended, and what other people wrote is neither believed nor removed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from beholder import OutputError
from beholder.cli.app import app
from beholder.scoring.score import embed, score
from beholder.scoring.summary import RunSummary
from oracles.picture_jobs import embed_options, picture_bytes, score_options
from oracles.score_jobs import ROWS, N, read_scores, run
from oracles.tiers import mostly_slow


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes; the index and the times, which are others after each run, aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".zst" and path.name != "run.json"
    }


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x55
    path.write_bytes(data)


def test_a_damaged_shard_is_done_again_and_named(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    out = tmp_path / "out"
    run(tmp_path / "x.npy", out, small_head, shard_rows=1000)
    whole = snapshot(out)
    flip(out / "scores" / "x-from-000000001000.parquet", 300)
    (out / "done" / "x-from-000000002000.json").write_text('{"result": []}')
    summary = run(tmp_path / "x.npy", out, small_head, shard_rows=1000)
    assert summary.num_new == 2000
    assert summary.damaged == ["x-from-000000001000", "x-from-000000002000"]
    assert summary.to_json()["damaged_shards"] == summary.damaged
    assert snapshot(out) == whole
    flip(out / "scores" / "x-from-000000000000.parquet", 300)
    command = ["score", str(tmp_path / "x.npy"), "-o", str(out), "--head", str(small_head), "--shard-rows", "1000"]
    shown = CliRunner().invoke(app, command)
    assert "1 shard was damaged, or lacked a file, and done again: x-from-000000000000" in shown.stdout
    assert snapshot(out) == whole


def test_what_is_written_has_page_checksums(tmp_path: Path, small_head: Path) -> None:
    """A changed byte in the middle of the scores is an error to every reader that asks for it, not another score."""
    np.save(tmp_path / "x.npy", ROWS)
    run(tmp_path / "x.npy", tmp_path / "out.parquet", small_head, shard_rows=1000)
    run(tmp_path / "x.npy", tmp_path / "out", small_head)
    for path in (tmp_path / "out.parquet", tmp_path / "out" / "scores" / "x.parquet"):
        column = pq.ParquetFile(path).metadata.row_group(0).column(1)
        assert column.path_in_schema == "aesthetic_score"
        flip(path, column.data_page_offset + column.total_compressed_size // 2)
        with pytest.raises((OSError, pa.ArrowException), match=r"CRC|checksum"):
            pq.ParquetFile(path, page_checksum_verification=True).read(columns=["aesthetic_score"])


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_finished_file_that_was_changed_is_refused_until_it_is_restored(
    tmp_path: Path, small_head: Path, suffix: str
) -> None:
    rows = ROWS.copy()
    rows[5] = 0
    np.save(tmp_path / "x.npy", rows)
    out = tmp_path / f"out{suffix}"
    run(tmp_path / "x.npy", out, small_head)
    for path in (out, tmp_path / f"{out.name}.rejects.parquet"):
        flip(path, path.stat().st_size // 2)
        with pytest.raises(OutputError, match=rf"{path.name} is not what was written .*; restore it, or use --overwrite"):
            run(tmp_path / "x.npy", out, small_head)
        flip(path, path.stat().st_size // 2)
        assert run(tmp_path / "x.npy", out, small_head).num_new == 0
        saved = path.read_bytes()
        if path != out:
            path.unlink()
            with pytest.raises(OutputError, match=rf"{path.name} is gone, which the finished run had written"):
                run(tmp_path / "x.npy", out, small_head)
            path.write_bytes(saved)
    flip(out, 100)
    assert run(tmp_path / "x.npy", out, small_head, overwrite=True).num_new == N
    assert run(tmp_path / "x.npy", out, small_head).num_new == 0


def without_checksums(out: Path) -> None:
    """Markers and record as the version before wrote them."""
    for path in [*(out / "done").glob("*.json"), out / "beholder.json"]:
        found = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in found.items() if key not in ("sha256", "file_sha256")}))


def test_folders_of_the_version_before_are_continued_and_it_is_said(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    out = tmp_path / "out"
    run(tmp_path / "x.npy", out, small_head, shard_rows=1000)
    without_checksums(out)
    summary = run(tmp_path / "x.npy", out, small_head, shard_rows=1000)
    assert (summary.num_new, summary.num_read, summary.num_unchecked, summary.damaged) == (0, N, 3, [])
    command = ["score", str(tmp_path / "x.npy"), "-o", str(out), "--head", str(small_head), "--shard-rows", "1000"]
    assert "3 shards of an earlier version without checksums" in CliRunner().invoke(app, command).stdout
    flip(out / "scores" / "x-from-000000001000.parquet", -1)
    summary = run(tmp_path / "x.npy", out, small_head, shard_rows=1000)
    assert (summary.num_new, summary.damaged, summary.num_unchecked) == (1000, ["x-from-000000001000"], 2)
    assert len(read_scores(out)) == N


def test_a_marker_cannot_have_other_files_removed(tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path) -> None:
    """With --retry-rejects a shard is taken back, with the files that its marker names."""
    source, thesis = tmp_path / "in", tmp_path / "home" / "thesis.txt"
    source.mkdir()
    (source / "0.jpg").write_bytes(picture_bytes(0))
    (source / "1.jpg").write_bytes(picture_bytes(1))
    (source / "list.csv").write_text(f"path\n{source / '0.jpg'}\n{source / '1.jpg'}\n{source / 'gone.jpg'}\n")
    thesis.parent.mkdir()
    thesis.write_text("years")
    out = tmp_path / "out"

    def again(**more: Any) -> RunSummary:
        return score(score_options((str(source / "list.csv"),), out, small_tower, plain_head, workers=0, **more))

    assert again().reasons == {"missing": 1}
    without_checksums(out)
    (marker,) = (out / "done").glob("*.json")
    whole = json.loads(marker.read_text())
    names = ("../home/thesis.txt", str(thesis), "scores/../../home/thesis.txt")
    marker.write_text(json.dumps({**whole, "result": {**whole["result"], "files": dict.fromkeys(names, 5)}}))
    summary = again(retry_rejects=True)
    assert (summary.num_new, summary.num_read, len(summary.damaged)) == (3, 3, 1)
    assert thesis.read_text() == "years"


def test_overwrite_leaves_what_is_not_ours(tmp_path: Path, small_head: Path, second_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    out = tmp_path / "mix"
    run(tmp_path / "x.npy", out, small_head, shard_rows=1000)
    strays = {"README.md": "mine", "scores/notes.txt": "mine", "pictures/cat.jpg": "mine", "done/notes.txt": "mine"}
    for name, text in strays.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text)
    assert run(tmp_path / "x.npy", out, second_head, overwrite=True, shard_rows=2000).num_new == N
    assert {name: (out / name).read_text() for name in strays} == strays
    assert sorted(path.name for path in (out / "scores").glob("*.parquet")) == [
        "x-from-000000000000.parquet",
        "x-from-000000002000.parquet",
    ]
    assert run(tmp_path / "x.npy", out, second_head, shard_rows=2000).num_new == 0


@pytest.mark.parametrize("name", ["scores/mine.parquet", "scores/mine.csv", "rejects/mine.parquet", "embeddings/mine.npy"])
def test_overwrite_is_refused_before_anything_is_removed(tmp_path: Path, small_head: Path, name: str) -> None:
    """A table of somebody else's in a run's folder would be read as a part of the result."""
    np.save(tmp_path / "x.npy", ROWS)
    out = tmp_path / "mix"
    run(tmp_path / "x.npy", out, small_head)
    (out / name).parent.mkdir(exist_ok=True)
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"a": [1]}), out / name)
    else:
        (out / name).write_text("a,b\n1,2\n")
    before = snapshot(out)
    with pytest.raises(OutputError, match=rf"{name} was not written by beholder and would be taken for a result; move it"):
        run(tmp_path / "x.npy", out, small_head, overwrite=True)
    assert snapshot(out) == before


def test_overwrite_mends_a_damaged_record(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    for out, record in (("out", "out/beholder.json"), ("out.parquet", "out.parquet.beholder.json")):
        run(tmp_path / "x.npy", tmp_path / out, small_head)
        flip(tmp_path / record, 200)
        with pytest.raises(OutputError, match=r"beholder.json is damaged: .*; restore it, or use --overwrite"):
            run(tmp_path / "x.npy", tmp_path / out, small_head)
        assert run(tmp_path / "x.npy", tmp_path / out, small_head, overwrite=True).num_new == N
        assert run(tmp_path / "x.npy", tmp_path / out, small_head).num_new == 0


MINE = ['{"backbone": "mine"}', "notes", "[]", '{"format": "beholder-embeddings", "backbone": "mine"}', "[" * 100_000]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("text", MINE, ids=range(len(MINE)))
def test_a_record_of_somebody_elses_is_not_replaced(
    tmp_path: Path, small_head: Path, suffix: str, overwrite: bool, text: str
) -> None:
    np.save(tmp_path / "x.npy", ROWS[:10])
    record = tmp_path / f"out{suffix}.beholder.json"
    record.write_text(text)
    with pytest.raises(OutputError, match="is in the way of the record and is not ours; move it"):
        run(tmp_path / "x.npy", tmp_path / f"out{suffix}", small_head, overwrite=overwrite)
    assert record.read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == [record.name, "x.npy"]


def test_a_folder_in_the_place_of_the_file_is_refused_before_any_work(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS[:10])
    (tmp_path / "out.parquet").mkdir()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="out.parquet is a folder"):
            run(tmp_path / "x.npy", tmp_path / "out.parquet", small_head, overwrite=overwrite)
    assert not list(tmp_path.glob("*.partial"))


def test_what_others_put_into_the_folder_of_shards_stays(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    out, work = tmp_path / "out.parquet", tmp_path / "out.parquet.partial"

    def stop(rows: int, num_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_with(tmp_path / "x.npy", out, small_head, stop)
    (work / "notes.txt").write_text("mine")
    assert run(tmp_path / "x.npy", out, small_head).num_read == N
    assert snapshot(work) == {"notes.txt": b"mine"}
    shutil.rmtree(work)
    work.mkdir()
    (work / "beholder.json").write_text("mine")
    assert run(tmp_path / "x.npy", out, small_head).num_new == 0
    assert snapshot(work) == {"beholder.json": b"mine"}, "a folder that only bears that name"


def run_with(source: Path, out: Path, head: Path, on_progress: Any) -> RunSummary:
    from beholder.scoring.options import ScoreOptions

    return score(ScoreOptions(sources=(str(source),), out=str(out), heads=(str(head),)), on_progress=on_progress)


def test_a_shard_damaged_before_it_is_joined_is_not_joined(tmp_path: Path, small_head: Path) -> None:
    """While the last shard is scored, the first one, finished long ago, goes bad."""
    np.save(tmp_path / "x.npy", ROWS)
    out = tmp_path / "out.parquet"
    options: dict[str, Any] = {"shard_rows": 1000}
    from beholder.scoring.options import ScoreOptions

    job = ScoreOptions(sources=(str(tmp_path / "x.npy"),), out=str(out), heads=(str(small_head),), **options)
    shards = tmp_path / "out.parquet.partial" / "scores"
    seen: list[int] = []

    def spoil(rows: int, num_bytes: int) -> None:
        seen.append(rows)
        if len(seen) == 3:
            flip(shards / "x-from-000000000000.parquet", 300)

    with pytest.raises(OutputError, match=r"x-from-000000000000.parquet is damaged: .*its shard is redone"):
        score(job, on_progress=spoil)
    assert not out.exists()
    assert score(job).num_new == 1000
    expected = tmp_path / "whole.parquet"
    run(tmp_path / "x.npy", expected, small_head, **options)
    assert pl.read_parquet(out).equals(pl.read_parquet(expected))


def test_damage_in_a_remote_folder_is_mended_and_strangers_stay(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    files, base = fsspec.filesystem("memory"), f"memory://{tmp_path.name}/out"
    out: Any = base
    run(tmp_path / "x.npy", out, small_head, shard_rows=1000)
    assert run(tmp_path / "x.npy", out, small_head, shard_rows=1000).num_new == 0
    shard = f"{base}/scores/x-from-000000001000.parquet"
    whole = files.cat_file(shard)
    files.pipe_file(shard, whole[:-1])
    summary = run(tmp_path / "x.npy", out, small_head, shard_rows=1000)
    assert (summary.num_new, summary.damaged) == (1000, ["x-from-000000001000"])
    assert files.cat_file(shard) == whole
    files.pipe_file(f"{base}/scores/notes.txt", b"mine")
    files.pipe_file(f"{base}/scores/mine.parquet", b"mine")
    with pytest.raises(OutputError, match="mine.parquet was not written by beholder"):
        run(tmp_path / "x.npy", out, small_head, shard_rows=1500, overwrite=True)
    assert files.cat_file(shard) == whole
    assert files.exists(f"{base}/beholder.json")
    files.rm_file(f"{base}/scores/mine.parquet")
    run(tmp_path / "x.npy", out, small_head, shard_rows=1500, overwrite=True)
    assert sorted(name.rsplit("/", 1)[1] for name in files.find(f"{base}/scores")) == [
        "notes.txt",
        "x-from-000000000000.parquet",
        "x-from-000000001500.parquet",
    ]
    files.pipe_file(f"{base}/beholder.json", b'{"backbone": "mine"}')
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="out already exists and is not|out is not a beholder run"):
            run(tmp_path / "x.npy", out, small_head, shard_rows=1500, overwrite=overwrite)
    assert files.cat_file(f"{base}/beholder.json") == b'{"backbone": "mine"}'


def test_strangers_beside_kept_embeddings_are_not_thrown_away(
    tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path
) -> None:
    """The folder of kept embeddings is replaced as a whole."""
    options = score_options(
        (str(photos),), tmp_path / "out.parquet", small_tower, plain_head, keep_embeddings=True, overwrite=True
    )
    score(options)
    stray = tmp_path / "out.parquet.embeddings" / "notes.txt"
    stray.write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match="notes.txt was not written by beholder"):
        score(options)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("stamped", mostly_slow([False, True]))
def test_embeddings_of_other_tools_are_never_removed(tmp_path: Path, photos: Path, small_tower: Path, stamped: bool) -> None:
    """An .npy says nothing of its maker; one without metadata of ours beside it is not ours."""
    out = tmp_path / "set"
    options = embed_options(str(photos / "a" / "p01.png"), out, small_tower)
    if stamped:
        embed(options)
    (out / "img_emb").mkdir(parents=True, exist_ok=True)
    if not stamped:
        (out / "beholder.json").write_text('{"format": "beholder-embeddings", "backbone": "mine"}')
    np.save(out / "img_emb" / "img_emb_00007.npy", ROWS)
    before = snapshot(out)
    with pytest.raises(OutputError, match=r"img_emb_00007\.npy was not written by beholder and would be taken for a result"):
        embed(replace(options, overwrite=True))
    assert snapshot(out) == before
    (out / "img_emb" / "img_emb_00007.npy").unlink()
    assert embed(replace(options, overwrite=True)).num_new == 1
