"""Renaming never replaces, in one step or in two."""

from __future__ import annotations

import fcntl
import itertools
import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beholder import InputError, OutputError
from beholder.curate.act.files import rename_by_link, rename_new
from beholder.curate.act.journal import new_journal, read_journal, reopened
from oracles.journals import write_journal


@pytest.mark.parametrize("rename", [rename_new, rename_by_link])
def test_nothing_is_replaced(tmp_path: Path, rename: Callable[[str, str], None]) -> None:
    source = tmp_path / "source"
    source.write_text("new")
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "folder", "dangling", "link"):
        with pytest.raises(FileExistsError):
            rename(str(source), str(tmp_path / name))
    assert source.read_text() == "new"
    assert (tmp_path / "file").read_text() == "old"
    assert str((tmp_path / "dangling").readlink()) == "nowhere"
    with pytest.raises(FileNotFoundError):
        rename(str(tmp_path / "none"), str(tmp_path / "free"))
    with pytest.raises(FileNotFoundError):
        rename(str(source), str(tmp_path / "no" / "folder"))
    rename(str(source), str(tmp_path / "free"))
    assert (tmp_path / "free").read_text() == "new"
    assert not source.exists()
    rename(str(tmp_path / "dangling"), str(tmp_path / "still dangling"))
    assert str((tmp_path / "still dangling").readlink()) == "nowhere"


def states_of_a_journal(path: Path) -> tuple[str, list[bytes]]:
    """The journal's id, and its bytes after each write."""
    states = []
    with new_journal(str(path), action="move", target="/t") as (log, state):
        states.append(path.read_bytes())
        for lines in (
            [{"do": 0, "from": "a", "to": "b", "size": 1, "mtime": 2, "sample": "s"}, {"planned": 1}],
            [{"results": [[0, 0]]}],
            [{"do": 1, "from": "c", "to": "d", "size": 1, "mtime": 2, "sample": "t"}, {"planned": 2}],
        ):
            log.write(*lines)
            states.append(path.read_bytes())
    return state.run, states


