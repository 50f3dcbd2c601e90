"""Undo, and the journal that it reads: what has changed since is left alone, and a journal belongs to one act."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from beholder import InputError
from oracles.acting import NAMES, act, contents, photos, take_back
from oracles.tar_making import png


def test_undo_leaves_alone_what_has_changed(here: Path) -> None:
    done, _ = act(photos(), copy="best", apply=True)
    (here / "best" / "a.jpg").write_bytes(b"edited")
    stamp = (here / "best" / "b" / "c.png").stat()
    (here / "best" / "b" / "c.png").write_bytes(bytes(len(png(1))))
    os.utime(here / "best" / "b" / "c.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    (here / "photos" / "e.f.jpg").unlink()
    undone, _ = take_back(done.journal)
    assert undone.reasons == {"changed": 2, "missing": 1}
    assert undone.exit_status == 3
    with pytest.raises(InputError, match="an undo of this act was begun"):
        act(photos(), copy="best", apply=True)
    assert set(contents(here / "best")) == {"a.jpg", "b/c.png", "e.f.jpg"}
    done, _ = act(photos("a.jpg", "-x.jpg", "b/a.jpg"), move="away", apply=True)
    (here / "away" / "a.jpg").write_bytes(b"edited")
    (here / "photos" / "-x.jpg").write_bytes(b"new")
    (here / "away" / "b" / "a.jpg").unlink()
    undone, _ = take_back(done.journal)
    assert undone.reasons == {"changed": 1, "clash": 1, "missing": 1}
    assert (here / "photos" / "-x.jpg").read_bytes() == b"new"
    assert (here / "away" / "-x.jpg").read_bytes() == png(3)
    for action in ("link", "copy"):  # the original has become a link to what was made of it
        done, _ = act(photos("b/c.png"), **{action: action}, apply=True)
        (here / "photos" / "b" / "c.png").unlink()
        assert sum(take_back(done.journal)[0].reasons.values()) == 1
        (here / "photos" / "b" / "c.png").symlink_to(here / action / "b" / "c.png")
        assert sum(take_back(done.journal)[0].reasons.values()) == 1
        assert (here / action / "b" / "c.png").read_bytes() == png(1)
        (here / "photos" / "b" / "c.png").unlink()
        (here / "photos" / "b" / "c.png").write_bytes(png(1))


def test_a_journal_belongs_to_one_act(here: Path) -> None:
    act(photos("a.jpg"), copy="best", apply=True)
    with pytest.raises(InputError, match="journal of another act.*--journal"):
        act(photos("b/c.png"), copy="best", apply=True)
    act(photos("b/c.png"), copy="best", apply=True, journal="second.jsonl")
    assert set(contents(here / "best")) == {"a.jpg", "b/c.png"}
    (here / "x.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="no journal"):
        act(photos("b/c.png"), copy="third", apply=True, journal="x.jsonl")
    with pytest.raises(InputError, match="cannot read"):
        take_back("nothing.jsonl")
    (here / "e.jsonl").write_text("")
    with pytest.raises(InputError, match="empty"):
        take_back("e.jsonl")


def test_a_journal_says_what_is_done_before_it_is_done(here: Path) -> None:
    act(photos(), move="best", apply=True)
    lines = [json.loads(line) for line in (here / "best.journal.jsonl").read_text().splitlines()]
    assert lines[0]["format"] == "beholder-journal"
    planned = next(i for i, line in enumerate(lines) if "planned" in line)
    results = next(i for i, line in enumerate(lines) if "results" in line)
    assert sum("do" in line for line in lines[:planned]) == len(NAMES)
    assert planned < results
    assert lines[-1]["end"] == "done"


def test_the_folder_of_an_act_leads_to_its_journal(here: Path) -> None:
    before = contents(here / "photos")
    act(photos("a.jpg"), copy="best", apply=True)
    made = contents(here / "best")
    for named in ("best", "best/", str(here / "best")):
        with pytest.raises(InputError) as error:
            take_back(named, dry_run=False)
        assert str(error.value) == (
            f"{named} is the folder of an act; the journal is best.journal.jsonl: beholder undo best.journal.jsonl"
        )
    assert (contents(here / "best"), contents(here / "photos")) == (made, before)


def test_other_folders_and_names_that_are_not_there(here: Path) -> None:
    with pytest.raises(InputError, match="photos is a folder; name the journal of the act"):
        take_back("photos")
    with pytest.raises(InputError, match="cannot read nowhere"):
        take_back("nowhere")
    act(photos("a.jpg"), copy="best", apply=True)
    (here / "best").rename(here / "elsewhere")
    with pytest.raises(InputError, match=r"best is the folder of an act; the journal is best\.journal\.jsonl"):
        take_back("best")
