"""New tars and Parquet files: the pictures' own bytes under their own names, read back by others' rules and by ours."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError, OutputError
from beholder.sources.fetch import ReadLimits, read_bytes
from beholder.sources.find import find_pictures
from beholder.sources.reader import SourceOptions, picture_reader
from oracles.acting import act, contents, score_table, take_back
from oracles.tar_making import base_plus_ext, png, tar

MEMBERS = [("x/0.jpg", png(0)), ("x/0.json", b'{"n": 0}'), ("x/0.txt", b"nought"), ("1.png", png(1)), ("1.seg.png", png(2)),
           ("1.cls", b"7"), ("2.npy", b"array"), ("2.webp", png(3)), ("é.jpg", png(4))]  # fmt: skip
TAR_SAMPLES = ["t.tar/x/0", "t.tar/1", "t.tar/1.seg.png", "t.tar/2", "t.tar/é"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def members(path: Path) -> list[tuple[str, bytes]]:
    """By Python's tarfile."""
    with tarfile.open(path) as archive:
        return [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]


def grouped(path: Path) -> list[dict[str, Any]]:
    """By webdataset's rule (group_by_keys in webdataset/tariterators.py), transcribed."""
    samples: list[dict[str, Any]] = []
    for name, data in members(path):
        prefix, suffix = base_plus_ext(name)
        assert prefix is not None
        assert suffix is not None
        if not samples or samples[-1]["__key__"] != prefix:
            samples.append({"__key__": prefix})
        assert suffix.lower() not in samples[-1], f"webdataset: duplicate file name in tar file {name}"
        samples[-1][suffix.lower()] = data
    return samples


def pictures(source: str) -> list[tuple[dict[str, Any], bytes]]:
    """By our own readers: what is said of each picture, and its bytes."""
    found = []
    for part in find_pictures([source], SourceOptions()):
        for block in picture_reader(part.kind).blocks(part, 0, None, SourceOptions()):
            found += [
                (row, read_bytes(ref, ReadLimits())) for row, ref in zip(block.labels.to_pylist(), block.refs, strict=True)
            ]
    return found


@pytest.mark.parametrize("packing", ["plain", "gz"])
def test_tars_from_tars_keep_members_as_they_are(here: Path, packing: str) -> None:
    (here / "t.tar").write_bytes(tar(MEMBERS) if packing == "plain" else gzip.compress(tar(MEMBERS)))
    table = score_table(TAR_SAMPLES, ["t.tar"], width=[10, 20, 30, 40, 50])
    planned, _ = act(table, tars="out")
    assert not (here / "out").exists()
    done, _ = act(table, tars="out", apply=True)
    assert sorted(members(here / "out" / "00000.tar")) == sorted(MEMBERS)
    assert (done.num_done, done.num_files, done.num_bytes, done.num_shards) == (5, 9, sum(len(d) for _, d in MEMBERS), 1)
    assert (planned.num_done, planned.num_files, planned.num_bytes, planned.num_shards) == (5, 9, done.num_bytes, 1)
    assert [sample["__key__"] for sample in grouped(here / "out" / "00000.tar")] == ["x/0", "1", "2", "é"]
    beside = pq.read_table(here / "out" / "00000.parquet").to_pydict()
    assert beside["key"] == ["x/0", "1", "1", "2", "é"]
    assert beside["sample"] == TAR_SAMPLES
    assert beside["aesthetic_score"] == [1, 2, 3, 4, 5]
    read = pictures("out")
    assert [data for _, data in read] == [png(i) for i in range(5)]
    assert [row["aesthetic_score"] for row, _ in read][:2] == [1.0, 2.0]
    assert read[0][0]["n"] == 0
    act(score_table(["t.tar/2", "t.tar/1.seg.png"], ["t.tar"]), tars="some", apply=True)
    assert [name for name, _ in members(here / "some" / "00000.tar")] == ["2.webp", "2.npy", "1.seg.png", "1.cls"]
    undone, _ = take_back(done.journal)
    assert undone.num_done == 5
    assert not (here / "out").exists()