def test_a_journal_that_was_torn_ends_before_the_tear(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    (tmp_path / "j.jsonl.tmp").write_text("somebody's")
    run, states = states_of_a_journal(path)
    assert (tmp_path / "j.jsonl.tmp").read_text() == "somebody's"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["j.jsonl", "j.jsonl.tmp"]
    for number, (before, after) in enumerate(itertools.pairwise(states)):
        for size in range(len(before), len(after)):  # killed within the write
            path.write_bytes(before + after[len(before) : size])
            told = read_journal(str(path))
            assert (told.header["id"], told.num_bytes, told.num_lost) == (run, len(before), 0)
            assert (told.num_planned, sorted(told.unsettled)) == [(0, []), (1, [0]), (1, [])][number]
            if size % 7 == 0:
                with reopened(str(path)) as (log, _):
                    log.write({"end": "done"})
                assert read_journal(str(path)).is_finished
        path.write_bytes(before + bytes(4096))
        assert read_journal(str(path)).num_bytes == len(before)


def test_a_journal_that_has_lost_its_end_is_known_as_one(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    _, states = states_of_a_journal(path)
    whole = states[-1]
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        if size < ends[0]:
            with pytest.raises(InputError, match="no journal|empty"):
                read_journal(str(path))
            continue
        told = read_journal(str(path))
        lines = sum(end <= size for end in ends)
        assert (told.num_bytes, told.num_lost) == (ends[lines - 1], len(whole) - ends[lines - 1])
        assert sorted(told.unsettled) == {1: [], 2: [0], 3: [0], 4: [], 5: [1]}[lines]  # planned, so perhaps done


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with (
        new_journal(str(path), action="move", target="/t"),
        pytest.raises(OutputError, match="another run is using"),
        reopened(str(path)),
    ):
        pass
    with pytest.raises(OutputError, match="is no journal of this act"), new_journal(str(path), action="move", target="/t"):
        pass
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    first = json.loads(path.read_text().splitlines()[0])
    for version in (1, 99):
        path.write_text(json.dumps(first | {"version": version}) + "\n")
        with pytest.raises(InputError, match="another version"):
            read_journal(str(path))


def test_a_line_that_found_no_room_leaves_no_half_of_it(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with new_journal(str(path), action="move", target="/t") as (log, _):
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, most[1]))
            with pytest.raises(OutputError, match="j.jsonl"):
                log.write({"results": [], "failed": [[0, "clash", "x" * 99]]})
            resource.setrlimit(resource.RLIMIT_FSIZE, most)
            log.write({"end": "done"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
        signal.signal(signal.SIGXFSZ, ignored)
    assert read_journal(str(path)).is_finished


FIRST = {
    "format": "beholder-journal", "id": "a1", "time": "2026-11-25T00:00:00+00:00", "action": "move",
    "target": "/t",
}  # fmt: skip
GOOD_INTENT = {"do": 0, "from": "/a", "to": "/b", "size": 1, "mtime": 1, "sample": "s"}
GOOD_SHARD = {
    "shard": "0.tar", "planned": 1, "pictures": 1, "num_files": 1, "bytes": 1, "renamed": 0, "files": [["/0.tar", 1, 1, "ab"]],
    "origins": {}, "left_out": [],
}  # fmt: skip


def broken(good: dict[str, Any], *fields: str) -> list[dict[str, Any]]:
    """The line without each field, and with each holding what it cannot."""
    odd = [None, "x", 1.5, -2, True, [], {}, [[]], [1, 2, 3], 10**30]
    lines = [{key: value for key, value in good.items() if key != field} for field in fields]
    return lines + [good | {field: value} for field in fields for value in odd if _is_odd(field, value)]


def _is_odd(field: str, value: Any) -> bool:
    """Whether a field cannot hold it: any text will do for a name, and no rows at all for a table."""
    is_name, is_table = field in ("from", "to", "sample", "shard"), field == "left_out"
    return not ((is_name and value == "x") or (is_table and value == []) or (field == "mtime" and value == -2))


@pytest.mark.parametrize(
    "line",
    [
        {"results": [[0, 99]]}, {"results": 7}, {"undone": [["a", 1]]}, {"undone": 4}, {"undone": [[1]]}, {"do": 1},
        {"skip": "a"}, {"skip": "a", "reason": "missing", "text": 3}, {"sums": [[1, 2]]}, {"folder": None}, {"folder": "\0"},
        {"folder": "\ud800"}, {"end": "undone", "left": "x"}, {"end": "done", "time": 3}, {"end": 4},
        {"results": [[0, 0]], "copies": [[0, None, 1]]}, {"results": [], "failed": [[0, "clash", "unplanned"]]},
        *({"planned": value} for value in ("x", None, 1.5, -1, True, [1], 10**30)),
        *broken(GOOD_INTENT, "from", "to", "size", "mtime"), GOOD_INTENT | {"do": "0"}, GOOD_INTENT | {"part": -1},
        GOOD_INTENT | {"sample": 3}, GOOD_INTENT | {"offset": 1 << 63}, GOOD_INTENT | {"length": "1"},
        *broken(GOOD_SHARD, "pictures", "num_files", "bytes", "renamed", "files", "left_out"),
        GOOD_SHARD | {"files": [["/0.tar", 1, None, "ab"]]}, GOOD_SHARD | {"left_out": [["s", "missing"]]},
    ],
)  # fmt: skip
def test_a_journal_that_someone_edited_is_refused_in_words(tmp_path: Path, line: dict[str, Any]) -> None:
    path = tmp_path / "j.jsonl"
    lines = [FIRST, {"folder": "/t"}, line, {"planned": 1}]
    write_journal(path, lines)
    with pytest.raises(
        InputError, match=r"j\.jsonl is damaged in line 3 \(.*\); nothing was touched: restore a whole copy of it"
    ):
        read_journal(str(path))


@pytest.mark.parametrize("good", [GOOD_INTENT, GOOD_SHARD, {"skip": "s", "reason": "missing", "text": "t"}])
def test_lines_that_nobody_edited_are_taken(tmp_path: Path, good: dict[str, Any]) -> None:
    path = tmp_path / "j.jsonl"
    lines = [FIRST, good | {"what a later version says": None}, {"planned": 1}]
    write_journal(path, lines)
    told = read_journal(str(path))
    assert (told.num_planned, len(told.shards), len(told.unsettled)) == (1, "shard" in good, "do" in good)


@pytest.mark.parametrize(("field", "value"), [("action", "x"), ("action", None), ("target", 3), ("id", None), ("time", [])])
def test_a_first_line_that_someone_edited_is_refused_in_words(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "j.jsonl"
    write_journal(path, [FIRST | {field: value}])
    with pytest.raises(InputError, match=rf"damaged in line 1 \('{field}' cannot be"):
        read_journal(str(path))


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\nno lines", b"[" * 100_000 + b"\n", b"a,b\n1,2\n"])
def test_other_files_are_no_journals(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "other").write_bytes(data)
    with pytest.raises(InputError, match="is no journal of beholder"):
        read_journal(str(tmp_path / "other"))


def test_an_act_that_is_being_undone_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with new_journal(str(path), action="move", target="/t") as (log, _):
        log.write({"undo": "begin"})
    with pytest.raises(InputError, match="being undone"), reopened(str(path)):
        pass
    with reopened(str(path), for_undo=True) as (_, told):
        assert told.is_undone
