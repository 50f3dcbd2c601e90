"""Pictures of one key where a tar is full: no key in two tars, and the same tars wherever a run was interrupted."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.curate.act.layout import KeyGiver, Layout
from beholder.curate.act.pack import TarShard
from beholder.locate.archives import FilePlace, Place
from beholder.locate.named_sources import NamedSources
from oracles.acting import act, contents, score_table, take_back
from oracles.journals import lines_of, write_journal
from oracles.tar_making import png, tar

MEMBERS = [("a.jpg", png(0)), ("a.png", png(1)), ("a.txt", b"words"), ("b.jpg", png(2))]
SAMPLES = ["in.tar/a", "in.tar/a.png", "in.tar/b"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: str) -> list[list[str]]:
    """Of the members of each tar, by Python's tarfile."""
    found = []
    for path in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(path) as archive:
            found.append(archive.getnames())
    return found


def keys(folder: str) -> list[list[str]]:
    return [pq.read_table(path).column("key").to_pylist() for path in sorted(Path(folder).glob("*.parquet"))]


def cut_short(folder: str, journal: str, num_shards: int) -> None:
    """What a kill leaves after so many shards: the journal up to there, and their files."""
    kept: list[dict[str, Any]] = []
    left = num_shards
    for line in lines_of(Path(journal)):
        is_shard = "shard" in line
        if is_shard and not left:
            break
        kept.append(line)
        left -= is_shard
    write_journal(Path(journal), kept)
    for path in Path(folder).iterdir():
        if int(path.stem) >= num_shards:
            path.unlink()


CASES: dict[str, tuple[list[tuple[str, bytes]], list[str], dict[str, Any], list[list[str]]]] = {
    "one each": (MEMBERS, SAMPLES, {"shard_count": 1}, [
        ["a.jpg", "a.txt"], ["a_2.png", "a_2.txt"], ["b.jpg"]]),
    "two each": (MEMBERS, SAMPLES, {"shard_count": 2}, [
        ["a.jpg", "a.txt", "a.png"], ["b.jpg"]]),
    "bare": (MEMBERS, SAMPLES, {"shard_count": 1, "sidecars": False}, [
        ["a.jpg"], ["a_2.png"], ["b.jpg"]]),
    "by bytes": ([("a.jpg", b"1" * 60), ("a.png", b"2" * 60), ("a.txt", b"3" * 30), ("b.jpg", b"4" * 10)],
        SAMPLES, {"shard_bytes": 100}, [["a.jpg", "a.txt"], ["a_2.png", "a_2.txt", "b.jpg"]]),
    "three of a key": ([("k.jpg", png(0)), ("k.png", png(1)), ("k.webp", png(2)), ("k.cls", b"7"), ("k_2.gif", png(3))],
        ["in.tar/k", "in.tar/k.png", "in.tar/k.webp", "in.tar/k_2"], {"shard_count": 2}, [
        ["k.jpg", "k.cls", "k.png"], ["k_2.webp", "k_2.cls", "k_2_2.gif"]]),
    "the first is gone": (MEMBERS, SAMPLES, {"shard_count": 1, "num_bytes": [7, None, None]}, [
        ["a.png", "a.txt"], ["b.jpg"]]),
    "no pictures": (MEMBERS, [], {"shard_count": 1}, []),
}  # fmt: skip
"""Members of the tar that was scored, samples, options, and the members of the tars that are made of it."""


@pytest.mark.parametrize("case", list(CASES))
def test_a_key_is_in_one_tar_and_an_interruption_changes_nothing(here: Path, case: str) -> None:
    members, samples, options, expected = CASES[case]
    (here / "in.tar").write_bytes(tar(members))
    options = dict(options)
    sizes = options.pop("num_bytes", [None] * len(samples))
    table = score_table(samples, ["in.tar"], num_bytes=pa.array(sizes, pa.int64()))
    planned, _ = act(table, tars="out", **options)
    done, _ = act(table, tars="out", apply=True, **options)
    assert names("out") == expected
    assert (planned.num_done, planned.num_files, planned.num_shards, planned.renamed) == (
        done.num_done, done.num_files, done.num_shards, done.renamed
    )  # fmt: skip
    found = [set(shard) for shard in keys("out")]
    assert sum(map(len, found)) == len(set().union(*found))
    whole = contents(Path("out"))
    for num_shards in range(len(expected) - 1, -1, -1):
        cut_short("out", str(done.journal), num_shards)
        planned, _ = act(table, tars="out", **options)
        again, _ = act(table, tars="out", apply=True, **options)
        assert again.num_before == sum(len(shard) for shard in keys("out")[:num_shards])
        for summary in (planned, again):
            assert (summary.num_files, summary.num_shards) == (done.num_files, done.num_shards)
        assert contents(Path("out")) == whole


def test_a_name_is_taken_by_what_was_packed_alone() -> None:
    """So a picture that could not be read takes no key, in the run that meets it as in one that is continued behind it."""
    given = KeyGiver(Layout(NamedSources(None, None, ""), pa.chunked_array([], pa.large_string())), {"b"})

    def names_of(*members: str, archive: str = "x.tar") -> list[str]:
        place = Place(archive, "tar", tuple(FilePlace(name, None) for name in members), archive=archive)
        found = given.names(place)
        if "broken" not in archive:
            given.give(found)
        return [name for _, name in found.names]

    assert names_of("a.jpg", "a.txt", archive="broken.tar") == ["a.jpg", "a.txt"]
    assert names_of("a.jpg", "a.txt", archive="broken.tar") == ["a.jpg", "a.txt"]
    assert names_of("a.jpg", "a.txt") == ["a.jpg", "a.txt"]
    assert names_of("a.png", "a.txt") == ["a.png"]
    assert names_of("a.png", "a.txt", archive="broken.tar") == ["a_2.png", "a_2.txt"]
    assert names_of("a.webp", "a.txt") == ["a.webp"]
    given.begin_shard()
    assert names_of("a.gif", "a.txt") == ["a_2.gif", "a_2.txt"]
    assert names_of("b.jpg") == ["b_2.jpg"]
    given.begin_shard()
    assert names_of("b.png") == ["b_3.png"]


def test_shards_in_which_a_key_was_given_twice_stay(here: Path) -> None:
    """So the first versions left them: `a` in two tars, the second without its text; the run goes on behind them."""
    (here / "in.tar").write_bytes(tar(MEMBERS))
    table = score_table(SAMPLES, ["in.tar"])
    done, _ = act(table, tars="out", apply=True, shard_count=1)
    cut_short("out", str(done.journal), 2)
    files = [here / "out" / "00001.tar", here / "out" / "00001.parquet"]
    old = TarShard(*files, table.replace_schema_metadata(None))
    old.add("a", [("a.png", png(1), 0)], 1)
    old.close()
    lines = lines_of(Path(str(done.journal)))
    said = next(line for line in lines if line.get("shard") == "00001.tar")
    said["files"] = [
        [str(file), file.stat().st_size, file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest()]
        for file in files
    ]
    write_journal(Path(str(done.journal)), lines)
    before = contents(Path("out"))
    again, _ = act(table, tars="out", apply=True, shard_count=1)
    assert (again.num_before, again.num_done) == (2, 3)
    assert names("out") == [["a.jpg", "a.txt"], ["a.png"], ["b.jpg"]]
    assert {name: data for name, data in contents(Path("out")).items() if int(name[:5]) < 2} == before
    take_back(again.journal)
    assert not Path("out").exists()
