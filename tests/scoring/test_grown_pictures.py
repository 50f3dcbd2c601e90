"""Pictures that are new, changed, touched or gone since they were scored: only new work is done, as if from scratch."""

from __future__ import annotations

import csv
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beholder.errors import InputError, OutputError
from beholder.io import locations
from beholder.scoring.score import embed, score
from beholder.scoring.summary import RunSummary
from oracles.picture_jobs import embed_options, picture_bytes, score_options
from oracles.program import beholder, python
from oracles.result_bytes import check_same, result_of
from oracles.tar_making import tar
from oracles.tiers import mostly_slow

Job = Callable[..., RunSummary]
SUFFIXES = ("", ".parquet", ".csv")
MOST = ("", ".parquet", pytest.param(".csv", marks=pytest.mark.soak))
"""CSV is rebuilt as Parquet is; the first test has it as well."""


def make(folder: Path, numbers: range) -> Path:
    """Pictures p000.png, ... of their numbers' seeds; every seventh is none inside."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        data = b"no picture" if number % 7 == 5 else picture_bytes(number, "PNG", (20 + number, 30))
        (folder / f"p{number:03}.png").write_bytes(data)
    return folder


def touch(path: Path, seconds: int = 5) -> None:
    """Another time, the same contents."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


def same_size(path: Path) -> None:
    """Other contents of the same size, at another time."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    touch(path, 7)


@pytest.fixture
def scoring(tmp_path: Path, small_tower: Path, plain_head: Path) -> Job:
    """score(sources, out, options): with one decoder in this process, shards of 4 pictures."""

    def job(sources: Any, out: Path, **more: Any) -> RunSummary:
        given = str(sources) if isinstance(sources, Path) else sources
        return score(score_options(given, out, small_tower, plain_head, **{"workers": 0, "shard_rows": 4, **more}))

    return job


@pytest.fixture
def embedding(small_tower: Path) -> Job:
    """embed(sources, out, options)."""

    def job(sources: Any, out: Path, **more: Any) -> RunSummary:
        given = str(sources) if isinstance(sources, Path) else sources
        return embed(embed_options(given, out, small_tower, **{"workers": 0, "shard_rows": 4, **more}))

    return job


def numbers(summary: RunSummary) -> tuple[int, int, int, int]:
    """Pictures: read, computed by this run, of these known and changed; vanished."""
    return summary.num_read, summary.num_new, summary.num_changed, summary.num_vanished


def check(job: Job, sources: Any, out: Path, expected: tuple[int, int, int, int], **more: Any) -> None:
    """Run again: these numbers, and the result of a run from scratch; and nothing more to do then."""
    found = job(sources, out, **more)
    assert numbers(found) == expected
    scratch = out.parent / "scratch" / out.name
    shutil.rmtree(scratch.parent, ignore_errors=True)
    whole = job(sources, scratch, **more)
    check_same(out, scratch)
    assert (found.stats, found.traits, found.reasons) == (whole.stats, whole.traits, whole.reasons)
    assert numbers(job(sources, out, **more)) == (expected[0], 0, 0, 0)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_a_folder_that_has_changed_in_every_way(tmp_path: Path, scoring: Job, suffix: str, workers: int) -> None:
    photos, out = make(tmp_path / "photos", range(10, 24)), tmp_path / f"out{suffix}"
    more = {"keep_embeddings": True, "workers": workers}
    scoring(photos, out, **more)
    make(photos, range(8, 10))  # before
    make(photos / "p015.d", range(3))  # in between
    make(photos, range(30, 36))  # behind, beyond a shard
    (photos / "p011.png").unlink()
    (photos / "p020.png").unlink()
    (photos / "p013.png").rename(photos / "q.png")
    touch(photos / "p014.png")
    touch(photos / "p012.png")  # no picture inside, still
    same_size(photos / "p021.png")
    (photos / "p022.png").write_bytes(picture_bytes(99))
    check(scoring, photos, out, (14 + 11 - 2, 11 + 1 + 2, 2, 3), **more)


@pytest.mark.parametrize("suffix", mostly_slow(MOST))
def test_one_small_change_after_the_other(tmp_path: Path, scoring: Job, suffix: str) -> None:
    photos, out = make(tmp_path / "photos", range(6)), tmp_path / f"out{suffix}"
    scoring(photos, out)
    make(photos, range(6, 7))
    check(scoring, photos, out, (7, 1, 0, 0))
    (photos / "p000.png").unlink()
    check(scoring, photos, out, (6, 0, 0, 1))
    touch(photos / "p003.png")
    check(scoring, photos, out, (6, 0, 0, 0))
    (photos / "p005.png").write_bytes(picture_bytes(5))  # was no picture
    check(scoring, photos, out, (6, 1, 1, 0))
    make(photos, range(1))
    check(scoring, photos, out, (7, 1, 0, 0))


FORMATS: list[Any] = [
    ("", {}),
    pytest.param("", {"dtype": "float32", "normalise": False}, marks=pytest.mark.soak),
    ("", {"format": "parquet"}),
    pytest.param("", {"format": "birder-csv"}, marks=pytest.mark.soak),
    pytest.param(".parquet", {"dtype": "float32"}, marks=pytest.mark.soak),
    (".parquet", {"format": "birder-parquet"}),
    (".csv", {}),
]


@pytest.mark.parametrize(("suffix", "more"), mostly_slow(FORMATS, quick=2), ids=str)
def test_embeddings_in_every_layout(tmp_path: Path, embedding: Job, suffix: str, more: dict[str, Any]) -> None:
    photos, out = make(tmp_path / "photos", range(10, 20)), tmp_path / f"out{suffix}"
    embedding(photos, out, **more)
    make(photos, range(7, 10))
    (photos / "p014.png").unlink()
    touch(photos / "p013.png")
    same_size(photos / "p016.png")
    check(embedding, photos, out, (12, 4, 1, 1), **more)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", mostly_slow(MOST))
def test_a_list_is_put_in_another_order_and_its_files_change(tmp_path: Path, scoring: Job, suffix: str) -> None:
    photos, out = make(tmp_path / "photos", range(10)), tmp_path / f"out{suffix}"
    names = [str(path) for path in sorted(photos.iterdir())]
    listed = tmp_path / "list.txt"

    def write(order: list[str]) -> None:
        listed.write_text("\n".join(order) + "\n")

    write([*names, names[2], str(photos / "gone.png")])
    assert scoring(listed, out).num_new == 12
    write(names[::-1])
    check(scoring, listed, out, (10, 0, 0, 1))
    write([names[4], *names[3:], names[4], names[0]])
    check(scoring, listed, out, (10, 0, 0, 2))
    same_size(Path(names[6]))  # the list is as it was
    touch(Path(names[7]))
    check(scoring, listed, out, (10, 1, 1, 0))


def test_a_result_that_cannot_be_replaced_is_told_of_and_nothing_is_lost(
    tmp_path: Path, scoring: Job, small_tower: Path, plain_head: Path
) -> None:
    """The list, which is the input, stays as it was, and so does the finished result, which is not that of this run."""
    photos, out = make(tmp_path / "photos", range(3)), tmp_path / "out.csv"
    (tmp_path / "list.txt").write_text("".join(f"{photos}/p00{number}.png\n" for number in range(3)))
    scoring(tmp_path / "list.txt", out)
    before = out.read_bytes()
    (photos / "p001.png").write_bytes(b"no picture")
    rejects = Path(f"{out}.rejects.parquet")

    def stand_in_the_way(rows: int, num_bytes: int) -> None:
        rejects.mkdir(exist_ok=True)

    options = score_options(str(tmp_path / "list.txt"), out, small_tower, plain_head, shard_rows=4)
    with pytest.raises(OutputError, match=r"out\.csv\.rejects\.parquet"):
        score(options, on_progress=stand_in_the_way)
    assert out.read_bytes() == before
    rejects.rmdir()
    found = scoring(tmp_path / "list.txt", out)
    again = scoring(tmp_path / "list.txt", out)
    assert [(one.num_new, one.num_scored, one.num_rejected) for one in (found, again)] == [(0, 2, 1)] * 2


def test_a_missing_file_of_a_list_comes(tmp_path: Path, scoring: Job) -> None:
    photos = make(tmp_path / "photos", range(3))
    (tmp_path / "list.txt").write_text(f"{photos}/p000.png\n{photos}/p004.png\n")
    for out in (tmp_path / "out", tmp_path / "out.parquet"):
        (photos / "p004.png").unlink(missing_ok=True)
        assert scoring(tmp_path / "list.txt", out).reasons == {"missing": 1}
        make(photos, range(4, 5))
        check(scoring, tmp_path / "list.txt", out, (2, 1, 1, 0))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("suffix", mostly_slow(MOST))
def test_a_table_gets_other_captions_and_columns(tmp_path: Path, scoring: Job, kind: str, suffix: str) -> None:
    photos, out, table = make(tmp_path / "photos", range(9)), tmp_path / f"out{suffix}", tmp_path / f"table.{kind}"

    def write(chosen: range, **columns: Any) -> None:
        rows = pa.table({"image_path": [f"{photos}/p{number:03}.png" for number in chosen], **columns})
        if kind == "parquet":
            pq.write_table(rows, table)
        else:
            import pyarrow.csv

            pyarrow.csv.write_csv(rows, table)

    write(range(6), caption=[f"a, {i}" for i in range(6)], n=range(6))
    assert scoring(table, out).num_new == 6
    write(range(6), caption=[f"b, {i}" for i in range(6)], n=range(6))
    check(scoring, table, out, (6, 0, 0, 0))
    write(range(2, 9), caption=[f"c, {i}" for i in range(7)], n=[i / 2 for i in range(7)], more=["x"] * 7)
    check(scoring, table, out, (7, 3, 0, 2))


@pytest.mark.parametrize("suffix", mostly_slow(MOST))
def test_a_glob_and_pictures_named_one_by_one(tmp_path: Path, scoring: Job, suffix: str) -> None:
    photos, out = make(tmp_path / "photos", range(10, 16)), tmp_path / f"out{suffix}"
    glob = f"{photos}/*.png"
    scoring(glob, out)
    make(photos, range(8, 10))
    (photos / "p011.png").unlink()
    check(scoring, glob, out, (7, 2, 0, 1))
    one_by_one = tuple(str(path) for path in sorted(photos.iterdir())[1:])
    check(scoring, one_by_one, out, (6, 0, 0, 1))


def write_tar(path: Path, chosen: range, **fields: Any) -> None:
    members = []
    for number in chosen:
        data = b"none" if number % 7 == 5 else picture_bytes(number)
        members += [(f"{number:03}.jpg", data), (f"{number:03}.txt", f"caption {number}".encode())]
        if fields:
            members.append((f"{number:03}.json", ("{" + ", ".join(f'"{k}": {v}' for k, v in fields.items()) + "}").encode()))
    path.write_bytes(tar(members))


@pytest.mark.parametrize(
    ("command", "suffix", "more"),
    mostly_slow(
        [
            ("score", "", {"keep_embeddings": True}),
            ("score", ".parquet", {"keep_embeddings": True}),
            pytest.param("score", ".csv", {}, marks=pytest.mark.soak),
            ("embed", "", {}),
            ("embed", "", {"format": "birder-parquet"}),
            pytest.param("embed", ".parquet", {}, marks=pytest.mark.soak),
            pytest.param("embed", ".csv", {}, marks=pytest.mark.soak),
        ],
        quick=1,
    ),
)
def test_tars_that_come_and_go(
    tmp_path: Path, scoring: Job, embedding: Job, command: str, suffix: str, more: dict[str, Any]
) -> None:
    job = {"score": scoring, "embed": embedding}[command]
    tars, out = tmp_path / "tars", tmp_path / f"out{suffix}"
    tars.mkdir()
    write_tar(tars / "b.tar", range(4))
    write_tar(tars / "c.tar", range(4, 7))
    write_tar(tars / "d.tar", range(7, 9))
    job(tars, out, **more)
    write_tar(tars / "a.tar", range(10, 13))  # files of clip-retrieval's layout get other numbers
    check(job, tars, out, (12, 3, 0, 0), **more)
    (tars / "c.tar").unlink()
    check(job, tars, out, (9, 0, 0, 3), **more)
    write_tar(tars / "d.tar", range(7, 10))
    check(job, tars, out, (10, 3, 2, 0), **more)
    write_tar(tars / "e.tar", range(20, 21), n=1)  # a column that no other has
    check(job, tars, out, (11, 1, 0, 0), **more)


def write_zip(path: Path, chosen: range, packing: int = zipfile.ZIP_STORED, changed: int = 0) -> None:
    """Pictures 000.png, ... of their numbers' seeds; every seventh is none inside."""
    with zipfile.ZipFile(path, "w", packing) as archive:
        for number in chosen:
            data = b"none" if number % 7 == 5 else picture_bytes(number + changed, "PNG")
            archive.writestr(f"{number:03}.png", data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "packing"),
    mostly_slow([("", zipfile.ZIP_STORED), (".parquet", zipfile.ZIP_DEFLATED), (".csv", zipfile.ZIP_STORED)], 2, slow=0),
)
def test_zips_that_grow_shrink_and_are_touched(tmp_path: Path, scoring: Job, suffix: str, packing: int) -> None:
    """A zip that was written anew is done anew; one that is as it was is not."""
    folder, out = tmp_path / "zips", tmp_path / f"out{suffix}"
    folder.mkdir()
    write_zip(folder / "b.zip", range(6), packing)
    write_zip(folder / "c.zip", range(6, 9), packing)
    assert scoring(folder, out).num_new == 9
    touch(folder / "b.zip")
    write_zip(folder / "a.zip", range(20, 22), packing)
    check(scoring, folder, out, (11, 2, 0, 0))
    write_zip(folder / "c.zip", range(6, 11), packing)
    check(scoring, folder, out, (13, 5, 3, 0))
    write_zip(folder / "b.zip", range(4), packing)
    check(scoring, folder, out, (11, 4, 4, 2))
    write_zip(folder / "a.zip", range(20, 22), packing, changed=50)
    check(scoring, folder, out, (11, 2, 2, 0))
    (folder / "c.zip").unlink()
    check(scoring, folder, out, (6, 0, 0, 5))
    check(scoring, folder / "b.zip", out, (4, 0, 0, 2))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", mostly_slow(MOST))
