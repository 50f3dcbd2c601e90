"""Embeddings and results on S3 (a server on this machine): the bits of local files, or one clear line."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import BeholderError, InputError, load_head
from beholder.io import user_folders
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from beholder.scoring.summary import RunSummary
from oracles.s3 import BUCKET, ask_moto
from oracles.tiers import mostly_slow

N, D = 600, 24
ROWS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float16)
NAMES = [f"pictures/{i:05d}.jpg" for i in range(N)]


def npy(rows: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


def npz(rows: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, embeddings=rows, samples=np.array(NAMES))
    return stream.getvalue()


def parquet(rows: Any) -> bytes:
    table = pa.table({"sample": NAMES, "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), D)})
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=250)
    return stream.getvalue()


def logits(rows: Any) -> bytes:
    return pl.DataFrame({"sample": NAMES, **{str(i): rows[:, i].astype(np.float32) for i in range(D)}}).write_csv().encode()


FORMATS = {
    "c.npy": npy(ROWS), "x.npz": npz(ROWS), "x.parquet": parquet(ROWS),
    "logits.csv": logits(ROWS),
}  # fmt: skip


def metadata(names: list[str]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"image_path": names, "width": np.arange(len(names))}), stream)
    return stream.getvalue()


def put_set(s3: Any, home: str, parts: int = 12, stamp: str | None = "test/clip-24") -> None:
    """A set in clip-retrieval's layout with numbers that are not padded alike."""
    for i, (rows, names) in enumerate(zip(np.array_split(ROWS, parts), np.array_split(NAMES, parts), strict=True)):
        s3.put_object(Bucket=BUCKET, Key=f"{home}/img_emb/img_emb_{i}.npy", Body=npy(rows))
        s3.put_object(Bucket=BUCKET, Key=f"{home}/metadata/metadata_{i:05d}.parquet", Body=metadata(names.tolist()))
    if stamp:
        s3.put_object(Bucket=BUCKET, Key=f"{home}/beholder.json", Body=json.dumps({"backbone": stamp}).encode())


def keys(s3: Any, prefix: str = "") -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


def body(s3: Any, key: str) -> bytes:
    data: bytes = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return data


def run(source: str | list[str], out: str | Path, head: Path, **options: Any) -> RunSummary:
    sources = tuple(source) if isinstance(source, list) else (source,)
    return score(ScoreOptions(sources=sources, out=str(out), heads=(str(head),), **options))


def expected_scores(head: Path) -> Any:
    return load_head(str(head)).score(ROWS)


def one_line(source: str | list[str], out: str | Path, head: Path, **options: Any) -> str:
    """The line a refused job gives."""
    with pytest.raises(BeholderError) as caught:
        run(source, out, head, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(FORMATS, quick=2))
def test_s3_gives_the_bits_of_local_files(s3: Any, tmp_path: Path, small_head: Path, name: str) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"deep/er/{name}", Body=FORMATS[name])
    (tmp_path / name).write_bytes(FORMATS[name])
    run(f"s3://{BUCKET}/deep/er/{name}", tmp_path / "remote.parquet", small_head, shard_rows=100)
    run(str(tmp_path / name), tmp_path / "local.parquet", small_head)
    found = pl.read_parquet(tmp_path / "remote.parquet")
    assert found.equals(pl.read_parquet(tmp_path / "local.parquet"))
    assert found["aesthetic_score"].to_list() == expected_scores(small_head).tolist()
    assert found["sample"][7] == (f"{name}#7" if name.endswith(".npy") else NAMES[7])


def test_fortran_order_on_s3_is_refused_in_one_line(s3: Any, tmp_path: Path, small_head: Path) -> None:
    s3.put_object(Bucket=BUCKET, Key="f.npy", Body=npy(np.asfortranarray(ROWS)))
    assert "is in Fortran order, which is read from this machine only" in one_line(
        f"s3://{BUCKET}/f.npy", tmp_path / "out", small_head
    )


@pytest.mark.parametrize("rows", [1, 0])
def test_one_row_and_no_row_on_s3(s3: Any, tmp_path: Path, small_head: Path, rows: int) -> None:
    s3.put_object(Bucket=BUCKET, Key="x.npy", Body=npy(ROWS[:rows]))
    if rows:
        assert run(f"s3://{BUCKET}/x.npy", tmp_path / "out", small_head).num_scored == 1
    else:
        assert "zero rows" in one_line(f"s3://{BUCKET}/x.npy", tmp_path / "out", small_head)


