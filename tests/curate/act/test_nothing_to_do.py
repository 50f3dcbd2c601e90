"""Acts of no picture at all, and dry runs that leave every picture out: nothing is written, and what is said is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from beholder.cli.select import select
from beholder.errors import InputError
from oracles.acting import act, contents, photos, take_back

NAMES = ["a.jpg", "b/c.png", "e.f.jpg"]
ACTIONS = [
    ("copy", "copy"), ("link", "link"), ("symlink", "link"), ("move", "move"), ("tars", "pack"), ("hf_parquet", "pack"),
]  # fmt: skip
APPLY = "nothing has been touched; add --apply to do it"

app = typer.Typer()
app.command("select")(select)


@pytest.mark.parametrize("apply", [False, True])
@pytest.mark.parametrize(("action", "verb"), ACTIONS)
def test_an_empty_selection_leaves_everything_as_it_is(here: Path, action: str, verb: str, apply: bool) -> None:
    summary, said = act(photos(*NAMES).slice(0, 0), **{action: "none"}, apply=apply)
    assert summary.warnings == [f"no picture is selected, so there is nothing to {verb}"]
    assert (said, summary.journal, summary.num_pictures, summary.exit_status) == ([], None, 0, 0)
    assert sorted(path.name for path in here.iterdir()) == ["photos"]


@pytest.mark.parametrize("apply", [False, True])
def test_an_empty_selection_leaves_a_journal_alone(here: Path, apply: bool) -> None:
    done, _ = act(photos("a.jpg"), copy="best", apply=True)
    before = contents(here)
    assert act(photos("a.jpg").slice(0, 0), copy="best", apply=apply)[0].exit_status == 0
    take_back(done.journal)
    after = contents(here)
    assert act(photos("a.jpg").slice(0, 0), copy="best", apply=apply)[0].warnings
    assert contents(here) == after != before


@pytest.mark.parametrize("flags", [[], ["--apply"], ["--json"], ["--quiet", "--apply"]])
@pytest.mark.parametrize("flag", ["--copy", "--tars"])
def test_the_command_warns_once(here: Path, flag: str, flags: list[str]) -> None:
    table = here / "s.csv"
    table.write_text("sample,aesthetic_score\nphotos/a.jpg,1\nphotos/b/c.png,2\n")
    before = contents(here)
    result = CliRunner().invoke(app, [str(table), "--min-score", "99", flag, "none", *flags])
    verb = "copy" if flag == "--copy" else "pack"
    assert (result.exit_code, result.stderr) == (0, f"warning: no picture is selected, so there is nothing to {verb}\n")
    assert contents(here) == before
    assert not (here / "none").exists()
    for word in ("--apply", "beholder undo", "copied", "would"):
        assert word not in result.stdout
    if "--json" in flags:
        assert json.loads(result.stdout)["action"]["warnings"] == [f"no picture is selected, so there is nothing to {verb}"]
    assert ("0 of 2 rows stay" in result.stdout) == (not {"--json", "--quiet"} & set(flags))


@pytest.mark.parametrize(("action", "verb"), ACTIONS)
def test_a_dry_run_that_leaves_everything_out_does_not_ask_for_more(here: Path, action: str, verb: str) -> None:
    summary, said = act(photos("none.jpg", "nor.jpg"), **{action: "best"})
    assert (summary.reasons, summary.exit_status) == ({"missing": 2}, 3)
    assert said[-1] == "nothing has been touched, and there is nothing to do: every picture is left out"
    assert not any("--apply" in line for line in said)
    _, said = act(photos("none.jpg", "a.jpg"), **{action: "best"})
    assert said[-1] == APPLY


@pytest.mark.parametrize(("action", "verb"), ACTIONS)
def test_an_act_that_did_nothing_is_in_no_others_way(here: Path, action: str, verb: str) -> None:
    (here / "photos").rename(here / "away")
    lost, _ = act(photos(*NAMES), **{action: "best"}, apply=True)
    assert (lost.num_done, lost.num_skipped) == (0, 3)
    (here / "root").mkdir()
    (here / "away").rename(here / "root" / "photos")
    for apply in (False, True):
        done, said = act(photos(*NAMES), **{action: "best"}, root="root", apply=apply)
        assert (done.num_done, done.reasons) == (3, {}), said
    aside = list(here.glob("best.journal.jsonl.*.undone"))
    assert len(aside) == 1
    assert take_back(str(aside[0]))[0].num_done == 0
    with pytest.raises(InputError, match="is the journal of another act"):  # it did something
        act(photos("a.jpg"), **{action: "best"}, root="root", apply=True)
    assert take_back(done.journal)[0].num_done == 3
    assert len(contents(here / "root" / "photos")) >= 3


@pytest.mark.parametrize("action", ["tars", "hf_parquet"])
def test_packing_that_did_nothing_is_tried_again(here: Path, action: str) -> None:
    (here / "photos").rename(here / "away")
    assert act(photos(*NAMES), **{action: "best"}, apply=True)[0].num_done == 0
    (here / "away").rename(here / "photos")
    assert act(photos(*NAMES), **{action: "best"}, apply=True)[0].num_done == 3


@pytest.mark.parametrize("count", [1, 3, 4, 65])
@pytest.mark.parametrize("action", ["copy", "tars", "hf_parquet"])
def test_a_dry_run_says_how_many_it_does_not_name(here: Path, action: str, count: int) -> None:
    names = [f"{i:04d}.jpg" for i in range(count)]
    for name in names:
        (here / "photos" / name).write_bytes(b"jpg")
    _, said = act(photos(*names), **{action: "best"}, **({} if action == "copy" else {"shard_count": 2}))
    most = 5 if action == "copy" else 3
    assert sum(" -> " in line for line in said) == min(count, most)
    assert [line for line in said if "more" in line] == ([f"  ... and {count - most} more"] if count > most else [])
