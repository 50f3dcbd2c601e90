"""Journals that are not as they were written: noticed before anything is touched, and said; what can be taken back still is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beholder import InputError
from beholder.errors import BeholderError
from oracles.acting import act, contents, photos, take_back
from oracles.journals import lines_of, write_journal
from oracles.tar_making import png

NAMES = ["a.jpg", "b/c.png", "b/d/ö.webp", "b/a.jpg", "e.f.jpg"]
JOURNAL = Path("kept.journal.jsonl")


def test_a_damaged_line_is_named_with_what_to_do(here: Path) -> None:
    act(photos(*NAMES), move="kept", apply=True)
    before = contents(here)
    text = JOURNAL.read_text()
    number = next(i for i, line in enumerate(text.splitlines(), 1) if "kept/a.jpg" in line)
    JOURNAL.write_text(text.replace("kept/a.jpg", "kept/b.jpg"))
    why = rf"damaged in line {number} \(its checksum is wrong.*nothing was touched: restore a whole copy of it"
    with pytest.raises(InputError, match=why):
        take_back(str(JOURNAL))
    with pytest.raises(InputError, match=why):
        act(photos(*NAMES), move="kept", apply=True)
    JOURNAL.write_text(text)
    assert contents(here) == before
    assert take_back(str(JOURNAL))[0].num_done == len(NAMES)


@pytest.mark.parametrize("action", ["move", "copy"])
@pytest.mark.parametrize("is_of_results", [True, False])
def test_a_damaged_last_line_counts_as_a_lost_end(here: Path, action: str, is_of_results: bool) -> None:
    """The line of the act's end, or that of what became of its files, which then are looked at."""
    before = contents(here)
    act(photos(*NAMES), **{action: "kept"}, apply=True)
    lines = JOURNAL.read_bytes().splitlines(keepends=True)
    assert b'"end":"done"' in lines[-1]
    if is_of_results:
        assert b'"results"' in lines[-2]
        lines.pop()
    lines[-1] = lines[-1][:12] + bytes([lines[-1][12] ^ 1]) + lines[-1][13:]
    JOURNAL.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=r"^kept\.journal\.jsonl has lost its end \(\d+ bytes\), so it is not known"):
        act(photos(*NAMES), **{action: "kept"}, apply=True)
    for dry_run in (True, False):
        summary, said = take_back(str(JOURNAL), dry_run=dry_run)
        assert any("its last line is damaged and counts as lost" in line for line in said), said
        assert (summary.num_done, summary.num_skipped) == (len(NAMES), 0)
    left = contents(here)
    assert {name: data for name, data in left.items() if name != JOURNAL.name} == before


@pytest.mark.parametrize("action", ["move", "copy"])
def test_a_journal_that_has_lost_its_end_says_which_files_it_does_not_name(here: Path, action: str) -> None:
    options = {action: "kept"}
    act(photos(*NAMES[:2]), **options, apply=True)
    first = JOURNAL.read_bytes().splitlines(keepends=True)
    take_back(str(JOURNAL))
    JOURNAL.unlink()
    act(photos(*NAMES), **options, apply=True)
    whole = JOURNAL.read_bytes()
    lines = whole.splitlines(keepends=True)
    num_intents = 2
    at = next(i for i, line in enumerate(lines) if b'"do":%d,' % num_intents in line)
    JOURNAL.write_bytes(b"".join(lines[:at]))
    assert len(first) < len(lines)
    for apply in (False, True):
        with pytest.raises(InputError, match=r"^kept\.journal\.jsonl has lost its end \(.* (kB|bytes)\), so it is not known"):
            act(photos(*NAMES), **options, apply=apply)
    unnamed = [f"kept/{name}" for name in NAMES[num_intents:]]
    for dry_run in (True, False, True, False):
        summary, said = take_back(str(JOURNAL), dry_run=dry_run)
        assert summary.exit_status == 3
        assert (summary.reasons["unnamed"], summary.num_skipped) == (3, 3)
        assert any(line.startswith("kept.journal.jsonl has lost its end (") for line in said), said
        assert "  3 unnamed" in said
        assert {name for name in unnamed if any(name in line for line in said)} == set(unnamed)
    assert {name for name in contents(here) if name.startswith("kept/")} == set(unnamed)
    for i, name in enumerate(NAMES):
        if i >= num_intents:
            (here / "kept" / name).unlink()
        elif action == "move":
            assert (here / "photos" / name).read_bytes() == contents(here)[f"photos/{name}"]
    done, said = take_back(str(JOURNAL))
    assert done.exit_status == 0, said
    assert not act(photos(NAMES[0]), **options)[0].num_skipped


def test_an_end_that_is_lost_and_told_nothing_more(here: Path) -> None:
    before = contents(here / "photos")
    act(photos(*NAMES), move="kept", apply=True)
    JOURNAL.write_bytes(b"".join(JOURNAL.read_bytes().splitlines(keepends=True)[:-2]))  # what became of it, and the end
    summary, said = take_back(str(JOURNAL))
    assert (summary.num_done, summary.exit_status) == (len(NAMES), 0)
    assert any("has lost its end" in line for line in said)
    assert contents(here / "photos") == before
    assert act(photos(*NAMES), move="kept", apply=True)[0].num_done == len(NAMES)


def test_an_act_that_was_stopped_midway_is_another_thing(here: Path) -> None:
    act(photos(*NAMES), copy="kept", apply=True)
    lines = lines_of(JOURNAL)
    write_journal(JOURNAL, lines[: next(i for i, line in enumerate(lines) if "results" in line)])
    with JOURNAL.open("ab") as file:
        file.write(b'{"results":[[0,')
    assert act(photos(*NAMES), copy="kept")[0].earlier == "interrupted"
    summary, said = take_back(str(JOURNAL))
    assert (summary.num_done, summary.exit_status) == (len(NAMES), 0)
    assert "this act was stopped before its end; what it had done is taken back" in said
    assert not any("lost" in line for line in said)
    assert not Path("kept").exists()


ODD: list[Any] = [None, True, -1, 1e308, 10**30, "", "\ud800", "../x\0", [], {"a": [1]}, [[0, 1, 2]], [["a", None]]]


def odd_lines(lines: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The first line of each kind with each of its fields of each odd value."""
    kinds = [frozenset(line) for line in lines]
    return [
        (number, line | {field: value})
        for number, line in enumerate(lines)
        if kinds.index(kinds[number]) == number
        for field in line
        for value in ODD
        if not (number == 0 and field in ("version", "written"))
    ]


def what_is_refused(attempt: Callable[[], object]) -> str | None:
    """What a user is told where something is refused; any other exception goes on."""
    try:
        attempt()
    except BeholderError as error:
        return str(error)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("action", ["move", "tars"])
def test_odd_values_are_one_line(here: Path, action: str) -> None:
    for i, name in enumerate(NAMES):
        (here / "photos" / name).write_bytes(png(i))
    act(photos(NAMES[0], "none.jpg"), **{action: "kept"}, apply=True)
    lines, refused = lines_of(JOURNAL), 0
    for number, line in odd_lines(lines):
        write_journal(JOURNAL, [*lines[:number], line, *lines[number + 1 :]])
        for attempt in (lambda: take_back(str(JOURNAL), dry_run=True), lambda: act(photos(NAMES[0]), **{action: "kept"})):
            said = what_is_refused(attempt)
            assert said is None or said.isprintable(), (number, line)
            refused += said is not None
    assert refused > 300
