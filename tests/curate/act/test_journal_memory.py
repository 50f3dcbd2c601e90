"""Journals read again: what they count, and the memory that it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from beholder import InputError
from beholder.curate.act.files import Intent
from beholder.curate.act.journal import origins_of, read_journal
from oracles.journals import write_journal

HEADER = {
    "format": "beholder-journal",
    "id": "a1",
    "time": "2026-11-25T00:00:00+00:00",
    "action": "tars",
    "target": "/t",
}


def shard_line(number: int, origins: Any) -> dict[str, Any]:
    files = [[f"/t/{number:05d}.tar", 10, 11, "ab"], [f"/t/{number:05d}.parquet", 12, 13, "cd"]]
    counts = {"pictures": 2, "num_files": 3, "bytes": 4, "renamed": 0}
    return {
        "shard": f"{number:05d}.tar",
        "planned": 2 * number + 2,
        **counts,
        "files": files,
        "origins": origins,
        "left_out": [],
    }


def write(path: Path, *lines: dict[str, Any]) -> None:
    write_journal(path, (HEADER, *lines))


def test_what_a_shard_was_made_of_is_read_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    origins = [{f"/p/ö{number}/{i}.jpg": [number, i] for i in range(2)} for number in range(3)]
    write(path, *({"packing": "x", "planned": 0}, *(shard_line(number, made) for number, made in enumerate(origins))))
    told = read_journal(str(path))
    assert [shard.name for shard in told.shards] == ["00000.tar", "00001.tar", "00002.tar"]
    assert told.shards[1].files == (("/t/00001.tar", 10, 11, "ab"), ("/t/00001.parquet", 12, 13, "cd"))
    for shard, made in zip(told.shards, origins, strict=True):
        assert origins_of(str(path), shard) == {name: tuple(stamp) for name, stamp in made.items()}
    write(path, shard_line(0, {}), shard_line(1, [1, 2]))
    told = read_journal(str(path))
    assert origins_of(str(path), told.shards[0]) == {}
    with pytest.raises(InputError, match="does not say what 00001.tar was made of"):
        origins_of(str(path), told.shards[1])
    path.unlink()
    with pytest.raises(InputError, match="cannot read"):
        origins_of(str(path), told.shards[0])


def test_counts_of_what_was_done_and_left(tmp_path: Path) -> None:
    intents = [Intent(i, f"p/{i}", f"/p/{i}", f"/t/{i}", 10 + i, 7, is_picture=i != 1) for i in range(5)]
    write(
        tmp_path / "j.jsonl",
        *(intent.to_json() for intent in intents),
        {"skip": "p/9", "reason": "missing", "text": "no"},
        {"planned": 5},
        {"results": [[0, 1], [3, 3]], "copies": [], "failed": [[2, "clash", "taken"]]},
    )
    told = read_journal(str(tmp_path / "j.jsonl"))
    assert (told.num_intents, told.num_pictures, told.num_files, told.num_file_bytes) == (5, 2, 3, 10 + 11 + 13)
    assert told.unsettled == {4: intents[4]}
    assert told.first_made == ["/t/0", "/t/3"]
    assert sorted(told.left_out.counted()) == [("clash", 1, [("p/2", "taken")]), ("missing", 1, [("p/9", "no")])]
    assert not told.is_finished
    assert (told.is_undone, told.is_wholly_undone) == (False, False)
    write(
        tmp_path / "j.jsonl",
        {"end": "done", "time": "2027-01-01T00:00:00+00:00"},
        {"undo": "begin"},
        {"end": "undone", "left": 0},
    )
    told = read_journal(str(tmp_path / "j.jsonl"))
    assert (told.ended, told.is_wholly_undone) == ("2027-01-01T00:00:00+00:00", True)


MEASURE = """
import resource, sys, tracemalloc
import numpy, pyarrow
from beholder.curate.act.journal import read_journal
tracemalloc.start()
told = read_journal(sys.argv[1])
print(tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "most"), [("tars", 4_000_000), ("done", 1_000_000)])
def test_a_journal_of_many_pictures_takes_little_memory(tmp_path: Path, kind: str, most: int) -> None:
    """100,000 pictures: names held would be 10 MB and more; of what was done nothing is held."""
    path, num = tmp_path / "j.jsonl", 100_000
    batches: list[list[dict[str, Any]]]
    names = [f"photos/{number:0100d}.jpg" for number in range(num)]
    if kind == "tars":
        batches = [[shard_line(at, {f"/{name}": [1, 2] for name in names[at : at + 250]})] for at in range(0, num, 250)]
    else:
        batches = []
        for at in range(0, num, 250):
            some = [
                Intent(at + i, name, f"/{name}", f"/t/{name}", 1, 2).to_json() for i, name in enumerate(names[at : at + 250])
            ]
            batches.append([*some, {"planned": at + 250}, {"results": [[at, at + 249]], "copies": [], "failed": []}])
    write(path, *(line for batch in batches for line in batch))
    ran = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < most
