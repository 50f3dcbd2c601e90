"""Where moves took files, as journals near at hand say: several files, large journals, and what is no journal at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from beholder.curate.act.moved import Moved, find_moved

HEADER = {"format": "beholder-journal", "version": 1, "id": "x", "action": "move", "target": "/t", "time": "2026"}
_MIB = 1 << 20


def line(number: int, source: str, target: Path, size: int | None = None) -> bytes:
    """What a journal says before a file is moved; `size`: another than it has."""
    status = target.stat()
    said = {
        "do": number,
        "from": source,
        "to": str(target),
        "size": size or status.st_size,
        "mtime": status.st_mtime_ns,
        "sample": source,
    }
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def journal(path: Path, *lines: bytes, age: int = 0, **header: str) -> Path:
    path.write_bytes(json.dumps(HEADER | header).encode() + b"\n" + b"".join(lines))
    os.utime(path, (1_790_000_000 - age, 1_790_000_000 - age))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that was moved here."""
    (tmp_path / "new").mkdir()
    path = tmp_path / "new" / "a.jpg"
    path.write_bytes(b"picture")
    return path


def found(folder: Path, *sources: str) -> tuple[str, str] | None:
    """What was where, and the journal that says so."""
    said = find_moved(sources, [str(folder), str(folder)])
    return None if said is None else (said.source, Path(said.journal).name)


def test_one_of_several_files_whatever_they_are_called(tmp_path: Path, target: Path) -> None:
    odd = ["/p/(a|b).*[1].jpg", '/p/"q"\\n.jpg', "/p/\xe9\n.jpg", "/p/a.jpg"]
    for i, name in enumerate(odd):
        journal(tmp_path / "m.journal.jsonl", line(0, "/p/other.jpg", target), line(1, name, target))
        assert find_moved([*odd[i + 1 :], name, "/p/none.jpg"], [str(tmp_path)]) == Moved(
            name, str(target), str(tmp_path / "m.journal.jsonl")
        )
        assert found(tmp_path, "/p/none.jpg", "/p/(a|b)x*1.jpg", "/p/aXjpg") is None
    assert found(tmp_path) is None
    assert found(tmp_path / "nowhere", "/p/a.jpg") is None
    (tmp_path / "here.jpg").write_bytes(b"")
    journal(tmp_path / "m.journal.jsonl", line(0, str(tmp_path / "here.jpg"), target))
    assert found(tmp_path, str(tmp_path / "here.jpg")) is None


def test_the_first_file_that_is_still_as_it_was(tmp_path: Path, target: Path) -> None:
    lines = [
        line(0, "/p/a.jpg", target, size=1),
        b'{"do":1,"from":"/p/b.jpg"}\n',
        b'{"skip":"x","from":"/p/b.jpg"}\n',
        line(2, "/p/c.jpg", target),
    ]
    journal(tmp_path / "m.journal.jsonl", *lines)
    assert found(tmp_path, "/p/a.jpg", "/p/b.jpg", "/p/c.jpg") == ("/p/c.jpg", "m.journal.jsonl")
    assert found(tmp_path, "/p/a.jpg", "/p/b.jpg") is None


def test_the_newest_move_tells(tmp_path: Path, target: Path) -> None:
    said = line(0, "/p/a.jpg", target)
    journal(tmp_path / "b.journal.jsonl", said, age=5)
    journal(tmp_path / "a.journal.jsonl", said, age=9)
    journal(tmp_path / "copy.journal.jsonl", said, age=1, action="copy")
    assert found(tmp_path, "/p/a.jpg") == ("/p/a.jpg", "b.journal.jsonl")
    os.utime(tmp_path / "b.journal.jsonl", (1, 1))
    assert found(tmp_path, "/p/a.jpg") == ("/p/a.jpg", "a.journal.jsonl")


@pytest.mark.parametrize("before", [4 * _MIB - 40, 4 * _MIB - 1, 4 * _MIB, 9 * _MIB + 5])
def test_lines_anywhere_in_a_large_journal(tmp_path: Path, target: Path, before: int) -> None:
    """It is read some MiB at a time: a line may lie across the edge."""
    start = len(json.dumps(HEADER)) + 1
    many = b'{"did":1234567}\n' * ((before - start) // 16)
    pad = b" " * (before - start - len(many))
    journal(
        tmp_path / "m.journal.jsonl",
        many[: len(many) - 1] + pad + b"\n",
        line(0, "/p/a.jpg", target),
        line(1, "/p/b.jpg", target),
    )
    assert found(tmp_path, "/p/a.jpg") == ("/p/a.jpg", "m.journal.jsonl")
    assert found(tmp_path, "/p/b.jpg") == ("/p/b.jpg", "m.journal.jsonl")


def test_no_more_than_so_many_bytes_of_all_journals(tmp_path: Path, target: Path) -> None:
    """256 MiB: of a first journal of 250 and a second of 10, the last lines of the second are not read."""
    with journal(tmp_path / "b.journal.jsonl").open("ab") as file:
        for _ in range(250):
            file.write((b" " * 1023 + b"\n") * 1024)
    os.utime(tmp_path / "b.journal.jsonl", (1_790_000_000, 1_790_000_000))
    filling = (b" " * 1023 + b"\n") * 1024 * 10
    said = line(0, "/p/a.jpg", target)
    journal(tmp_path / "a.journal.jsonl", filling, said, age=5)
    assert found(tmp_path, "/p/a.jpg") is None
    journal(tmp_path / "a.journal.jsonl", said, filling, age=5)
    assert found(tmp_path, "/p/a.jpg") == ("/p/a.jpg", "a.journal.jsonl")
    os.utime(tmp_path / "b.journal.jsonl", (1, 1))
    journal(tmp_path / "a.journal.jsonl", filling, said, age=5)
    assert found(tmp_path, "/p/a.jpg") == ("/p/a.jpg", "a.journal.jsonl")


def test_what_is_called_a_journal_and_is_none_is_passed_over(tmp_path: Path, target: Path) -> None:
    (tmp_path / "loop.journal.jsonl").symlink_to("loop.journal.jsonl")
    (tmp_path / "one.journal.jsonl").symlink_to("two.journal.jsonl")
    (tmp_path / "two.journal.jsonl").symlink_to("one.journal.jsonl")
    (tmp_path / "dead.journal.jsonl").symlink_to("nowhere")
    (tmp_path / "folder.journal.jsonl").mkdir()
    (tmp_path / "null.journal.jsonl").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.journal.jsonl")
    (tmp_path / "deep.journal.jsonl").write_bytes(b"[" * 100_000 + b"\n")
    with journal(tmp_path / "hole.journal.jsonl").open("ab") as file:  # one line that does not end
        file.truncate(1 << 33)
    assert found(tmp_path, "/p/a.jpg") is None
    journal(tmp_path / "m.journal.jsonl", line(0, "/p/a.jpg", target), age=10)
    (tmp_path / "link.journal.jsonl").symlink_to("m.journal.jsonl")
    assert (found(tmp_path, "/p/a.jpg") or ("", ""))[0] == "/p/a.jpg"