def test_tars_from_folders_take_captions_along(here: Path) -> None:
    files = {"a.jpg": png(0), "a.txt": b"words", "a.jpg.json": b"{}", "b/a.png": png(1), "b/c.d.jpg": png(2),
             "b/c.d.txt": b"dots", "b/c.e.jpg": png(3), "b/no suffix": png(4), "b/c_d.jpg": png(5),
             "-x.webp": png(6), "n\nl.jpg": png(7), "ö/" + "z" * 120 + ".jpg": png(8)}  # fmt: skip
    for name, data in files.items():
        (here / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "photos" / name).write_bytes(data)
    samples = [f"photos/{name}" for name in files if not name.endswith(("txt", "json"))]
    done, _ = act(score_table(samples, ["photos"]), tars="out", apply=True)
    expected = {
        "a.jpg": png(0), "a.txt": b"words", "a.jpg.json": b"{}", "b/a.png": png(1), "b/c_d.jpg": png(2), "b/c_d.txt": b"dots",
        "b/c_e.jpg": png(3), "b/no suffix.png": png(4), "b/c_d_2.jpg": png(5), "-x.webp": png(6), "n\nl.jpg": png(7),
        "ö/" + "z" * 120 + ".jpg": png(8),
    }  # fmt: skip
    assert dict(members(here / "out" / "00000.tar")) == expected
    assert len(members(here / "out" / "00000.tar")) == len(expected)
    assert len(grouped(here / "out" / "00000.tar")) == len(samples) == done.num_done
    assert done.renamed == 3
    assert sorted(data for _, data in pictures("out")) == sorted(data for data in files.values() if data.startswith(b"\x89PNG"))
    assert {row["sample"] for row in pq.read_table(here / "out" / "00000.parquet").to_pylist()} == set(samples)
    act(score_table(samples[:1], ["photos"]), tars="bare", apply=True, sidecars=False)
    assert members(here / "bare" / "00000.tar") == [("a.jpg", png(0))]


@pytest.mark.parametrize("action", ["tars", "hf_parquet"])
def test_names_that_are_not_utf_8_are_escaped_as_in_the_scores(here: Path, action: str) -> None:
    (here / "photos" / "d\udce9").mkdir(parents=True)
    names = {"a.jpg": png(0), "caf\udce9.png": png(1), "d\udce9/b.jpg": png(2), "d\udce9/\udcff": png(3), "z.jpg": png(4)}
    for name, data in {**names, "caf\udce9.txt": b"words"}.items():
        (here / "photos" / name).write_bytes(data)
    escaped = ["a.jpg", r"caf\xe9.png", r"d\xe9/b.jpg", r"d\xe9/\xff", "z.jpg"]
    table = score_table([f"photos/{name}" for name in escaped], ["photos"])
    planned, _ = act(table, **{action: "out"})
    done, _ = act(table, **{action: "out"}, apply=True)
    assert (planned.num_done, done.num_done, done.reasons) == (5, 5, {})
    packed = [*escaped[:3], escaped[3] + ".png", escaped[4]]
    if action == "tars":
        assert members(here / "out" / "00000.tar") == [
            (packed[0], png(0)), (packed[1], png(1)), (r"caf\xe9.txt", b"words"),
            *zip(packed[2:], [png(2), png(3), png(4)], strict=True),
        ]  # fmt: skip
        beside = pq.read_table(here / "out" / "00000.parquet")
        assert beside["key"].to_pylist() == ["a", r"caf\xe9", r"d\xe9/b", r"d\xe9/\xff", "z"]
    else:
        made = pq.read_table(here / "out" / "train-00000.parquet")["image"].to_pylist()
        assert [row["path"] for row in made] == packed
    assert [data for _, data in pictures("out")] == list(names.values())
    take_back(done.journal)
    assert not (here / "out").exists()


