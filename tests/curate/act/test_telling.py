"""What is said of an act that is done already, of what an undo left and why, and of pictures that a move took elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beholder import InputError
from beholder.curate.act.messages import shown_path, shown_text, undo_command
from oracles.acting import act, contents, photos, take_back
from oracles.journals import lines_of, write_journal

NAMES = ["a.jpg", "b/c.png", "e.f.jpg"]


def stamp(journal: Path) -> str:
    """When the act ended, as people read it."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    time: str = next(line["time"] for line in reversed(lines) if line.get("end") == "done")
    return f"{time[:10]} {time[11:16]} UTC"


@pytest.mark.parametrize(("action", "verb"), [("copy", "copied"), ("link", "linked"), ("symlink", "linked"), ("move", "moved")])
def test_a_finished_act_is_said_to_be_done(here: Path, action: str, verb: str) -> None:
    table = photos(*NAMES)
    act(table, **{action: "best"}, apply=True)
    before, num_bytes = contents(here), sum(len(data) for data in contents(here / "best").values() if isinstance(data, bytes))
    for apply in (False, True):
        summary, said = act(table, **{action: "best"}, apply=apply)
        size = f"{num_bytes} bytes" if num_bytes < 1000 else f"{num_bytes / 1000:.1f} kB"
        if action != "symlink":
            when = stamp(here / "best.journal.jsonl")
            assert said[0] == f"done already, {when}: {verb} 3 pictures, {size} to best (journal: best.journal.jsonl)"
        assert said[1:] == [
            "nothing is left to do; to take it back: beholder undo best.journal.jsonl --apply",
            "for another act name another folder, or another journal with --journal-out",
        ]
        assert (summary.earlier, summary.exit_status) == ("finished", 0)
    assert contents(here) == before


def test_what_had_been_left_out_is_done_now(here: Path) -> None:
    table = photos(*NAMES)
    hidden = here / "photos" / "a.jpg"
    hidden.rename(here / "away.jpg")
    assert act(table, copy="best", apply=True)[0].exit_status == 3
    left, said = act(table, copy="best")
    assert left.exit_status == 3
    assert said[0].startswith("done already")
    assert "left out: 1 picture" in said
    assert said[-2] == "to take it back: beholder undo best.journal.jsonl --apply"
    (here / "away.jpg").rename(hidden)
    summary, said = act(table, copy="best")
    assert (summary.num_before, summary.num_done) == (2, 3)
    assert any(line.startswith("would copy 1 picture, ") and line.endswith(" that had been left out") for line in said)
    assert said[-1] == "nothing has been touched; add --apply to do it"
    done, said = act(table, copy="best", apply=True)
    assert (done.num_done, done.exit_status) == (3, 0)
    assert any(line.startswith("copied 1 picture, ") and line.endswith(" that had been left out") for line in said)


def test_an_act_whose_files_are_gone(here: Path) -> None:
    act(photos(*NAMES), copy="best", apply=True)
    (here / "best" / "a.jpg").unlink()
    summary, said = act(photos(*NAMES), copy="best")
    assert len(summary.notes) == 1
    assert said[1].startswith("not all of it is there any more: best/a.jpg is gone; to have it anew, take back what is left")
    assert not any("nothing is left to do" in line for line in said)


@pytest.mark.parametrize("action", ["tars", "hf_parquet"])
def test_packing_that_is_finished(here: Path, action: str) -> None:
    table = photos(*NAMES)
    act(table, **{action: "out"}, shard_count=2, apply=True)
    before = contents(here)
    summary, said = act(table, **{action: "out"}, shard_count=2)
    assert (summary.num_before, summary.num_shards_before, summary.num_shards) == (3, 2, 2)
    assert said[0].startswith(f"done already, {stamp(here / 'out.journal.jsonl')}: packed 3 pictures, ")
    assert f"in 2 {'tars' if action == 'tars' else 'Parquet files'} to out" in said[0]
    assert said[-2:] == [
        "nothing is left to do; to take it back: beholder undo out.journal.jsonl --apply",
        "for another act name another folder, or another journal with --journal-out",
    ]
    assert contents(here) == before


