"""Runs whose folder is in a bucket: the bytes of a local run, and nothing on this machine, however often they are killed."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from beholder import OutputError
from beholder.io import user_folders
from beholder.scoring import folder as run_folder
from beholder.scoring.folder import RunFolder
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import embed, score
from oracles.bucket_jobs import SEGMENT, local_files, make_arrays, make_photos, put_folder, stored, url, without_index
from oracles.picture_jobs import embed_options, picture_bytes, score_options
from oracles.program import beholder, start
from oracles.s3 import BUCKET
from oracles.tiers import mostly_slow

SUFFIXES = ["", ".parquet", ".csv"]
POINTS = sorted(
    name
    for file in Path(run_folder.__file__).parent.glob("*.py")
    for name in re.findall(r'reach\("([^"]+)"\)', file.read_text())
)
OF_GROWTH = {
    *("room made", "shard adopted", "shard linked aside", "shard set aside", "result opened", "opened result set aside"),
}
ONLY_HERE = {"embeddings moved away"}
OF_ONE_FILE = {
    *(
        "inputs packed",
        "rejects published",
        "result published",
        "result recorded",
        "shards removed",
        "run removed",
        "embeddings published",
    ),
}
OF_KEPT = {"embeddings taken away", "embeddings copied"}


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go: nothing may be left there, nor in the cache folder."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    yield place
    assert not list(place.iterdir()), "left behind"
    assert not (user_folders.cache_folder() / "runs").exists()


def job(source: Path, out: str, head: Path, **more: Any) -> ScoreOptions:
    return ScoreOptions(sources=(str(source),), out=out, heads=(str(head),), num_threads=1, **{"shard_rows": 20, **more})


def check_same(client: Any, name: str, local: Path) -> None:
    """What stands in the bucket at `name` and beside it is, to the byte, what the local run of that name wrote."""
    found = without_index(stored(client, name), f"{name}/")
    expected = without_index(local_files(local, name), f"{name}/")
    # Of one file, the zip and what the record says of it have other bytes: a stream cannot go back to fill in sizes.
    beside = {f"{name}.inputs", f"{name}.beholder.json"} if "." in name else set[str]()
    assert sorted(found) == sorted(expected)
    assert [key for key in found if key not in beside and found[key] != expected[key]] == []


@pytest.mark.parametrize("suffix", mostly_slow([".csv", "", ".parquet"]))
def test_scores_of_embeddings_are_those_of_a_local_run(
    tmp_path: Path, s3: Any, small_head: Path, scratch: Path, suffix: str
) -> None:
    source = make_arrays(tmp_path / "in")
    (tmp_path / "local").mkdir()
    seen: list[list[str]] = []
    local = score(job(source, str(tmp_path / "local" / f"out{suffix}"), small_head))
    remote = score(
        job(source, url(f"out{suffix}"), small_head),
        on_progress=lambda rows, num_bytes: seen.append([path.name for path in scratch.glob("beholder-shard-*/*")]),
    )
    assert (remote.num_new, remote.num_scored, remote.num_rejected) == (90, 87, 3)
    assert remote.to_json()["scores"] == local.to_json()["scores"]
    assert max(map(len, seen)) <= 1, "one shard at a time"
    check_same(s3, f"out{suffix}", tmp_path / "local")
    again = score(job(source, url(f"out{suffix}"), small_head))
    assert (again.num_new, again.num_read, again.reasons) == (0, 90, {"zero_norm": 3})
    assert again.to_json()["scores"] == local.to_json()["scores"]
    check_same(s3, f"out{suffix}", tmp_path / "local")


@pytest.mark.slow
def test_what_other_machines_have_at_hand_is_left_alone(tmp_path: Path, s3: Any, small_head: Path, scratch: Path) -> None:
    """Where TMPDIR is on a disk that machines share: their processes are not to be seen from here."""
    source, left, machines = make_arrays(tmp_path / "in"), dict[str, Path](), set[str]()

    def leave(rows: int, num_bytes: int) -> None:
        for own in scratch.glob(f"beholder-shard-*-{os.getpid()}-*"):
            start, machine, _, end = own.name.rsplit("-", 3)
            machines.add(machine)
            for who, name in ("here", machine), ("elsewhere", machine[::-1]):
                left[who] = scratch / f"{start}-{name}-99999999-{end}"
                left[who].mkdir(exist_ok=True)

    score(job(source, url("other"), small_head), on_progress=leave)
    score(job(source, url("out"), small_head), on_progress=leave)
    assert len(machines) == 1
    assert {who: place.exists() for who, place in left.items()} == {"here": False, "elsewhere": True}
    for place in scratch.iterdir():
        place.rmdir()


@pytest.mark.parametrize("suffix", mostly_slow([".parquet", "", ".csv"]))
def test_scores_and_kept_embeddings_of_pictures_are_those_of_a_local_run(
    tmp_path: Path, s3: Any, small_tower: Path, plain_head: Path, suffix: str
) -> None:
    source = make_photos(tmp_path / "photos")
    (tmp_path / "local").mkdir()
    options = score_options(
        str(source), tmp_path / "local" / f"out{suffix}", small_tower, plain_head, shard_rows=3, keep_embeddings=True
    )
    score(options)
    remote = score(replace(options, out=url(f"out{suffix}")))
    assert (remote.num_scored, remote.num_rejected) == (6, 1)
    check_same(s3, f"out{suffix}", tmp_path / "local")
    assert score(replace(options, out=url(f"out{suffix}"))).num_new == 0


@pytest.mark.parametrize("format", mostly_slow(["npy", "parquet", "birder-csv", "birder-parquet"]))
def test_embeddings_are_those_of_a_local_run_and_are_scored_from_there(
    tmp_path: Path, s3: Any, small_tower: Path, plain_head: Path, format: Any
) -> None:
    source = make_photos(tmp_path / "photos")
    (tmp_path / "local").mkdir()
    options = embed_options(str(source), tmp_path / "local" / "out", small_tower, shard_rows=3, format=format)
    embed(options)
    embed(replace(options, out=url("out")))
    check_same(s3, "out", tmp_path / "local")
    (source / "p7.png").write_bytes(picture_bytes(7, "PNG"))
    (source / "p2.png").unlink()
    for out in (str(tmp_path / "local" / "out"), url("out")):
        assert embed(replace(options, out=out, vanished="keep")).num_new == 1
    check_same(s3, "out", tmp_path / "local")
    if format == "npy":  # markers, inputs and rejects beside the arrays are no embeddings
        found = score(ScoreOptions(sources=(url("out"),), out=url("scores"), heads=(str(plain_head),), space_check="off"))
        assert (found.num_scored, found.num_rejected) == (7, 0)


@pytest.mark.parametrize("suffix", mostly_slow(SUFFIXES))
def test_an_interrupted_run_goes_on_from_the_bucket(tmp_path: Path, s3: Any, small_head: Path, suffix: str) -> None:
    source = make_arrays(tmp_path / "in")
    (tmp_path / "local").mkdir()
    score(job(source, str(tmp_path / "local" / f"out{suffix}"), small_head))
    options, seen = job(source, url(f"out{suffix}"), small_head), []

    def stop(rows: int, num_bytes: int) -> None:
        seen.append(rows)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(options, on_progress=stop)
    work = f"out{suffix}.partial" if suffix else "out"
    left = stored(s3, work)
    assert not [key for key in left if ".lease" in key]
    assert [key for key in left if SEGMENT.fullmatch(key.removeprefix(f"{work}/"))], "what is finished is in the index"
    told: list[tuple[int, int]] = []
    summary = score(options, on_resume=lambda shards, rows: told.append((shards, rows)))
    assert told[0][0] >= 2
    assert summary.num_new == 90 - told[0][1]
    check_same(s3, f"out{suffix}", tmp_path / "local")


def command(options: ScoreOptions) -> list[str]:
    named = ["score", *options.sources, "-o", str(options.out), "--head", options.heads[0]]
    return [*named, "--shard-rows", str(options.shard_rows), "--threads", "1"]


def points_of(suffix: str) -> list[str]:
    others = OF_GROWTH | ONLY_HERE | OF_KEPT | (OF_ONE_FILE if not suffix else {"index written"})
    return [name for name in POINTS if name not in others]


CRASHES = [("", point) for point in points_of("")] + [
    (".parquet", point) for point in points_of(".parquet") if point in OF_ONE_FILE
]
QUICK = [(".parquet", "shard placed")]


@pytest.mark.parametrize(
    ("suffix", "point"), [*QUICK, *(pytest.param(*one, marks=pytest.mark.slow) for one in CRASHES if one not in QUICK)]
)
def test_a_run_that_dies_anywhere_is_finished_by_the_next(
    tmp_path: Path, s3: Any, small_head: Path, suffix: str, point: str
) -> None:
    source = make_arrays(tmp_path / "in")
    (tmp_path / "local").mkdir()
    score(job(source, str(tmp_path / "local" / f"out{suffix}"), small_head))
    options = job(source, url(f"out{suffix}"), small_head)
    died = beholder(*command(options), env={**os.environ, "BEHOLDER_CRASH_AT": point})
    assert died.returncode == 137, died.stderr
    done = beholder(*command(options))
    assert done.returncode == 3, done.stderr
    check_same(s3, f"out{suffix}", tmp_path / "local")


@pytest.mark.soak
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_grown_run_that_dies_anywhere_is_finished_by_the_next(
    tmp_path: Path, s3: Any, small_tower: Path, plain_head: Path, suffix: str
) -> None:
    source = make_photos(tmp_path / "photos")
    (tmp_path / "local").mkdir()
    name = f"out{suffix}"
    options = score_options(str(source), url(name), small_tower, plain_head, shard_rows=3, keep_embeddings=True)
    score(options)
    before = stored(s3)
    (source / "p1.png").write_bytes(picture_bytes(70, "PNG"))
    (source / "p3.png").unlink()
    (source / "p8.png").write_bytes(picture_bytes(8, "PNG"))
    score(replace(options, out=str(tmp_path / "local" / name)))
    line = [*command(options), "--backbone", str(small_tower), "--device", "cpu", "--precision", "fp32", "--workers", "0"]
    opening = {"result opened", "opened result set aside"}
    points = OF_GROWTH - opening | {"shard placed"} if not suffix else opening | OF_KEPT | {"shards removed"}
    reached = set()
    for point in sorted(points):
        for key in stored(s3):
            s3.delete_object(Bucket=BUCKET, Key=key)
        for key, data in before.items():
            s3.put_object(Bucket=BUCKET, Key=key, Body=data)
        died = beholder(*line, "--keep-embeddings", env={**os.environ, "BEHOLDER_CRASH_AT": point})
        assert died.returncode in (3, 137), died.stderr
        reached |= {point} if died.returncode == 137 else set()
        done = beholder(*line, "--keep-embeddings")
        assert done.returncode == 3, (point, done.stderr)
        check_same(s3, name, tmp_path / "local")
    assert points - reached <= {"shard adopted"}


@pytest.mark.soak
@pytest.mark.parametrize(("suffix", "num_kills", "shard_rows"), [(".csv", 8, 5), *((suffix, 20, 1) for suffix in SUFFIXES)])
def test_a_run_that_is_killed_again_and_again_comes_to_the_same_bytes(
    tmp_path: Path, s3: Any, small_head: Path, suffix: str, num_kills: int, shard_rows: int
) -> None:
    source = make_arrays(tmp_path / "in")
    (tmp_path / "local").mkdir()
    score(job(source, str(tmp_path / "local" / f"out{suffix}"), small_head, shard_rows=shard_rows))
    options, chance = job(source, url(f"out{suffix}"), small_head, shard_rows=shard_rows), random.Random(3)
    for _ in range(num_kills):
        running = start(*command(options))
        time.sleep(chance.uniform(0.3, 2.5))
        running.kill()
        running.wait(timeout=30)
    assert beholder(*command(options)).returncode == 3
    check_same(s3, f"out{suffix}", tmp_path / "local")


def test_a_second_run_is_refused_in_one_line(tmp_path: Path, s3: Any, small_head: Path) -> None:
    source = make_arrays(tmp_path / "in")
    options = job(source, url("out"), small_head)
    with RunFolder(url("out")).locked():
        refused = beholder(*command(options))
        assert refused.returncode == 1
        (line,) = [line for line in refused.stderr.splitlines() if "another run" in line]
        assert re.search(
            rf"another run is writing s3://data/out \(process {os.getpid()} of .* on .*, since 20.*\); wait for", line
        )
        assert [key for key in stored(s3, "out/") if ".lease" not in key] == []
    assert score(options).num_new == 90
    assert not [key for key in stored(s3, "out/") if ".lease" in key]


@pytest.mark.parametrize("suffix", mostly_slow([".parquet", "", ".csv"], quick=0))
def test_two_runs_at_once_come_to_the_right_result_all_the_same(tmp_path: Path, s3: Any, small_head: Path, suffix: str) -> None:
    """The lock is taken away under the first one, and the second one works and ends in its middle."""
    source = make_arrays(tmp_path / "in")
    (tmp_path / "local").mkdir()
    score(job(source, str(tmp_path / "local" / f"out{suffix}"), small_head))
    options, inner, calls = job(source, url(f"out{suffix}"), small_head), [], Counter[str]()

    def meanwhile(rows: int, num_bytes: int) -> None:
        calls["all"] += 1
        if calls["all"] == 3:
            s3.delete_object(Bucket=BUCKET, Key=f"out{suffix}.partial/.lease" if suffix else "out/.lease")
            inner.append(score(options))

    outer = score(options, on_progress=meanwhile)
    assert (outer.num_read, inner[0].num_read) == (90, 90)
    assert outer.to_json()["scores"] == inner[0].to_json()["scores"]
    check_same(s3, f"out{suffix}", tmp_path / "local")
    assert score(options).num_new == 0


@pytest.mark.slow
def test_a_shard_that_is_damaged_in_the_bucket_is_done_again(tmp_path: Path, s3: Any, small_head: Path) -> None:
    source = make_arrays(tmp_path / "in")
    (tmp_path / "local").mkdir()
    score(job(source, str(tmp_path / "local" / "out"), small_head))
    options = job(source, url("out"), small_head)
    score(options)
    whole = stored(s3)
    scores = sorted(key for key in whole if key.startswith("out/scores/"))
    markers = sorted(key for key in whole if key.startswith("out/done/e"))
    s3.put_object(Bucket=BUCKET, Key=scores[0], Body=whole[scores[0]][:-1])
    data = bytearray(whole[scores[1]])
    data[200] ^= 1
    s3.put_object(Bucket=BUCKET, Key=scores[1], Body=bytes(data))  # of the same size
    s3.delete_object(Bucket=BUCKET, Key=scores[2])
    s3.put_object(Bucket=BUCKET, Key=markers[3], Body=b"{}")
    summary = score(options)
    assert len(summary.damaged) == 4
    check_same(s3, "out", tmp_path / "local")
    assert score(options).damaged == []


@pytest.mark.parametrize("suffix", mostly_slow(["", ".parquet"], quick=0))
def test_overwrite_in_a_bucket(tmp_path: Path, s3: Any, small_head: Path, suffix: str) -> None:
    source = make_arrays(tmp_path / "in")
    (tmp_path / "local").mkdir()
    s3.put_object(Bucket=BUCKET, Key="out/scores/notes.txt", Body=b"mine")
    options = job(source, url(f"out{suffix}"), small_head)
    if not suffix:
        with pytest.raises(OutputError, match="s3://data/out already exists and is not a beholder run"):
            score(options)
        with pytest.raises(OutputError, match="is not a beholder run, so --overwrite leaves it alone"):
            score(replace(options, overwrite=True))
        s3.delete_object(Bucket=BUCKET, Key="out/scores/notes.txt")
    score(replace(options, shard_rows=7))
    s3.put_object(Bucket=BUCKET, Key="out/scores/notes.txt", Body=b"mine")
    with pytest.raises(OutputError, match="--shard-rows was 7, now it is 20"):
        score(options)
    assert score(replace(options, overwrite=True)).num_new == 90
    assert s3.get_object(Bucket=BUCKET, Key="out/scores/notes.txt")["Body"].read() == b"mine"
    s3.delete_object(Bucket=BUCKET, Key="out/scores/notes.txt")
    score(job(source, str(tmp_path / "local" / f"out{suffix}"), small_head))
    check_same(s3, f"out{suffix}", tmp_path / "local")


@pytest.mark.slow
def test_a_folder_that_an_earlier_version_uploaded_is_read_but_not_continued(tmp_path: Path, s3: Any, small_head: Path) -> None:
    """It had the record of a finished result, a zip in place of done-markers, and the shards."""
    source = make_arrays(tmp_path / "in")
    (tmp_path / "local").mkdir()
    out = tmp_path / "local" / "out"
    score(job(source, str(out), small_head))
    whole = local_files(out)
    record = json.loads(whole["beholder.json"])
    del record["sha256"]
    record["result"] = json.loads(whole["done/e0-from-000000000000.json"])["result"] | {"files": {}}
    put_folder(s3, out / "scores", "out/scores")
    put_folder(s3, out / "rejects", "out/rejects")
    s3.put_object(Bucket=BUCKET, Key="out/beholder.json", Body=json.dumps(record).encode())
    before = stored(s3)
    options = job(source, url("out"), small_head)
    for _ in range(2):
        with pytest.raises(
            OutputError, match="was finished by an earlier version.*use --overwrite to make it again, or another"
        ) as e:
            score(options)
        assert "\n" not in str(e.value)
    assert stored(s3) == before
    assert len(chosen(url("out"), tmp_path)) == 87
    assert score(replace(options, overwrite=True)).num_new == 90
    check_same(s3, "out", tmp_path / "local")


def chosen(place: str, tmp_path: Path) -> pl.DataFrame:
    """All rows of a score set, by `beholder select`."""
    found = beholder("select", place, "-o", str(tmp_path / "kept.csv"), "--top", "1000000", "--overwrite")
    assert found.returncode == 0, found.stderr
    return pl.read_csv(tmp_path / "kept.csv")


@pytest.mark.slow
def test_readers_take_nothing_of_the_runs_own_for_results(tmp_path: Path, s3: Any, small_head: Path) -> None:
    """While a run works in a bucket, and after it."""
    source = make_arrays(tmp_path / "in")
    score(job(source, url("sets/out"), small_head))
    folder = RunFolder(url("sets/out"))
    place = folder.new_place_aside()
    aside = folder.set_aside([folder.marked_shard("e0-from-000000000000")], place)
    assert aside[0].folder == url("sets/out/_earlier/00000")
    with folder.locked():
        for name in ("sets/out", "sets/out/scores", "sets"):
            assert len(chosen(url(name), tmp_path)) == 87 - 19
    rejects = beholder("rejects", url("sets/out"))
    assert rejects.returncode == 0
    assert "2" in rejects.stdout
    refused = beholder("score", url("sets"), "-o", str(tmp_path / "no"), "--head", str(small_head))
    assert refused.returncode == 1
    assert "holds scores and no embeddings" in refused.stderr


@pytest.fixture
def listings(s3: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The server gives 20 names a listing; the requests that it was sent, as its own log has them."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "20")
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("werkzeug"), Keep()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    monkeypatch.setattr(logger, "level", logging.INFO)
    yield lines  # type: ignore[misc]
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.mark.slow
def test_a_resumed_run_lists_and_opens_nothing_of_finished_shards(
    tmp_path: Path, s3: Any, small_head: Path, listings: list[str]
) -> None:
    source = make_arrays(tmp_path / "in", 90)
    score(job(source, str(tmp_path / "out"), small_head, shard_rows=1))
    for name, data in local_files(tmp_path / "out").items():
        if not SEGMENT.fullmatch(name):
            _put_quickly(f"out/{name}", data)
    options = job(source, url("out"), small_head, shard_rows=1)
    num_objects = 90 + 90 + 3 + 1 + 2  # scores, markers, rejects, the record; the index and the lease
    assert score(options).num_new == 0
    listings.clear()
    summary = score(options)
    assert (summary.num_new, summary.num_read, summary.damaged) == (0, 90, [])
    assert len([line for line in listings if "prefix=out/&delimiter=&" in line]) == -(-num_objects // 20)
    assert not [line for line in listings if re.search(r"/out/(scores|done/e)", line)], "no shard is opened"
    assert len(listings) < -(-num_objects // 20) + 25, listings


def _put_quickly(key: str, data: bytes) -> None:
    """Into the server's memory, which is of this process."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(BUCKET, key, data)