def test_parquet_files_with_pictures(tmp_path: Path, scoring: Job, suffix: str) -> None:
    folder, out = tmp_path / "packed", tmp_path / f"out{suffix}"
    folder.mkdir()

    def write(name: str, chosen: range, caption: str = "x") -> None:
        rows = {"image": [picture_bytes(number) for number in chosen], "key": [f"k{number}" for number in chosen]}
        pq.write_table(pa.table({**rows, "caption": [caption] * len(chosen)}), folder / name, row_group_size=3)

    write("b.parquet", range(9))
    write("c.parquet", range(9, 12))
    scoring(folder, out)
    write("a.parquet", range(12, 14))
    check(scoring, folder, out, (14, 2, 0, 0))
    write("c.parquet", range(9, 12), "y")
    check(scoring, folder, out, (14, 3, 3, 0))
    (folder / "b.parquet").unlink()
    check(scoring, folder, out, (5, 0, 0, 9))


@pytest.mark.parametrize("suffix", mostly_slow(MOST))
def test_rejects_of_a_passing_matter_are_tried_again_one_by_one(tmp_path: Path, scoring: Job, suffix: str) -> None:
    """A web address that nobody answers at, later that somebody does."""
    import http.server
    import threading

    photos, out = make(tmp_path / "photos", range(3)), tmp_path / f"out{suffix}"

    class Handler(http.server.SimpleHTTPRequestHandler):
        is_up = False

        def do_GET(self) -> None:
            if not Handler.is_up:
                self.send_error(404)
                return
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, directory=str(photos), **more)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        web = f"http://127.0.0.1:{server.server_port}/p002.png"
        (tmp_path / "list.txt").write_text(f"{photos}/p000.png\n{photos}/p001.png\n{web}\n")
        assert scoring(tmp_path / "list.txt", out).reasons == {"missing": 1}
        Handler.is_up = True
        assert scoring(tmp_path / "list.txt", out).num_new == 0
        retried = scoring(tmp_path / "list.txt", out, retry_rejects=True)
        assert (retried.num_new, retried.num_retried, retried.num_rejected) == (1, 1, 0)
        scoring(tmp_path / "list.txt", tmp_path / "scratch" / out.name)
        check_same(out, tmp_path / "scratch" / out.name)
        server.shutdown()