def test_an_undo_says_what_it_left_and_what_to_do(here: Path) -> None:
    done, _ = act(photos(*NAMES), copy="best", apply=True)
    (here / "best" / "a.jpg").write_bytes(b"edited")
    would, said = take_back(done.journal, dry_run=True)
    assert would.exit_status == 3
    assert said[0].startswith("2 pictures, ")
    assert said[0].endswith(": would be taken away")
    assert said[1:] == [
        "would be left as it is: 1 file",
        "  1 changed",
        "    best/a.jpg has changed since it was made",
        "see to it by hand, then run it again: beholder undo best.journal.jsonl --apply "
        "(until nothing is left, a new act needs another --journal-out)",
        "nothing has been touched; add --apply to do it",
    ]
    undone, said = take_back(done.journal)
    assert (undone.exit_status, undone.num_done) == (3, 2)
    assert said[0].endswith(": taken away")
    assert said[1] == "left as it is: 1 file"
    assert said[-1].startswith("see to it by hand, then run it again: beholder undo best.journal.jsonl --apply")
    for apply in (False, True):
        with pytest.raises(InputError) as refused:
            act(photos(*NAMES), copy="best", apply=apply)
        told = "an undo of this act was begun and left 1 file as it was; see why (beholder undo best.journal.jsonl) and end it"
        assert told in str(refused.value)
    assert contents(here / "best") == {"a.jpg": b"edited"}
    second, _ = act(photos(*NAMES), copy="best", apply=True, journal="second.jsonl")
    assert (second.num_done, second.reasons) == (2, {"clash": 1})
    assert (here / "best" / "a.jpg").read_bytes() == b"edited"
    take_back("second.jsonl")
    (here / "best" / "a.jpg").unlink()
    ended, said = take_back(done.journal)
    assert (ended.exit_status, said) == (0, ["nothing was taken away: nothing of it is left to take back"])
    assert act(photos(*NAMES), copy="best", apply=True)[0].num_done == 3


def test_an_undo_that_was_killed_is_not_taken_for_one_that_left_something(here: Path) -> None:
    done, _ = act(photos(*NAMES), copy="best", apply=True)
    journal = here / "best.journal.jsonl"
    write_journal(journal, [*lines_of(journal), {"undo": "begin"}])
    with pytest.raises(InputError, match="was begun and is not finished; run it again"):
        act(photos(*NAMES), copy="best")
    assert take_back(done.journal)[0].exit_status == 0
    assert not (here / "best").exists()


def test_each_kind_of_file_that_a_move_back_leaves(here: Path) -> None:
    done, _ = act(photos(*NAMES), move="away", apply=True)
    (here / "away" / "a.jpg").write_bytes(b"edited")
    (here / "photos" / "b" / "c.png").write_bytes(b"new")
    (here / "away" / "e.f.jpg").unlink()
    _, said = take_back(done.journal)
    assert said[:2] == ["nothing was moved back", "left as they are: 3 files"]
    assert sorted(said[2:-1]) == [
        "    away/a.jpg has changed since it was looked at",
        "    away/e.f.jpg is not there any more, so it cannot be moved back",
        "    photos/b/c.png is there already, so away/b/c.png stays",
        "  1 changed",
        "  1 clash",
        "  1 missing",
    ]


def test_paths_are_shown_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "h.re"
    here.mkdir()
    monkeypatch.chdir(here)
    for text, shown in (
        (f"{here}/a.jpg is there already", "a.jpg is there already"),
        (f"left: {here}/a.jpg, '{here}/b', ({here}/c) and [{here}/d", "left: a.jpg, 'b', (c) and [d"),
        (f"/mnt{here}/a.jpg stays: /mnt{here}/b", f"/mnt{here}/a.jpg stays: /mnt{here}/b"),
        (f"file://{here}/a.jpg", f"file://{here}/a.jpg"),
        (f"{here}2/a.jpg", f"{here}2/a.jpg"),
        (f"{tmp_path}/hare/a.jpg", f"{tmp_path}/hare/a.jpg"),
        ("a.jpg", "a.jpg"),
        ("", ""),
    ):
        assert shown_text(text) == shown
    assert shown_path(f"{here}/x y/a.jpg") == "x y/a.jpg"
    assert shown_path(f"/mnt/x {here}/a.jpg") == f"/mnt/x {here}/a.jpg"
    assert shown_path(f"{here}/n\n.jpg") == r"'n\n.jpg'"
    monkeypatch.chdir("/")
    assert shown_text("/a/b.jpg stays: s3://c/d and '/e'") == "/a/b.jpg stays: s3://c/d and '/e'"
    assert (shown_path("/a/b"), undo_command("/-k.jsonl")) == ("/a/b", "beholder undo /-k.jsonl --apply")


def test_the_undo_that_is_told_can_be_typed(here: Path) -> None:
    for target, command in (("-k", "./-k.journal.jsonl"), ("k l", "'k l.journal.jsonl'")):
        for apply in (True, False):
            _, said = act(photos("a.jpg"), copy=target, apply=apply)
            assert any(line.endswith(f"to take it back: beholder undo {command} --apply") for line in said)