def test_equal_keys_of_different_sources_do_not_become_one(here: Path) -> None:
    for i, name in enumerate(("a.tar", "b.tar")):
        (here / name).write_bytes(tar([("k.jpg", png(i)), ("k.txt", str(i).encode())]))
    with zipfile.ZipFile(here / "z.zip", "w") as archive:
        archive.writestr("k.jpg", png(2))
        archive.writestr("k.json", "{}")
    pq.write_table(pa.table({"jpg": [png(3)], "key": ["k"]}), here / "p.parquet")
    table = score_table(["a.tar/k", "b.tar/k", "z.zip/k.jpg", "k"], ["a.tar", "b.tar", "z.zip", "p.parquet"])
    planned, _ = act(table, tars="out")
    done, _ = act(table, tars="out", apply=True)
    assert members(here / "out" / "00000.tar") == [
        ("k.jpg", png(0)), ("k.txt", b"0"), ("k_2.jpg", png(1)), ("k_2.txt", b"1"), ("k_3.jpg", png(2)), ("k_3.json", b"{}"),
        ("k_4.png", png(3)),
    ]  # fmt: skip
    assert done.renamed == planned.renamed == 3


def test_shards_hold_so_many_pictures_and_bytes(here: Path) -> None:
    (here / "t.tar").write_bytes(tar([(f"{i:03d}.jpg", bytes([i]) * 1000) for i in range(25)]))
    samples = [f"t.tar/{i:03d}" for i in range(25)]
    done, _ = act(score_table(samples, ["t.tar"]), tars="by-count", shard_count=10, apply=True)
    assert [len(members(here / "by-count" / f"{i:05d}.tar")) for i in range(3)] == [10, 10, 5]
    assert done.num_shards == 3
    planned, _ = act(score_table(samples, ["t.tar"]), hf_parquet="by-bytes", shard_bytes=4500)
    done, _ = act(score_table(samples, ["t.tar"]), hf_parquet="by-bytes", shard_bytes=4500, apply=True)
    assert [pq.read_metadata(here / "by-bytes" / f"train-{i:05d}.parquet").num_rows for i in range(7)] == [4] * 6 + [1]
    assert done.num_shards == planned.num_shards == 7
    one, _ = act(score_table(samples[:2], ["t.tar"]), tars="big", shard_bytes=1, apply=True)
    assert one.num_shards == 2