@pytest.mark.parametrize("suffix", MOST)
def test_results_of_other_pictures_are_not_replaced(tmp_path: Path, scoring: Job, suffix: str) -> None:
    photos, others = make(tmp_path / "a" / "photos", range(5)), make(tmp_path / "b" / "photos", range(5))
    out = tmp_path / f"out{suffix}"
    scoring(photos, out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(OutputError, match=r"none of them is of the inputs now; use --overwrite .*or another output"):
        scoring(others, out)
    shutil.rmtree(others)
    others.mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        scoring(others, out)
    for path in photos.iterdir():
        path.unlink()
    with pytest.raises(InputError, match="holds no pictures"):
        scoring(photos, out)
    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert left == {path: data for path, data in before.items() if "photos" not in path.parts}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", mostly_slow([".parquet", ".csv"]))
def test_a_finished_file_without_what_it_was_made_of_says_so(tmp_path: Path, scoring: Job, suffix: str) -> None:
    photos, out = make(tmp_path / "photos", range(5)), tmp_path / f"out{suffix}"
    scoring(photos, out)
    inputs = tmp_path / f"out{suffix}.inputs"
    whole = inputs.read_bytes()
    for damage in (None, whole[:-10], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        inputs.unlink() if damage is None else inputs.write_bytes(damage)
        assert scoring(photos, out).num_new == 0
        make(photos, range(8, 9))
        for _ in range(2):
            with pytest.raises(OutputError, match=r"was made from other inputs, and .*\.inputs, .*use --overwrite"):
                scoring(photos, out)
            out.with_name(out.name + ".partial").mkdir(exist_ok=True)  # of a run that was killed early
        (photos / "p008.png").unlink()
    inputs.write_bytes(whole)
    make(photos, range(8, 9))
    check(scoring, photos, out, (6, 1, 0, 0))


@pytest.mark.slow
def test_the_command_says_what_was_new(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    photos = make(tmp_path / "photos", range(4))
    line = ["score", str(photos), "-o", str(tmp_path / "out.csv"), "--backbone",
            str(small_tower), "--head", str(plain_head), "--precision", "fp32", "--device", "cpu", "-j", "0"]  # fmt: skip

    def said(*more: str) -> str:
        return beholder(*line, *more, check=True).stdout

    assert "before" not in said()
    make(photos, range(6, 8))
    (photos / "p000.png").unlink()
    assert "\npictures: 2 new, 1 vanished, 3 scored before\n" in "\n" + said()
    (photos / "p001.png").unlink()
    found = json.loads(said("--vanished", "keep", "--json"))
    counts = [found[f"num_{word}"] for word in ("read", "new", "changed", "vanished", "retried", "vanished_kept")]
    assert counts == [5, 0, 0, 1, 0, 1]


def test_somebody_elses_file_is_not_replaced(tmp_path: Path, scoring: Job) -> None:
    photos, mine = make(tmp_path / "photos", range(2)), tmp_path / "out.csv.inputs"
    mine.write_text("mine")
    with pytest.raises(OutputError, match=r"out\.csv\.inputs is in the way"):
        scoring(photos, tmp_path / "out.csv")
    assert mine.read_text() == "mine"


def test_other_options_are_refused_still(tmp_path: Path, scoring: Job) -> None:
    photos = make(tmp_path / "photos", range(5))
    for suffix in SUFFIXES:
        scoring(photos, tmp_path / f"out{suffix}")
    make(photos, range(6, 7))
    for suffix in SUFFIXES:
        with pytest.raises(OutputError, match='--preset was "reference", now it is "upright"'):
            scoring(photos, tmp_path / f"out{suffix}", preset="upright")


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Rows of all score files in the order in which they are read, each by column."""
    if out.suffix == ".csv":
        with out.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    found = [out] if out.suffix else sorted((out / "scores").iterdir(), key=lambda path: locations.natural_key(str(path)))
    return [row for path in found for row in pq.read_table(path).to_pylist()]


def kept_rows(folder: Path) -> dict[str, bytes]:
    """Kept embeddings by sample, in order."""
    rows: dict[str, bytes] = {}
    for path in sorted((folder / "img_emb").iterdir()):
        names = pq.read_table(folder / "metadata" / f"metadata_{path.stem[-5:]}.parquet")["sample"].to_pylist()
        rows |= dict(zip(names, map(np.ndarray.tobytes, np.load(path)), strict=True))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("suffix", mostly_slow(MOST))
def test_vanished_pictures_can_be_kept(tmp_path: Path, scoring: Job, suffix: str) -> None:
    photos, out = make(tmp_path / "photos", range(4, 12)), tmp_path / f"out{suffix}"
    embeddings = tmp_path / f"out{suffix}.embeddings" if suffix else out / "embeddings"
    scoring(photos, out, keep_embeddings=True)
    before, kept_before = {row["sample"]: row for row in rows_of(out)}, kept_rows(embeddings)
    gone = [str(photos / f"p{number:03}.png") for number in (5, 8)]  # the first of them is no picture inside
    for path in gone:
        Path(path).unlink()
    make(photos, range(20, 21))
    expected = [before[name] for name in gone if name in before]
    for _ in range(2):
        kept = scoring(photos, out, keep_embeddings=True, vanished="keep")
        assert (kept.num_read, kept.num_kept, kept.num_rejected) == (9, 2, 1)
        assert rows_of(out)[-len(expected) :] == expected
        assert len(rows_of(out)) == (9 if suffix == ".csv" else 8)
        assert kept_rows(embeddings)[gone[1]] == kept_before[gone[1]] == list(kept_rows(embeddings).values())[-1]
    Path(gone[1]).write_bytes(picture_bytes(8, "PNG", (28, 30)))
    back = scoring(photos, out, keep_embeddings=True, vanished="keep")
    assert (back.num_read, back.num_new, back.num_kept) == (9, 0, 1)
    check(scoring, photos, out, (8, 0, 0, 1), keep_embeddings=True)


@pytest.mark.parametrize(("suffix", "more"), FORMATS, ids=str)
def test_embeddings_of_vanished_pictures_can_be_kept(tmp_path: Path, embedding: Job, suffix: str, more: dict[str, Any]) -> None:
    photos, out = make(tmp_path / "photos", range(3)), tmp_path / f"out{suffix}"
    embedding(photos, out, **more)
    whole = result_of(out)
    (photos / "p002.png").unlink()
    kept = embedding(photos, out, vanished="keep", **more)
    assert (kept.num_read, kept.num_new, kept.num_kept, kept.num_scored) == (3, 0, 1, 3)
    if suffix:
        assert result_of(out) == whole
    assert embedding(photos, out, **more).num_read == 2


KILLED = """
import os, signal, sys
from beholder.scoring.score import score
from oracles.picture_jobs import score_options
source, out, tower, head, after = sys.argv[1:]
left = int(after)
def count(rows, num_bytes):
    global left
    left -= rows
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
score(score_options(source, out, tower, head, workers=0, shard_rows=2, keep_embeddings=True), on_progress=count)
"""


@pytest.mark.soak
@pytest.mark.parametrize("suffix", MOST)
def test_a_second_run_is_killed_and_the_folder_changes_again(
    tmp_path: Path, scoring: Job, small_tower: Path, plain_head: Path, suffix: str
) -> None:
    photos, out = make(tmp_path / "photos", range(8, 17)), tmp_path / f"out{suffix}"
    more = {"keep_embeddings": True, "shard_rows": 2}
    scoring(photos, out, **more)
    make(photos, range(6))
    (photos / "p010.png").unlink()
    killed = python("-c", KILLED, str(photos), str(out), str(small_tower), str(plain_head), "5")
    assert killed.returncode == -9, killed.stderr
    if suffix:
        assert out.is_file(), "the result stays until the new one is there"
    (photos / "p004.png").unlink()
    (photos / "p009.png").unlink()
    make(photos, range(20, 22))
    summary = scoring(photos, out, **more)
    assert summary.num_read == 14
    assert 2 <= summary.num_new <= 8, "two are new, five others had not been done for sure"
    scoring(photos, tmp_path / "scratch" / out.name, **more)
    check_same(out, tmp_path / "scratch" / out.name)


EDITS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "touch", "change", "rename", "run"]), st.integers(0, 15)),
    min_size=3,
    max_size=12,
)


@pytest.mark.soak
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS, suffix=st.sampled_from(SUFFIXES))
def test_random_edits(
    tmp_path_factory: pytest.TempPathFactory, scoring: Job, edits: list[tuple[str, int]], suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("edits")
    photos, out = make(folder / "photos", range(1, 16, 3)), folder / f"out{suffix}"
    scoring(photos, out, keep_embeddings=True)
    fresh = 100
    for edit, number in edits:
        there = sorted(photos.iterdir())
        chosen = there[number % len(there)]
        if edit == "add":
            make(photos, range(number, number + 1))
        elif edit == "remove" and len(there) > 2:
            chosen.unlink()
        elif edit == "touch":
            touch(chosen)
        elif edit == "change":
            fresh += 1
            chosen.write_bytes(picture_bytes(fresh))
        elif edit == "rename":
            chosen.rename(photos / f"r{number}.png")
        elif edit == "run":
            scoring(photos, out, keep_embeddings=True)
    scoring(photos, out, keep_embeddings=True)
    scoring(photos, folder / "scratch" / out.name, keep_embeddings=True)
    check_same(out, folder / "scratch" / out.name)