@pytest.mark.slow
@pytest.mark.parametrize("source", mostly_slow(["set", "set/img_emb/", "set/", "set/img_emb"], quick=2, slow=0))
def test_a_clip_retrieval_set_on_s3_keeps_names_columns_and_stamp(
    s3: Any, tmp_path: Path, small_head: Path, source: str
) -> None:
    put_set(s3, "set")
    summary = run(f"s3://{BUCKET}/{source}", tmp_path / "out.parquet", small_head, columns=("width",))
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert summary.warnings == []
    assert found.columns == ["sample", "aesthetic_score", "width"]
    assert found["sample"].to_list() == NAMES
    assert found["aesthetic_score"].to_list() == expected_scores(small_head).tolist()
    assert found["width"].to_list() == list(range(50)) * 12
    s3.put_object(Bucket=BUCKET, Key="set/beholder.json", Body=b'{"backbone": "openai/clip-vit-base-patch32"}')
    line = one_line(f"s3://{BUCKET}/{source}", tmp_path / "no", small_head)
    assert "made with openai/clip-vit-base-patch32" in line


@pytest.mark.slow
def test_globs_on_s3_come_in_natural_order(s3: Any, tmp_path: Path, small_head: Path) -> None:
    put_set(s3, "set", stamp=None)
    summary = run(f"s3://{BUCKET}/set/img_emb/img_emb_*.npy", tmp_path / "out.parquet", small_head)
    assert "no stamp" in summary.warnings[0]
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found["aesthetic_score"].to_list() == expected_scores(small_head).tolist()
    assert found["sample"][-1] == "img_emb_11.npy#49"
    assert "nothing matches" in one_line(f"s3://{BUCKET}/set/*.csv", tmp_path / "no", small_head)


def test_a_list_on_s3_names_parts_of_both_kinds(s3: Any, tmp_path: Path, small_head: Path) -> None:
    s3.put_object(Bucket=BUCKET, Key="a.npy", Body=npy(ROWS[:100]))
    np.save(tmp_path / "b.npy", ROWS[100:])
    s3.put_object(Bucket=BUCKET, Key="list.txt", Body=f"s3://{BUCKET}/a.npy\n{tmp_path}/b.npy\n".encode())
    run(f"s3://{BUCKET}/list.txt", tmp_path / "out.parquet", small_head)
    found = pl.read_parquet(tmp_path / "out.parquet")["aesthetic_score"]
    assert found.to_list() == expected_scores(small_head).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", mostly_slow(["csv", "parquet"]))
def test_one_file_is_written_to_s3(s3: Any, tmp_path: Path, small_head: Path, suffix: str) -> None:
    rows = ROWS.copy()
    rows[3] = 0
    np.save(tmp_path / "x.npy", rows)
    out = f"s3://{BUCKET}/results/out.{suffix}"
    summary = run(str(tmp_path / "x.npy"), out, small_head, shard_rows=100)
    assert (summary.num_scored, summary.num_rejected, summary.rejects) == (
        N - 1,
        1,
        f"s3://{BUCKET}/results/out.{suffix}.rejects.parquet",
    )
    run(str(tmp_path / "x.npy"), tmp_path / f"out.{suffix}", small_head)
    local = pl.read_csv(tmp_path / "out.csv") if suffix == "csv" else pl.read_parquet(tmp_path / "out.parquet")
    stream = io.BytesIO(body(s3, f"results/out.{suffix}"))
    assert (pl.read_csv(stream) if suffix == "csv" else pl.read_parquet(stream)).equals(local)
    rejects = pl.read_parquet(io.BytesIO(body(s3, f"results/out.{suffix}.rejects.parquet")))
    assert rejects["sample"].to_list() == ["x.npy#3"]
    assert sorted(keys(s3)) == [
        f"results/out.{suffix}", f"results/out.{suffix}.beholder.json", f"results/out.{suffix}.inputs",
        f"results/out.{suffix}.rejects.parquet",
    ]  # fmt: skip
    assert not (user_folders.cache_folder() / "runs").exists()
    again = run(str(tmp_path / "x.npy"), out, small_head, shard_rows=100)
    assert (again.num_new, again.num_read) == (0, N)


def test_a_folder_is_written_to_s3(s3: Any, tmp_path: Path, small_head: Path) -> None:
    put_set(s3, "set", parts=3)
    out = f"s3://{BUCKET}/scores/"
    summary = run(f"s3://{BUCKET}/set", out, small_head)
    names = [f"img_emb_{number}" for number in range(3)]
    assert [key for key in keys(s3, "scores/") if "/index-" not in key] == [
        "scores/beholder.json",
        *(f"scores/done/{name}.json" for name in names),
        "scores/run.json",
        *(f"scores/scores/{name}.parquet" for name in names),
    ]
    frames = [pl.read_parquet(io.BytesIO(body(s3, key))) for key in keys(s3, "scores/scores/")]
    assert pl.concat(frames)["sample"].to_list() == NAMES
    assert pl.concat(frames)["aesthetic_score"].to_list() == expected_scores(small_head).tolist()
    assert summary.num_new == N
    assert run(f"s3://{BUCKET}/set", out, small_head).num_new == 0