def test_an_undo_of_an_act_that_did_nothing(here: Path) -> None:
    for action, words in (("move", "moved back"), ("copy", "taken away")):
        done, _ = act(photos("none.jpg"), **{action: action}, apply=True)
        assert done.reasons == {"missing": 1}
        assert take_back(done.journal, dry_run=True)[1] == [f"nothing would be {words}: nothing of it is left to take back"]
        assert take_back(done.journal)[1] == [f"nothing was {words}: nothing of it is left to take back"]


def test_an_undo_of_what_its_owner_has_brought_back(here: Path) -> None:
    done, _ = act(photos("a.jpg"), move="away", apply=True)
    (here / "away" / "a.jpg").rename(here / "photos" / "a.jpg")
    assert take_back(done.journal)[1] == ["nothing was moved back: nothing of it is left to take back"]
    assert not (here / "away").exists()


def test_where_pictures_may_be_is_said_once(here: Path) -> None:
    (here / "photos").rename(here / "away")
    (here / "photos").mkdir()
    for action in ("copy", "tars"):
        summary, said = act(photos("odd#2", "a.jpg", "more#3"), **{action: "best"})
        assert summary.reasons == {"missing": 3}
        assert sum(line.count("--pictures or --root") for line in said) == 1, said


@pytest.mark.parametrize("action", ["tars", "hf_parquet"])
def test_shards_that_an_undo_left(here: Path, action: str) -> None:
    table = photos(*NAMES)
    done, _ = act(table, **{action: "out"}, shard_count=1, apply=True)
    (here / "photos" / "a.jpg").unlink()
    would, said = take_back(done.journal, dry_run=True)
    assert (would.exit_status, said[1]) == (3, "would be left as it is: 1 shard")
    left, said = take_back(done.journal)
    assert (left.num_shards, said[-1].endswith("(until nothing is left, a new act needs another folder)")) == (2, True)
    flag = action.replace("_", "-")
    with pytest.raises(InputError, match=f"left 1 shard as it was; see why .*, or name another folder with --{flag}$"):
        act(table, **{action: "out"}, shard_count=1)
    with pytest.raises(InputError, match="is the journal of another act"):
        act(photos("b/c.png"), **{action: "out"}, shard_count=1)
    (here / "photos" / "a.jpg").write_bytes(b"anew")
    again, _ = act(table, **{action: "out2"}, shard_count=1, apply=True)
    assert again.num_done == 3
    for path in (here / "out").iterdir():
        path.unlink()
    ended, said = take_back(done.journal)
    assert (ended.exit_status, said) == (0, ["nothing was taken away: nothing of it is left to take back"])
    assert not (here / "out").exists()
    assert act(table, **{action: "out"}, shard_count=1, apply=True)[0].num_done == 3


def test_a_table_whose_tar_is_gone_goes_though_a_picture_is_gone_too(here: Path) -> None:
    done, _ = act(photos(*NAMES), tars="out", apply=True)
    (here / "photos" / "a.jpg").unlink()
    (here / "out" / "00000.tar").unlink()
    assert take_back(done.journal)[0].exit_status == 0
    assert not (here / "out").exists()


def test_an_undo_of_another_selection_is_not_said_to_be_of_this_one(here: Path) -> None:
    done, _ = act(photos(*NAMES), copy="best", apply=True)
    (here / "best" / "a.jpg").write_bytes(b"edited")
    take_back(done.journal)
    with pytest.raises(InputError, match=r"is the journal of another act .*name another with --journal-out$"):
        act(photos("b/c.png"), copy="best")


def test_trying_in_vain_once_more_leaves_the_journal_as_it_is(here: Path) -> None:
    (here / "best" / "b").mkdir(parents=True)
    (here / "best" / "a.jpg").write_bytes(b"mine")
    (here / "photos" / "e.f.jpg").rename(here / "away.jpg")
    table = photos(*NAMES)
    assert act(table, copy="best", apply=True)[0].reasons == {"clash": 1, "missing": 1}
    journal = here / "best.journal.jsonl"
    lines = lines_of(journal)
    lines[-1]["time"] = "2026-01-02T03:04:05+00:00"
    write_journal(journal, lines)
    before = journal.read_bytes()
    for apply in (True, False, True):
        summary, said = act(table, copy="best", apply=apply)
        assert said[0].startswith("done already, 2026-01-02 03:04 UTC: copied 1 picture, ")
        assert (summary.reasons, journal.read_bytes()) == ({"clash": 1, "missing": 1}, before)
    (here / "away.jpg").rename(here / "photos" / "e.f.jpg")
    assert act(table, copy="best", apply=True)[0].num_done == 2
    _, said = act(table, copy="best")
    assert said[0].startswith(f"done already, {stamp(journal)}: copied 2 pictures, ")
    assert stamp(journal) != "2026-01-02 03:04 UTC"
