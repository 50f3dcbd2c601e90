"""Acts as a kill leaves them: a journal that ends in the middle, and the files of that moment; undone and gone on with."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from beholder import InputError
from beholder.curate.act.journal import read_journal
from oracles.acting import act, contents, photos, score_table, take_back
from oracles.journals import lines_of, write_journal
from oracles.tar_making import png


def as_killed(journal: Path, made: list[Path], num_made: int, *, without: tuple[str, ...] = ()) -> None:
    """Have an act as if its run had been killed in its first batch, with `num_made` of the files that it made there."""
    lines = lines_of(journal)
    end = next(i for i, line in enumerate(lines) if "results" in line)
    write_journal(journal, [line for line in lines[:end] if not set(without) & set(line)])
    for path in made[num_made:]:
        path.unlink()


@pytest.fixture
def zipped(here: Path) -> pa.Table:
    """Scores of 40 pictures in a zip that packs them."""
    names = [f"{i:02d}.png" for i in range(40)]
    with zipfile.ZipFile(here / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, name in enumerate(names):
            archive.writestr(name, png(i))
    return score_table([f"z.zip/{name}" for name in names], ["z.zip"])


def killed_copies(here: Path, table: pa.Table, num_made: int, **more: Any) -> str:
    done, _ = act(table, copy="kept", apply=True)
    assert done.num_done == 40
    as_killed(here / "kept.journal.jsonl", [here / "kept" / "z" / f"{i:02d}.png" for i in range(40)], num_made, **more)
    return str(done.journal)


@pytest.mark.parametrize("num_made", [0, 1, 10, 32])
def test_copies_out_of_a_zip_that_a_killed_run_made_are_taken_away(here: Path, zipped: pa.Table, num_made: int) -> None:
    journal = killed_copies(here, zipped, num_made)
    assert take_back(journal, dry_run=True)[0].num_done == num_made
    undone, said = take_back(journal)
    assert (undone.num_done, undone.exit_status) == (num_made, 0), said
    assert not (here / "kept").exists()
    assert act(zipped, copy="kept", apply=True)[0].num_done == 40


def test_copies_of_a_killed_run_that_were_edited_or_lost_their_zip_stay(here: Path, zipped: pa.Table) -> None:
    journal = killed_copies(here, zipped, 3)
    (here / "kept" / "z" / "01.png").write_bytes(b"edited")
    undone, _ = take_back(journal)
    assert (undone.num_done, undone.reasons) == (2, {"changed": 1})
    assert contents(here / "kept") == {"z/01.png": b"edited"}
    (here / "kept" / "z" / "01.png").write_bytes(png(1))
    (here / "z.zip").rename(here / "away.zip")
    assert take_back(journal)[0].reasons == {"missing": 1}
    (here / "away.zip").rename(here / "z.zip")
    assert take_back(journal)[0].exit_status == 0


def test_what_an_undo_cannot_know_is_for_its_owner_to_take_away(here: Path, zipped: pa.Table) -> None:
    """A journal that does not say what was about to be written."""
    journal = killed_copies(here, zipped, 2, without=("sums",))
    undone, said = take_back(journal)
    assert undone.reasons == {"unfinished": 2}
    assert "  2 unfinished" in said
    with pytest.raises(InputError, match="left 2 files as they were"):
        act(zipped, copy="kept")
    for i in range(2):
        (here / "kept" / "z" / f"{i:02d}.png").unlink()
    assert take_back(journal)[0].exit_status == 0
    assert act(zipped, copy="kept", apply=True)[0].num_done == 40


def killed_act(here: Path, action: str, num_made: int) -> tuple[pa.Table, list[str]]:
    """One of 12 pictures, every third with a caption, killed when `num_made` files had been made; the table, and all files."""
    names = [f"{i:02d}.jpg" for i in range(12)]
    for i, name in enumerate(names):
        (here / "photos" / name).write_bytes(png(100 + i))
        if i % 3 == 0:
            (here / "photos" / name).with_suffix(".txt").write_bytes(b"caption %d" % i)
    files = [made for i, name in enumerate(names) for made in ([name, f"{i:02d}.txt"] if i % 3 == 0 else [name])]
    table = photos(*names)
    act(table, **{action: "kept"}, apply=True)
    as_killed(here / "kept.journal.jsonl", [], 0)
    for name in files[num_made:]:
        if action == "move":
            (here / "kept" / name).rename(here / "photos" / name)
        else:
            (here / "kept" / name).unlink()
    return table, files


@pytest.mark.parametrize("action", ["copy", "link", "symlink", "move"])
@pytest.mark.parametrize("num_made", [0, 1, 5, 16])
def test_what_a_killed_run_had_in_flight_is_counted_once(here: Path, action: str, num_made: int) -> None:
    table, files = killed_act(here, action, num_made)
    num_pictures = sum(name.endswith(".jpg") for name in files[:num_made])
    before = contents(here)
    planned, said = act(table, **{action: "kept"})
    assert contents(here) == before
    assert (planned.earlier, planned.num_before, planned.num_files_before) == ("interrupted", num_pictures, num_made)
    assert (planned.num_done, planned.num_files, planned.exit_status) == (12, 16, 0)
    shown = [line for line in said if line.startswith("  photos/")]
    assert len(shown) == min(5, 12 - num_pictures)
    done, said = act(table, **{action: "kept"}, apply=True)
    assert (done.num_before, done.num_files_before) == (num_pictures, num_made)
    assert (done.num_done, done.num_files, done.num_bytes, done.exit_status) == (12, 16, planned.num_bytes, 0)
    assert f"{num_pictures} picture{'s' if num_pictures != 1 else ''} of them by earlier runs" in said
    assert set(contents(here / "kept")) == set(files)
    again, _ = act(table, **{action: "kept"})
    assert (again.earlier, again.num_done, again.num_files) == ("finished", 12, 16)
    undone, _ = take_back(done.journal)
    assert (undone.num_done, undone.num_files, undone.exit_status) == (12, 16, 0)


def test_what_stands_in_the_way_of_what_a_killed_run_had_in_flight(here: Path) -> None:
    table, _ = killed_act(here, "copy", 2)
    (here / "kept" / "01.jpg").write_bytes(b"mine")
    (here / "photos" / "02.jpg").unlink()
    (here / "photos" / "03.jpg").unlink()
    for apply in (False, True):
        summary, _ = act(table, copy="kept", apply=apply)
        assert summary.reasons == {"clash": 1, "missing": 2}
        assert (summary.num_before, summary.num_done, summary.num_files) == (1, 9, 12)
    assert (here / "kept" / "01.jpg").read_bytes() == b"mine"
    assert not (here / "kept" / "03.txt").exists()


def test_pictures_that_were_tried_once_more_when_the_run_was_killed(here: Path) -> None:
    hidden = here / "photos" / "a.jpg"
    hidden.rename(here / "away.jpg")
    table = photos("a.jpg", "b/c.png", "e.f.jpg")
    act(table, copy="kept", apply=True)
    (here / "away.jpg").rename(hidden)
    act(table, copy="kept", apply=True)
    journal = here / "kept.journal.jsonl"
    lines = lines_of(journal)
    write_journal(journal, lines[: max(i for i, line in enumerate(lines) if "results" in line)])
    for made in (True, False):
        if not made:
            (here / "kept" / "a.jpg").unlink()
        summary, said = act(table, copy="kept")
        assert (summary.num_before, summary.num_done, summary.num_skipped) == (3 if made else 2, 3, 0), said
    os.utime(hidden)  # not as it was when it was planned: planned anew
    for apply in (False, True):
        summary, _ = act(table, copy="kept", apply=apply)
        assert (summary.num_before, summary.num_done, summary.num_skipped) == (2, 3, 0)


@pytest.mark.slow
def test_the_bytes_of_pictures_in_a_zip_are_read_few_at_a_time(here: Path) -> None:
    """128 pictures of 1 MB each that a killed run had not come to."""
    with zipfile.ZipFile(here / "z.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for i in range(128):
            archive.writestr(f"{i:03d}.png", bytes([i]) * 1_000_000)
    table = score_table([f"z.zip/{i:03d}.png" for i in range(128)], ["z.zip"])
    act(table, copy="kept", apply=True)
    made = sorted((here / "kept" / "z").iterdir())
    as_killed(here / "kept.journal.jsonl", made, 0)
    assert len(read_journal("kept.journal.jsonl").unsettled) == 128
    tracemalloc.start()
    try:
        done, _ = act(table, copy="kept", apply=True)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (done.num_before, done.num_done) == (0, 128)
    assert most < 80_000_000
    assert all(path.read_bytes() == bytes([i]) * 1_000_000 for i, path in enumerate(made))
