"""Sources and results in a bucket, grown and shrunk: only new work is done, as if from scratch."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from beholder.scoring.summary import RunSummary
from oracles.picture_jobs import picture_bytes, score_options
from oracles.result_bytes import check_same
from oracles.s3 import BUCKET, fill_bucket
from oracles.score_jobs import ROWS
from oracles.tiers import mostly_slow

SUFFIXES = mostly_slow(["", ".parquet", ".csv"], slow=0)


def fetched(client: Any, prefix: str, folder: Path) -> Path:
    """What stands at and below a key of the bucket, as local files; the path of the result there."""
    for entry in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", ()):
        path = folder / entry["Key"]
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(BUCKET, entry["Key"], str(path))
    return folder / prefix


def check(client: Any, options: ScoreOptions, out: str, tmp_path: Path, expected: tuple[int, int, int, int]) -> None:
    """Run again: rows read, done by this run, changed, vanished; the result of a run from scratch; then nothing to do."""
    found = score(replace(options, out=f"s3://{BUCKET}/{out}"))
    assert (found.num_read, found.num_new, found.num_changed, found.num_vanished) == expected
    number = len(list(tmp_path.iterdir()))
    score(replace(options, out=f"s3://{BUCKET}/scratch{number}/{out}"))
    check_same(
        fetched(client, out, tmp_path / f"found{number}"),
        fetched(client, f"scratch{number}/{out}", tmp_path / f"found{number}"),
    )
    assert score(replace(options, out=f"s3://{BUCKET}/{out}")).num_new == 0


def put(client: Any, *numbers: int, changed: int = 0) -> None:
    fill_bucket(client, {f"photos/p{number}.png": picture_bytes(number + changed, "PNG") for number in numbers})


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_in_a_bucket(tmp_path: Path, s3: Any, small_tower: Path, plain_head: Path, suffix: str) -> None:
    put(s3, 1, 2, 3, 4, 10)
    fill_bucket(s3, {"photos/p5.png": b"no picture"})
    more = {"shard_rows": 3, "keep_embeddings": True, "workers": 0}
    options = score_options(f"s3://{BUCKET}/photos", tmp_path, small_tower, plain_head, **more)
    first: RunSummary = score(replace(options, out=f"s3://{BUCKET}/out{suffix}"))
    assert (first.num_new, first.num_rejected) == (6, 1)
    put(s3, 2)  # written again, the same
    put(s3, 3, changed=50)
    put(s3, 0, 7, 8)
    s3.delete_object(Bucket=BUCKET, Key="photos/p4.png")
    check(s3, options, f"out{suffix}", tmp_path, (8, 4, 1, 1))
    put(s3, 9)
    check(s3, options, f"out{suffix}", tmp_path, (9, 1, 0, 0))


def put_list(client: Any, kind: str, numbers: list[int], place: str) -> None:
    """list.KIND in the bucket, with the pictures of these numbers at `place`."""
    names = [f"{place}/p{number}.png" for number in numbers]
    file = io.BytesIO()
    if kind == "parquet":
        pq.write_table(pa.table({"path": names}), file)
    else:
        file.write("\n".join([*(["path"] if kind == "csv" else []), *names, ""]).encode())
    fill_bucket(client, {f"list.{kind}": file.getvalue()})


LISTS = [
    pytest.param("txt", "", marks=pytest.mark.soak),
    ("csv", ".parquet"),
    pytest.param("parquet", ".csv", marks=pytest.mark.soak),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "suffix"), LISTS)
def test_a_list_in_a_bucket_of_pictures_there(
    tmp_path: Path, s3: Any, small_tower: Path, plain_head: Path, kind: str, suffix: str
) -> None:
    place = f"s3://{BUCKET}/photos"
    put(s3, *range(7))
    put_list(s3, kind, [3, 1, 0, 2, 77], place)  # there is no p77
    source = f"s3://{BUCKET}/list.{kind}"
    options = score_options(source, tmp_path, small_tower, plain_head, shard_rows=3, workers=0)
    first = score(replace(options, out=f"s3://{BUCKET}/out{suffix}"))
    assert (first.num_new, first.num_scored, first.num_rejected) == (5, 4, 1)
    put_list(s3, kind, [5, 3, 0, 2, 4, 77], place)
    check(s3, options, f"out{suffix}", tmp_path, (6, 2, 0, 1))
    put_list(s3, kind, [0, 2, 5], place)
    check(s3, options, f"out{suffix}", tmp_path, (3, 0, 0, 3))
    put_list(s3, kind, [5, 2, 0, 6], place)
    check(s3, options, f"out{suffix}", tmp_path, (4, 1, 0, 0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", pytest.param("parquet", marks=pytest.mark.soak)])
def test_a_list_in_a_bucket_of_pictures_here(tmp_path: Path, s3: Any, small_tower: Path, plain_head: Path, kind: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        (photos / f"p{number}.png").write_bytes(picture_bytes(number, "PNG"))
    put_list(s3, kind, [0, 1, 2, 3], str(photos))
    options = score_options(f"s3://{BUCKET}/list.{kind}", tmp_path, small_tower, plain_head, shard_rows=3, workers=0)
    score(replace(options, out=f"s3://{BUCKET}/out"))
    put_list(s3, kind, [4, 3, 1, 0, 5], str(photos))
    (photos / "p1.png").write_bytes(picture_bytes(60, "PNG"))
    check(s3, options, "out", tmp_path, (5, 3, 1, 1))


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "suffix"), LISTS)
def test_a_list_here_of_pictures_in_a_bucket(
    tmp_path: Path, s3: Any, small_tower: Path, plain_head: Path, kind: str, suffix: str
) -> None:
    put(s3, *range(6))
    listed = tmp_path / "lists" / f"list.{kind}"
    listed.parent.mkdir()

    def write(numbers: list[int]) -> None:
        put_list(s3, kind, numbers, f"s3://{BUCKET}/photos")
        s3.download_file(BUCKET, f"list.{kind}", str(listed))

    options = score_options(str(listed), tmp_path, small_tower, plain_head, shard_rows=3, workers=0)
    write([0, 1, 2, 3])
    score(replace(options, out=f"s3://{BUCKET}/out{suffix}"))
    write([4, 3, 1, 0])
    check(s3, options, f"out{suffix}", tmp_path, (4, 1, 0, 1))
    put(s3, 1)  # written again, the same
    check(s3, options, f"out{suffix}", tmp_path, (4, 0, 0, 0))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [pytest.param("", marks=pytest.mark.soak), ".parquet"])
def test_zips_in_a_bucket(tmp_path: Path, s3: Any, small_tower: Path, plain_head: Path, suffix: str) -> None:
    def save(name: str, numbers: range) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for number in numbers:
                archive.writestr(zipfile.ZipInfo(f"{number}.png"), picture_bytes(number, "PNG"))
        fill_bucket(s3, {f"zips/{name}.zip": file.getvalue()})

    save("a", range(4))
    save("b", range(4, 6))
    options = score_options(f"s3://{BUCKET}/zips", tmp_path, small_tower, plain_head, shard_rows=3, workers=0)
    score(replace(options, out=f"s3://{BUCKET}/out{suffix}"))
    save("a", range(4))  # written again, the same
    save("b", range(4, 7))
    check(s3, options, f"out{suffix}", tmp_path, (7, 3, 2, 0))
    s3.delete_object(Bucket=BUCKET, Key="zips/a.zip")
    check(s3, options, f"out{suffix}", tmp_path, (3, 0, 0, 4))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_embeddings_in_a_bucket(tmp_path: Path, s3: Any, small_head: Path, suffix: str) -> None:
    def save(name: str, rows: np.ndarray) -> None:
        file = io.BytesIO()
        np.save(file, rows)
        fill_bucket(s3, {f"set/{name}.npy": file.getvalue()})

    save("b", ROWS[:30])
    save("c", ROWS[30:50])
    options = ScoreOptions(sources=(f"s3://{BUCKET}/set/*.npy",), out="x", heads=(str(small_head),), shard_rows=20)
    score(replace(options, out=f"s3://{BUCKET}/out{suffix}"))
    save("a", ROWS[50:60])
    save("c", ROWS[40:60])
    check(s3, options, f"out{suffix}", tmp_path, (60, 30, 20, 0))
    s3.delete_object(Bucket=BUCKET, Key="set/b.npy")
    check(s3, options, f"out{suffix}", tmp_path, (30, 0, 0, 30))