@pytest.mark.slow
@pytest.mark.parametrize("suffix", mostly_slow(["", ".parquet", ".csv"], slow=0))
def test_other_inputs_need_overwrite_which_leaves_nothing_of_the_old_result(
    s3: Any, tmp_path: Path, small_head: Path, suffix: str
) -> None:
    rows = ROWS.copy()
    rows[3] = 0
    np.save(tmp_path / "old.npy", rows)
    np.save(tmp_path / "new.npy", ROWS[:50])
    out = f"s3://{BUCKET}/out{suffix}"
    run(str(tmp_path / "old.npy"), out, small_head)
    before = keys(s3)
    assert "use --overwrite" in one_line(str(tmp_path / "new.npy"), out, small_head)
    assert keys(s3) == before
    assert run(str(tmp_path / "new.npy"), out, small_head, overwrite=True).num_new == 50
    left = [key for key in keys(s3) if "/index-" not in key]
    in_folder = ["out/beholder.json", "out/done/new.json", "out/run.json", "out/scores/new.parquet"]
    assert left == (in_folder if not suffix else [f"out{suffix}", f"out{suffix}.beholder.json", f"out{suffix}.inputs"])
    assert run(str(tmp_path / "new.npy"), out, small_head).num_new == 0


@pytest.mark.parametrize("suffix", mostly_slow(["", ".parquet", ".csv"]))
def test_foreign_results_on_s3_stay(s3: Any, tmp_path: Path, small_head: Path, suffix: str) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    key = f"out{suffix}" if suffix else "out/scores/mine.parquet"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"mine")
    assert "already exists" in one_line(str(tmp_path / "x.npy"), f"s3://{BUCKET}/out{suffix}", small_head)
    if not suffix:
        line = one_line(str(tmp_path / "x.npy"), f"s3://{BUCKET}/out", small_head, overwrite=True)
        assert "not a beholder run" in line
    assert keys(s3) == [key]
    assert body(s3, key) == b"mine"


def test_missing_things_on_s3_are_one_clear_line(s3: Any, tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    assert f"s3://{BUCKET}/no.npy does not exist" in one_line(f"s3://{BUCKET}/no.npy", tmp_path / "out", small_head)
    assert "s3://nowhere/x.npy does not exist" in one_line("s3://nowhere/x.npy", tmp_path / "out", small_head)
    assert "nothing matches s3://nowhere/*.npy" in one_line("s3://nowhere/*.npy", tmp_path / "out", small_head)
    line = one_line(str(tmp_path / "x.npy"), "s3://nowhere/out.parquet", small_head)
    assert "cannot write s3://nowhere/out.parquet" in line
    assert "bucket does not exist" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_damaged_files_on_s3_are_named(s3: Any, tmp_path: Path, small_head: Path) -> None:
    whole = {name: FORMATS[name] for name in ("c.npy", "x.npz", "x.parquet")}
    for name, data in whole.items():
        s3.put_object(Bucket=BUCKET, Key=name, Body=data[: len(data) // 2])
        line = one_line(f"s3://{BUCKET}/{name}", tmp_path / "out", small_head)
        assert f"s3://{BUCKET}/{name} is " in line
        assert re.search("truncated|not a whole", line)
    s3.put_object(Bucket=BUCKET, Key="empty.npy", Body=b"")
    assert "is empty (0 bytes)" in one_line(f"s3://{BUCKET}/empty.npy", tmp_path / "out", small_head)


def test_wrong_credentials_are_one_clear_line(
    s3: Any, s3_server: str, tmp_path: Path, small_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    np.save(tmp_path / "x.npy", ROWS)
    s3.put_object(Bucket=BUCKET, Key="x.npy", Body=npy(ROWS))
    ask_moto(s3_server, "reset-auth", b"0")
    for source in (f"s3://{BUCKET}/x.npy", f"s3://{BUCKET}/*.npy"):
        line = one_line(source, tmp_path / "out", small_head)
        assert re.search(f"cannot read {re.escape(source)}: access denied .*check your credentials", line)
    line = one_line(str(tmp_path / "x.npy"), f"s3://{BUCKET}/out.parquet", small_head)
    assert re.search(f"s3://{BUCKET}/out.parquet[a-z.]*: access denied", line)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    assert "Unable to locate credentials" in one_line(f"s3://{BUCKET}/x.npy", tmp_path / "out", small_head)


def test_a_server_that_is_down_is_one_clear_line(
    s3: Any, tmp_path: Path, small_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    np.save(tmp_path / "x.npy", ROWS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    line = one_line(f"s3://{BUCKET}/x.npy", tmp_path / "out", small_head)
    assert f"cannot read s3://{BUCKET}/x.npy" in line
    assert "Could not connect to the endpoint URL" in line
    assert "out.csv" in one_line(str(tmp_path / "x.npy"), f"s3://{BUCKET}/out.csv", small_head)


def test_unknown_kinds_of_addresses_are_one_clear_line(tmp_path: Path, small_head: Path) -> None:
    with pytest.raises(InputError, match=r"bogus://bucket/x\.npy: Protocol not known: bogus"):
        run("bogus://bucket/x.npy", tmp_path / "out", small_head)
