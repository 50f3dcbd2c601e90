"""Captions that two pictures share, of which the first, the second or both fail in the act, before and after a kill, undone."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beholder.curate.act.messages import ActionSummary
from oracles.acting import act, contents, photos, score_table, take_back
from oracles.journals import lines_of, write_journal
from oracles.tar_making import png

PAIR = ("cat.jpg", "cat.png")
ACTIONS = ("copy", "link", "symlink", "move")
FAILING = [(), ("cat.jpg",), ("cat.png",), PAIR]
JOURNAL = "kept.journal.jsonl"


@pytest.fixture
def pair(here: Path) -> Path:
    """`photos` with two pictures of one stem, the words of both, and words of one alone."""
    for name, data in {"cat.jpg": png(1), "cat.png": png(2), "cat.txt": b"words", "cat.jpg.json": b"{}"}.items():
        (here / "photos" / name).write_bytes(data)
    return here


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this system has no second disk that can be written")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def expected_names(action: str, failing: tuple[str, ...]) -> set[str]:
    """What has to be in the target, where these pictures fail."""
    found = set(PAIR) - set(failing)
    if "cat.jpg" in found:
        found.add("cat.jpg.json")
    if (not failing) if action == "move" else len(failing) < 2:
        found.add("cat.txt")
    return found


def check(summary: ActionSummary, said: list[str], action: str, target: Path, failing: tuple[str, ...]) -> None:
    """The target holds what it has to, the counts are those of the files, and what is said of the words is true."""
    names = expected_names(action, failing)
    assert set(contents(target)) == names
    assert (summary.num_done, summary.num_files) == (len(names & set(PAIR)), len(names)), said
    assert summary.num_skipped == len(failing)
    of_words = [line for line in said if "photos/cat.txt" in line]
    if "cat.txt" in names:
        assert not of_words
        return
    verb = {"copy": "copied", "move": "moved"}.get(action, "linked")
    if action == "move":
        assert of_words == ["left where it was: photos/cat.txt, as a picture stays to which it belongs, too"]
        assert Path("photos/cat.txt").read_bytes() == b"words"
    else:
        assert of_words == [f"left where it is: photos/cat.txt: none of the pictures that it belongs to was {verb}"]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Run as a user who may not read everything, where that is who we are."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_pair(other_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As `pair`, in folders that anybody may use."""
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        monkeypatch.chdir(here)
        (here / "photos").mkdir()
        for folder in (here, here / "photos", other_disk):
            folder.chmod(0o777)
        for file, data in {"cat.jpg": png(1), "cat.png": png(2), "cat.txt": b"words", "cat.jpg.json": b"{}"}.items():
            (here / "photos" / file).write_bytes(data)
            if os.geteuid() == 0:
                os.chown(here / "photos" / file, 65534, 65534)
        yield here


@pytest.mark.parametrize("failing", FAILING)
@pytest.mark.parametrize("action", ["copy", "link", "move"])
def test_a_picture_that_fails_in_the_act(open_pair: Path, other_disk: Path, action: str, failing: tuple[str, ...]) -> None:
    """One that may not be read, or a link to another disk, where hard links cannot lead."""
    photos_folder = open_pair / "photos"
    kept = other_disk / "kept" if action == "move" else open_pair / "kept"  # else nothing is read for a move
    for name in failing:
        if action == "link":
            shutil.move(photos_folder / name, other_disk / name)
            (photos_folder / name).symlink_to(other_disk / name)
        else:
            (photos_folder / name).chmod(0)
    before = set(photos_folder.iterdir())
    options = {action: str(kept), "journal": JOURNAL, "apply": True}
    with as_nobody():
        done, said = act(photos(*PAIR), **options)
    check(done, said, action, kept, failing)
    for name in failing:  # what failed can be tried again, and then the words come, too
        if action == "link":
            (photos_folder / name).unlink()
            (photos_folder / name).write_bytes(png(7))
            if os.geteuid() == 0:
                os.chown(photos_folder / name, 65534, 65534)
        else:
            (photos_folder / name).chmod(0o644)
    with as_nobody():
        again, said = act(photos(*PAIR), **options)
        check_again = set(contents(kept))
        undone, undone_said = take_back(JOURNAL)
    assert check_again == expected_names(action, ()), said
    assert (again.num_done, again.num_files, again.exit_status) == (2, 4, 0)
    assert undone.exit_status == 0, undone_said
    assert not kept.exists()
    assert set(photos_folder.iterdir()) == before


def in_flight(here: Path, action: str, made: tuple[str, ...], **more: Any) -> None:
    """An act whose run was killed when it had made these files, in order, and had noted none of them."""
    done, _ = act(photos(*PAIR), **{action: "kept"}, apply=True, **more)
    assert done.num_files == 4
    lines = lines_of(here / JOURNAL)
    write_journal(here / JOURNAL, lines[: next(i for i, line in enumerate(lines) if "results" in line)])
    for name in {*PAIR, "cat.jpg.json", "cat.txt"} - set(made):
        if action == "move":
            (here / "kept" / name).rename(here / "photos" / name)
        else:
            (here / "kept" / name).unlink()


ORDER = {"move": ("cat.jpg", "cat.jpg.json", "cat.png", "cat.txt")}
"""In which files are made; of other acts the words come with the first picture."""


