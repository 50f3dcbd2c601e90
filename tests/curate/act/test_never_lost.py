"""Things in the way of an act or an undo that look like its own work: the only copy of a file is never taken away."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from beholder.curate.act import files
from beholder.curate.act.files import Intent, Refused
from beholder.curate.act.journal import read_journal
from oracles.acting import act, contents, score_table, take_back


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).write_bytes(name.encode() * 50)
        os.utime(tmp_path / "photos" / name, ns=(10**18 + 123, 10**18 + 123))
    return tmp_path


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this system has no second disk that can be written")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


TABLE = ["photos/a.jpg", "photos/b.jpg"]
WHOLE = {"a.jpg": b"a.jpg" * 50, "b.jpg": b"b.jpg" * 50}


@pytest.mark.parametrize("action", ["copy", "link", "move"])
@pytest.mark.parametrize("way", ["folder", "file"])
def test_links_from_the_old_place_to_the_new_one(here: Path, action: str, way: str) -> None:
    done, _ = act(score_table(TABLE, ["photos"]), **{action: "best"}, apply=True)
    assert done.num_done == 2
    shutil.rmtree(here / "photos")
    if way == "folder":
        (here / "photos").symlink_to(here / "best")
    else:
        (here / "photos").mkdir()
        for name in WHOLE:
            (here / "photos" / name).symlink_to(here / "best" / name)
    for dry_run in (True, False):
        undone, _ = take_back(done.journal, dry_run=dry_run)
        assert (undone.num_done, undone.num_skipped) == (0, 2)
        assert contents(here / "best") == WHOLE
    if action == "move":
        (here / "photos").unlink() if way == "folder" else shutil.rmtree(here / "photos")
        assert take_back(done.journal)[0].num_done == 2
        assert contents(here / "photos") == WHOLE


def test_a_third_name_of_a_moved_file_does_not_make_one_of_two_ways(here: Path) -> None:
    os.link("photos/a.jpg", "third")
    done, _ = act(score_table(TABLE, ["photos"]), move="best", apply=True)
    (here / "photos").rmdir()
    (here / "photos").symlink_to("best")
    assert take_back(done.journal)[0].reasons == {"clash": 2}
    assert contents(here / "best") == WHOLE


def intent_of(here: Path, target: str) -> Intent:
    status = (here / "photos" / "a.jpg").stat()
    return Intent(0, "photos/a.jpg", str(here / "photos/a.jpg"), target, status.st_size, status.st_mtime_ns)


def test_a_killed_move_that_finds_a_link_at_its_target(here: Path) -> None:
    (here / "best").mkdir()
    (here / "best" / "a.jpg").symlink_to(here / "photos" / "a.jpg")
    (here / "same").symlink_to("photos")
    for target in ("best/a.jpg", "same/a.jpg"):
        with pytest.raises(Refused, match="is there already"):
            files.finish("move", intent_of(here, str(here / target)), "run", None)
    assert contents(here / "photos") == WHOLE


def test_a_move_killed_between_link_and_unlink_is_ended_either_way(here: Path) -> None:
    (here / "best").mkdir()
    intent = intent_of(here, str(here / "best/a.jpg"))
    os.link(intent.source, intent.target)
    assert files.is_spare(intent.source, intent.target)
    assert files.finish("move", intent, "run", None) is None
    assert not os.path.lexists(intent.source)
    assert (here / "best" / "a.jpg").read_bytes() == WHOLE["a.jpg"]


def test_what_a_killed_undo_to_another_disk_left_goes(here: Path, other_disk: Path) -> None:
    journal = str(here / "j.jsonl")
    act(score_table(TABLE, ["photos"]), move=str(other_disk / "best"), journal=journal, apply=True)
    half = files.temporary(
        intent_between(str(other_disk / "best/a.jpg"), str(here / "photos/a.jpg")), f"{run_of(journal)}-undo"
    )
    shutil.copy2(other_disk / "best" / "a.jpg", half)
    os.link(half, here / "photos" / "a.jpg")  # killed before it lost its first name
    assert take_back(journal)[0].num_skipped == 0
    assert contents(here / "photos") == WHOLE
    assert contents(other_disk) == {}


def run_of(journal: str) -> str:
    return str(read_journal(journal).header["id"])


def intent_between(source: str, target: str) -> Intent:
    return Intent(0, "photos/a.jpg", source, target, 1, 1)


def test_a_disk_that_keeps_times_less_exactly_gives_files_back(
    here: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = os.utime

    def to_the_second(path: str, ns: tuple[int, int]) -> None:
        exact(path, ns=(ns[0] // 10**9 * 10**9, ns[1] // 10**9 * 10**9))

    monkeypatch.setattr(os, "utime", to_the_second)
    journal = str(here / "j.jsonl")
    done, _ = act(score_table(TABLE, ["photos"]), move=str(other_disk / "best"), journal=journal, apply=True)
    assert done.num_done == 2
    assert (other_disk / "best" / "a.jpg").stat().st_mtime_ns == 10**18
    os.utime(other_disk / "best" / "b.jpg", ns=(5, 5))
    undone, _ = take_back(journal)
    assert (undone.num_done, undone.reasons) == (1, {"changed": 1})
    assert contents(here / "photos") == {"a.jpg": WHOLE["a.jpg"]}
    assert contents(other_disk / "best") == {"b.jpg": WHOLE["b.jpg"]}