def test_hf_parquet(here: Path) -> None:
    (here / "photos" / "s").mkdir(parents=True)
    names = ["a.jpg", "s/b.png", "gone.jpg", "s/plain"]
    for i, name in enumerate(names):
        if name != "gone.jpg":
            (here / "photos" / name).write_bytes(png(i))
    table = score_table(
        [f"photos/{name}" for name in names], ["photos"], width=pa.array([1, None, 3, 4], pa.int32()),
        tags=[["x"], [], None, ["y"]], image=["a", "b", "c", "d"],
    )  # fmt: skip
    done, _ = act(table, hf_parquet="out", apply=True)
    assert done.reasons == {"missing": 1}
    made = pq.read_table(here / "out" / "train-00000.parquet")
    assert made.column("image").to_pylist() == [
        {"bytes": png(0), "path": "a.jpg"}, {"bytes": png(1), "path": "s/b.png"}, {"bytes": png(3), "path": "s/plain.png"}
    ]  # fmt: skip
    assert made.schema.field("image").type == pa.struct({"bytes": pa.binary(), "path": pa.string()})
    assert made.column("source_image").to_pylist() == ["a", "b", "d"]
    assert made.column("width").to_pylist() == [1, None, 4]
    features = json.loads(made.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["aesthetic_score"] == {"dtype": "float32", "_type": "Value"}
    assert list(features) == made.column_names
    assert [(row["sample"], data) for row, data in pictures("out")] == [
        ("photos/a.jpg", png(0)), ("photos/s/b.png", png(1)), ("photos/s/plain", png(3))
    ]  # fmt: skip
    take_back(done.journal)
    assert not (here / "out").exists()


def test_row_groups_of_pictures_are_of_bounded_size(here: Path) -> None:
    (here / "photos").mkdir()
    for i in range(5):
        (here / "photos" / f"{i}.jpg").write_bytes(os.urandom(12 << 20))
    act(score_table([f"photos/{i}.jpg" for i in range(5)], ["photos"]), hf_parquet="out", apply=True)
    metadata = pq.read_metadata(here / "out" / "train-00000.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 2, 1]


def test_what_cannot_be_packed_is_said(here: Path) -> None:
    (here / "photos" / "__x__").mkdir(parents=True)
    for name in ("a.jpg", "__x__/b.jpg", "c.jpg"):
        (here / "photos" / name).write_bytes(png())
    (here / "cut.tar").write_bytes(tar([(f"{i}.png", png(i, 30)) for i in range(5)])[:4000])
    samples = ["photos/a.jpg", "photos/__x__/b.jpg", "photos/c.jpg", "photos/gone.jpg", "cut.tar/0", "cut.tar#broken"]
    sizes = pa.array([None, None, 7, None, None, None], pa.int64())
    done, _ = act(score_table(samples, ["photos", "cut.tar"], num_bytes=sizes), tars="out", apply=True)
    assert done.reasons == {"name": 1, "changed": 1, "missing": 1, "unreadable": 1}
    assert done.num_done == 2
    assert done.exit_status == 3
    with pytest.raises(OutputError, match=r"holds 00000.parquet already; name an empty folder"):
        act(score_table(["photos/a.jpg"], ["photos"]), tars="out", apply=True, journal="other.jsonl")
    with pytest.raises(InputError, match="lies inside"):
        act(score_table(["photos/a.jpg"], ["photos"]), tars="photos/out", apply=True)
    before = contents(here / "out")
    again, _ = act(score_table(samples, ["photos", "cut.tar"], num_bytes=sizes), tars="out", apply=True)
    assert (again.num_done, again.num_before, again.reasons) == (2, 2, done.reasons)
    assert contents(here / "out") == before


def test_members_whose_names_lead_out_of_a_folder_are_not_passed_on(here: Path) -> None:
    (here / "t.tar").write_bytes(tar([("../../a.jpg", png(0)), ("ok.jpg", png(1)), ("b/../../c.jpg", png(2))]))
    with zipfile.ZipFile(here / "z.zip", "w") as archive:
        archive.writestr("../d.jpg", png(3))
        archive.writestr("/e.jpg", png(4))
    samples = ["t.tar/../../a", "t.tar/ok", "t.tar/b/../../c", "z.zip/../d.jpg", "z.zip//e.jpg"]
    for action in ("tars", "hf_parquet", "copy"):
        done, _ = act(score_table(samples, ["t.tar", "z.zip"]), **{action: action}, apply=True)
        assert (done.num_done, done.reasons) == (2, {"outside": 3})
    assert members(here / "tars" / "00000.tar") == [("ok.jpg", png(1)), ("e.jpg", png(4))]
    assert contents(here / "copy") == {"t/ok.jpg": png(1), "z/e.jpg": png(4)}


def test_undo_keeps_tars_whose_pictures_are_gone(here: Path) -> None:
    (here / "photos").mkdir()
    for i in range(6):
        (here / "photos" / f"{i}.jpg").write_bytes(png(i))
    done, _ = act(score_table([f"photos/{i}.jpg" for i in range(6)], ["photos"]), tars="out", shard_count=2, apply=True)
    (here / "photos" / "0.jpg").unlink()
    with (here / "out" / "00001.tar").open("ab") as file:
        file.write(bytes(512))
    undone, _ = take_back(done.journal)
    assert undone.reasons == {"missing": 1, "changed": 1}
    assert set(contents(here / "out")) == {"00000.tar", "00000.parquet", "00001.tar", "00001.parquet"}


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from oracles.acting import act, score_table
samples = [f"t.tar/{{i:04d}}" for i in range(600)]
act(score_table(samples, ["t.tar"]), **{options!r}, shard_count=50, apply=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("action", ["tars", "hf_parquet"])
def test_killed_while_packing_it_goes_on_and_comes_to_the_same(here: Path, action: str) -> None:
    (here / "t.tar").write_bytes(
        tar([m for i in range(600) for m in ((f"{i:04d}.jpg", png(i, 40)), (f"{i:04d}.txt", b"%d" % i))])
    )
    table = score_table([f"t.tar/{i:04d}" for i in range(600)], ["t.tar"])
    act(table, **{action: "whole"}, shard_count=50, apply=True)
    expected = contents(here / "whole")
    script = DRIVER.format(tests=str(Path(__file__).resolve().parents[2]), options={action: "out"})
    for wanted in (0, 3, 7) if action == "tars" else (5,):
        running = subprocess.Popen([sys.executable, "-c", script], cwd=here)
        while len(list((here / "out").glob("*[0-9].parquet"))) <= wanted:
            assert running.poll() is None
            time.sleep(0.001)
        running.send_signal(signal.SIGKILL)
        running.wait()
    done, _ = act(table, **{action: "out"}, shard_count=50, apply=True)
    assert done.num_before >= 300
    assert done.num_done == 600
    assert contents(here / "out") == expected
    take_back(done.journal)
    assert not (here / "out").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_leaves_whole_tars_and_goes_on(here: Path) -> None:
    disk = here / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this system does not let root mount a tmpfs")
    try:
        (here / "t.tar").write_bytes(tar([(f"{i:03d}.jpg", bytes([i]) * 9000) for i in range(60)]))
        table = score_table([f"t.tar/{i:03d}" for i in range(60)], ["t.tar"])
        options: dict[str, Any] = {"tars": "disk/out", "journal": "j.jsonl", "shard_count": 10, "apply": True}
        with pytest.raises(OutputError, match="the disk is full"):
            act(table, **options)
        there = list((disk / "out").glob("*.tar"))
        assert 0 < len(there) < 6
        assert not list((disk / "out").glob(".beholder*"))
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        done, _ = act(table, **options)
        assert done.num_before == 10 * len(there)
        found = [member for i in range(6) for member in members(disk / "out" / f"{i:05d}.tar")]
        assert found == [(f"{i:03d}.jpg", bytes([i]) * 9000) for i in range(60)]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_an_empty_choice(here: Path) -> None:
    (here / "t.tar").write_bytes(tar(MEMBERS))
    for options in ({"tars": "out"}, {"hf_parquet": "out2"}, {"copy": "out3"}):
        done, _ = act(score_table([], ["t.tar"]), **options, apply=True)
        assert (done.num_done, done.exit_status) == (0, 0)


@pytest.mark.parametrize(("flag", "name", "column"), [("tars", "00000.parquet", "sample"), ("hf_parquet", None, "image.bytes")])
def test_new_tables_have_page_checksums(here: Path, flag: str, name: str | None, column: str) -> None:
    """A changed byte in the middle of a column is an error to every reader that asks for it."""
    names = [f"{number:04d}.png" for number in range(40)]
    (here / "p").mkdir()
    for number, file in enumerate(names):
        (here / "p" / file).write_bytes(png(number))
    act(score_table([f"p/{file}" for file in names], ["p"]), **{flag: "out"}, apply=True)
    path = here / "out" / name if name is not None else next((here / "out").rglob("*.parquet"))
    group = pq.ParquetFile(path).metadata.row_group(0)
    found = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == column)
    start = found.dictionary_page_offset or found.data_page_offset
    data = bytearray(path.read_bytes())
    data[start + found.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises((OSError, pa.ArrowException), match=r"CRC|checksum"):
        pq.ParquetFile(path, page_checksum_verification=True).read(columns=[column])