@pytest.mark.parametrize(("action", "failing", "num_made"), list(itertools.product(ACTIONS, FAILING, [0, 3])))
def test_an_act_that_was_killed_at_any_file(pair: Path, action: str, failing: tuple[str, ...], num_made: int) -> None:
    made = ORDER.get(action, ("cat.jpg", "cat.jpg.json", "cat.txt", "cat.png"))[:num_made]
    in_flight(pair, action, made)
    failing = tuple(name for name in failing if name not in made)
    for name in failing:
        (pair / "photos" / name).unlink()  # gone meanwhile
    before = contents(pair)
    planned, planned_said = act(photos(*PAIR), **{action: "kept"})
    assert contents(pair) == before
    done, said = act(photos(*PAIR), **{action: "kept"}, apply=True)
    names = expected_names(action, failing)
    assert (planned.num_done, planned.num_files, planned.num_bytes) == (done.num_done, done.num_files, done.num_bytes)
    assert set(contents(pair / "kept")) == names, said
    assert (done.num_done, done.num_files, done.num_skipped) == (len(names & set(PAIR)), len(names), len(failing))
    if "cat.txt" in names:
        assert not any("cat.txt" in line for line in said + planned_said)
    assert act(photos(*PAIR), **{action: "kept"})[0].num_files == len(names)
    undone, said = take_back(JOURNAL)
    assert (undone.num_files, undone.exit_status) == (len(names), 0), said
    assert not (pair / "kept").exists()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("num_made", [1, 3])
def test_a_killed_act_is_undone(pair: Path, action: str, num_made: int) -> None:
    made = ORDER.get(action, ("cat.jpg", "cat.jpg.json", "cat.txt", "cat.png"))[:num_made]
    before = contents(pair / "photos")
    in_flight(pair, action, made)
    undone, said = take_back(JOURNAL)
    assert (undone.num_files, undone.exit_status) == (num_made, 0), said
    assert contents(pair / "photos") == before
    assert not (pair / "kept").exists()


@pytest.mark.parametrize(
    ("action", "apart", "failing"),
    [*itertools.product(ACTIONS, [1], FAILING[1:]), *itertools.product(("link", "move"), [300], FAILING[:2])],
)
def test_killed_after_the_first_picture_was_noted(pair: Path, action: str, apart: int, failing: tuple[str, ...]) -> None:
    """The second is so many rows after the first, in the same batch or in one that was not planned yet."""
    others = [f"o{i:03d}.gif" for i in range(apart)]
    for name in others:
        (pair / "photos" / name).write_bytes(b"GIF89a")
    table = photos("cat.jpg", *others, "cat.png")
    act(table, **{action: "kept"}, apply=True)
    lines = lines_of(pair / JOURNAL)
    end = next(i for i, line in enumerate(lines) if "results" in line)
    first = next(line["do"] for line in lines if line.get("sample") == "photos/cat.jpg")
    noted = {"results": [], "copies": [], "failed": []}
    if "cat.jpg" in failing:
        noted["failed"] = [[first, "unreadable", "photos/cat.jpg: Input/output error"]]
    else:
        noted |= {"results": [[first, first]], "copies": lines[end]["copies"][:1]}
    write_journal(pair / JOURNAL, [*lines[:end], noted])
    for name in contents(pair / "kept"):
        if name != "cat.jpg" or "cat.jpg" in failing:
            if action == "move":
                (pair / "kept" / name).rename(pair / "photos" / name)
            else:
                (pair / "kept" / name).unlink()
    if "cat.png" in failing:
        (pair / "photos" / "cat.png").unlink()
    planned, _ = act(table, **{action: "kept"})
    done, said = act(table, **{action: "kept"}, apply=True)
    found = set(contents(pair / "kept"))
    wanted = expected_names(action, failing)
    assert found - set(others) == wanted, said
    assert (
        (planned.num_files, planned.num_done)
        == (done.num_files, done.num_done)
        == (len(found), len(found - {"cat.txt", "cat.jpg.json"}))
    )
    assert done.num_skipped == len(failing)
    undone, said = take_back(JOURNAL)
    assert (undone.num_files, undone.exit_status) == (len(found), 0), said


def test_words_in_a_zip_that_come_with_a_later_picture(here: Path) -> None:
    """Bytes are read along with so few pictures at a time that the second picture is in another piece than the words."""
    names = ["cat.jpg", *(f"o{i:02d}.gif" for i in range(40)), "cat.png"]
    with zipfile.ZipFile(here / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [*names, "cat.txt"]:
            archive.writestr(name, name.encode())
    table = score_table([f"z.zip/{name}" for name in names], ["z.zip"])
    act(table, copy="kept", apply=True)
    lines = lines_of(here / JOURNAL)
    first = next(line["do"] for line in lines if line.get("sample") == "z.zip/cat.jpg")
    end = next(i for i, line in enumerate(lines) if "results" in line)
    write_journal(here / JOURNAL, [*lines[:end], {"results": [], "copies": [], "failed": [[first, "unreadable", "gone"]]}])
    shutil.rmtree(here / "kept" / "z")
    planned, _ = act(table, copy="kept")
    done, said = act(table, copy="kept", apply=True)
    assert contents(here / "kept" / "z") == {name: name.encode() for name in [*names[1:], "cat.txt"]}, said
    assert (planned.num_done, planned.num_files) == (done.num_done, done.num_files) == (41, 42)
    assert take_back(done.journal)[0].num_files == 42
