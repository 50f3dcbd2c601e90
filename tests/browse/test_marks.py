"""Marks: on the disk before `set` returns, later ones win, nothing is lost by kill -9, a torn line, or a second writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from beholder.browse.marks import Mark, MarkBook, check_writable, summary
from beholder.errors import OutputError
from beholder.scoreset.joined import read_marks

NAMES = ["a", "b/ü", "c\n{", "d", "d"]  # the last two rows share a name


def rows_named(names: Sequence[str]) -> dict[str, list[int]]:
    return {name: [row for row, other in enumerate(NAMES) if other == name] for name in names if name in NAMES}


def book_of(path: Path, *, unique: bool = False, **more: int) -> MarkBook:
    return MarkBook(path, len(NAMES), rows_named, has_unique_names=unique, **more)


def states(book: MarkBook) -> list[int]:
    return book.state.tolist()


def test_marks_stay_and_the_last_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    book = book_of(path)
    assert not path.exists()
    book.set([0], ["a"], Mark.KEEP)
    book.set([1, 2], NAMES[1:3], Mark.DROP)
    book.set([0], ["a"], Mark.NONE)
    book.set([3], ["d"], Mark.KEEP)
    assert states(book) == states(book_of(path)) == [0, 2, 2, 1, 1]
    assert book.marked(Mark.KEEP).tolist() == [3, 4]
    assert book.marked(Mark.DROP).tolist() == [1, 2]
    events = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    assert [(event["sample"], event["mark"]) for event in events] == [
        ("a", "keep"), ("b/ü", "drop"), ("c\n{", "drop"), ("a", None), ("d", "keep"),
    ]  # fmt: skip
    assert all(event["time"].startswith("20") for event in events)
    assert read_marks(str(path)) == {"b/ü": "drop", "c\n{": "drop", "d": "keep"}, "select reads the same"
    assert summary(book) == "2 keep, 2 drop"


def test_known_rows_are_not_searched(tmp_path: Path) -> None:
    def never(names: Sequence[str]) -> dict[str, list[int]]:
        raise AssertionError(names)

    book = MarkBook(tmp_path / "m.jsonl", 5, never, has_unique_names=True)
    book.set([1], ["b/ü"], Mark.KEEP)
    assert states(book) == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("torn", [b'{"sample": "b/\xc3', b'{"sample": "b', b"{", b'{"sample": "d", "mark": "kee'])
def test_a_torn_last_line_is_passed_over_and_taken_away_by_the_next_mark(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "m.jsonl"
    book_of(path).set([0], ["a"], Mark.KEEP)
    with path.open("ab") as file:
        file.write(torn)
    assert read_marks(str(path)) == {"a": "keep"}
    again = book_of(path)
    assert states(again) == [1, 0, 0, 0, 0]
    again.set([1], ["b/ü"], Mark.DROP)
    assert states(again) == states(book_of(path)) == [1, 2, 0, 0, 0]
    assert path.read_bytes().count(b"\n") == len(path.read_bytes().splitlines()) == 2
    assert read_marks(str(path)) == {"a": "keep", "b/ü": "drop"}


def test_a_whole_last_line_without_its_end_counts_from_the_next_mark_on(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"sample": "a", "mark": "keep", "time": "x"}')
    book = book_of(path)
    book.set([1], ["b/ü"], Mark.DROP)
    assert states(book) == states(book_of(path)) == [1, 2, 0, 0, 0]


def test_damaged_lines_and_strangers_are_counted_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    wrong = ["no json", '{"sample": 3, "mark": "keep"}', '{"sample": "a"}', '{"sample": "a", "mark": "maybe"}',
             '{"sample": "a", "mark": ["keep"]}', "[1]"]  # fmt: skip
    lines = ['{"sample": "nobody", "mark": "keep"}', *wrong, "", '{"sample": "a", "mark": "drop"}']
    path.write_text("\n".join(lines) + "\n")
    book = book_of(path)
    assert (states(book), book.num_strangers, book.num_damaged) == ([2, 0, 0, 0, 0], 1, 6)
    assert "1 of other sets" in summary(book)
    assert "6 damaged" in summary(book)
    book.set([1], ["b/ü"], Mark.KEEP)
    assert path.read_text().startswith("\n".join(lines))


def test_two_books_of_one_file_see_each_other(tmp_path: Path) -> None:
    one, two = book_of(tmp_path / "m.jsonl"), book_of(tmp_path / "m.jsonl")
    one.set([0], ["a"], Mark.KEEP)
    before = two.version
    assert two.changes(before)[1] == [(0, Mark.KEEP)]
    two.set([0], ["a"], Mark.DROP)
    two.set([4], ["d"], Mark.KEEP)
    assert one.changes(1)[1] == [(0, Mark.DROP), (3, Mark.KEEP), (4, Mark.KEEP)]
    assert states(one) == states(two) == [2, 0, 0, 1, 1]
    assert one.changes(one.version)[1] == []
    assert one.changes(one.version + 5)[1] is None


def test_a_replaced_or_removed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    book = book_of(path)
    book.set([0, 1], ["a", "b/ü"], Mark.KEEP)
    version = book.version
    other = tmp_path / "other"
    other.write_text('{"sample": "c\\n{", "mark": "drop"}\n')
    other.replace(path)
    assert book.changes(version)[1] is None, "whoever watches has to look at everything anew"
    assert states(book) == [0, 0, 2, 0, 0]
    path.unlink()
    book.catch_up()
    assert states(book) == [0] * 5


def test_many_changes_are_forgotten_one_by_one_but_never_wrong(tmp_path: Path) -> None:
    book = book_of(tmp_path / "m.jsonl", most_changes=10)
    told = {0: 0}
    version = 0
    for turn in range(40):
        book.set([0], ["a"], Mark.KEEP if turn % 2 else Mark.DROP)
        version, found = book.changes(version)
        assert found is not None
        told.update(dict(found))
        assert told[0] == book.state[0]
    assert book.changes(0)[1] is None


def test_a_full_disk_marks_nothing_and_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "m.jsonl"
    book = book_of(path)
    book.set([0], ["a"], Mark.KEEP)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        with pytest.raises(OutputError, match=r"m\.jsonl"):
            book.set([1], ["b/ü"], Mark.DROP)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert states(book) == [1, 0, 0, 0, 0]
    book.set([1], ["b/ü"], Mark.DROP)
    assert states(book_of(path)) == [1, 2, 0, 0, 0]


def test_where_marks_could_not_be_written_is_said_beforehand(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.jsonl")
    with pytest.raises(OutputError, match="folder"):
        check_writable(tmp_path)
    with pytest.raises(OutputError, match="no folder"):
        check_writable(tmp_path / "no" / "m.jsonl")


MARKER = """
import sys
from beholder.browse.marks import Mark, MarkBook
from pathlib import Path
book = MarkBook(Path(sys.argv[1]), 10**6, lambda names: {name: [int(name)] for name in names}, has_unique_names=True)
for row in range(10**6):
    book.set([row], [str(row)], Mark.DROP if row % 3 else Mark.KEEP)
    sys.stdout.write(f"{row}\\n"); sys.stdout.flush()
"""


@pytest.mark.parametrize("turn", range(3))
def test_every_mark_that_was_answered_is_there_after_kill_9(tmp_path: Path, turn: int) -> None:
    path = tmp_path / "m.jsonl"
    with subprocess.Popen([sys.executable, "-c", MARKER, str(path)], stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        time.sleep(0.05 + 0.07 * turn)
        process.kill()
        told = [int(line) for line in process.stdout.read().split(b"\n")[:-1]] or [0]
    found = read_marks(str(path))
    wanted = {str(row): "drop" if row % 3 else "keep" for row in range(max(told) + 1)}
    assert {name: found.get(name) for name in wanted} == wanted
    assert len(found) <= len(wanted) + 1, "one more may have been written than was told"
