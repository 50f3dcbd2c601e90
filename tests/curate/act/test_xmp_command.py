"""`beholder select ... --xmp` and its undo from the command line: who gets how many stars, typed in by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from beholder.cli.select import select, undo
from beholder.errors import InputError
from beholder.train.ratings.read import read_ratings
from oracles.acting import contents
from oracles.program import beholder
from oracles.sidecars import LIGHTROOM, said, stars_below
from oracles.tar_making import png

PAGE = Path(__file__).resolve().parents[3] / "docs" / "bad-input.md"
app = typer.Typer()
app.command("select")(select)
app.command("undo")(undo)


def run(*line: str) -> Result:
    return CliRunner().invoke(app, list(line))


def scored(names: list[str], scores: list[float | None], **more: list[object]) -> None:
    """Pictures below `photos`, and scores.csv with their scores in this order."""
    rows = [",".join(["sample", "aesthetic_score", *more])]
    for i, (name, score) in enumerate(zip(names, scores, strict=True)):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).write_bytes(png(i))
        rows.append(",".join([f"photos/{name}", "" if score is None else str(score), *(str(more[key][i]) for key in more)]))
    Path("scores.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def twenty() -> None:
    """01.png has the lowest score of twenty, 20.png the highest; they stand in no order."""
    numbers = [7, 20, 3, 14, 1, 18, 9, 12, 5, 16, 2, 11, 19, 8, 15, 4, 13, 6, 17, 10]
    scored([f"{number:02}.png" for number in numbers], [number / 10 for number in numbers])


def test_twenty_pictures_get_stars_by_rank_and_lose_them_again(here: Path) -> None:
    """5 % are 1 picture, 15 % are 3, 30 % are 6 and 6, 20 % are 4."""
    twenty()
    before = contents(here)
    shown = run("select", "scores.csv", "--xmp")
    assert shown.exit_code == 0, shown.output
    assert "  photos/20.png.xmp: 5 stars (new)\n  photos/19.png.xmp: 4 stars (new)\n" in shown.output
    assert (
        "would rate 20 pictures in XMP sidecars\n1 with 5 stars, 3 with 4 stars, 6 with 3 stars, 6 with 2 stars" in shown.output
    )
    assert "4 with 1 star; 20 new sidecars, 0 changed\n" in shown.output
    assert "nothing has been touched; add --apply to do it" in shown.output
    assert contents(here) == before

    done = run("select", "scores.csv", "--xmp", "--apply", "--json")
    assert done.exit_code == 0, done.output
    action = json.loads(done.stdout)["action"]
    assert action["ratings"] == {"5": 1, "4": 3, "3": 6, "2": 6, "1": 4}
    assert (action["num_done"], action["num_changed"]) == (20, 0)
    assert Path(action["journal"]) == here / "scores.csv.xmp.journal.jsonl"
    wanted = ["1"] * 4 + ["2"] * 6 + ["3"] * 6 + ["4"] * 3 + ["5"]
    assert stars_below("photos") == {f"{number:02}.png.xmp": stars for number, stars in enumerate(wanted, 1)}
    after = contents(here)
    assert {name: after[name] for name in before} == before

    read = read_ratings("photos")  # as `train` takes them
    numbers = zip(read.samples.to_pylist(), read.values.tolist(), strict=True)
    assert dict(numbers) == {f"{number:02}.png": float(stars) for number, stars in enumerate(wanted, 1)}

    again = run("select", "scores.csv", "--xmp", "--apply")
    assert again.exit_code == 0
    assert "nothing is left to do; to take it back: beholder undo scores.csv.xmp.journal.jsonl --apply" in again.output
    assert "for another act name another journal with --journal-out" in again.output
    assert contents(here) == after

    looked = run("undo", "scores.csv.xmp.journal.jsonl")
    assert "20 sidecars: 20 would be taken away, 0 would be put back as they were" in looked.output
    assert contents(here) == after
    back = run("undo", "scores.csv.xmp.journal.jsonl", "--apply")
    assert (back.exit_code, back.output) == (0, "20 sidecars: 20 taken away, 0 put back as they were\n")
    del after["scores.csv.xmp.journal.jsonl"]
    assert contents(here / "photos") == contents_of(before, "photos")
    assert run("select", "scores.csv", "--xmp", "--apply").exit_code == 0
    assert contents(here / "photos") == contents_of(after, "photos")


def contents_of(tree: dict[str, bytes | str], folder: str) -> dict[str, bytes | str]:
    return {name.removeprefix(f"{folder}/"): data for name, data in tree.items() if name.startswith(f"{folder}/")}


@pytest.mark.parametrize(
    ("num_rows", "shares", "wanted"),
    [
        (1, None, "5"),
        (2, None, "52"),  # 0.1, 0.4, 1, 1.6 and 2 rows: 1, 1, 1, 2, 2
        (3, None, "532"),  # 0.15, 0.6, 1.5, 2.4 and 3 rows: 1, 1, 2, 3, 3
        (3, "50%", "55-"),
        (4, "0%,0.25,0,50 %", "422-"),
        (4, "0,0,0,0,100%", "1111"),
    ],
)
def test_shares_end_at_whole_rows(num_rows: int, shares: str | None, wanted: str) -> None:
    scored([f"{i}.png" for i in range(num_rows)], [9 - i for i in range(num_rows)])
    done = run("select", "scores.csv", "--xmp", "--apply", *(["--xmp-stars", shares] if shares else []))
    assert done.exit_code == 0, done.output
    assert stars_below("photos") == {f"{i}.png.xmp": stars for i, stars in enumerate(wanted) if stars != "-"}


def test_of_no_pictures_nothing_is_written(here: Path) -> None:
    twenty()
    before = contents(here)
    done = run("select", "scores.csv", "--min-score", "9", "--xmp", "--apply")
    assert done.exit_code == 0
    assert "no picture is selected, so there is nothing to rate" in done.output
    assert contents(here) == before


def test_only_what_others_beat_is_rejected() -> None:
    """What a condition drops, what has no score, and what stood in the list before gets nothing."""
    names = ["best.png", "good.png", "bad.png", "worse.png", "other.png", "none.png"]
    scored(names, [9.0, 8.0, 3.0, 2.0, 9.5, None], place=["here"] * 4 + ["there", "here"])
    line = ("select", "scores.csv", "--where", "place = 'here'", "--top", "2", "--xmp", "--xmp-stars", "50%,50%")
    assert run(*line, "--apply", "--journal-out", "first.jsonl").exit_code == 0
    assert stars_below("photos") == {"best.png.xmp": "5", "good.png.xmp": "4"}
    done = run(*line, "--xmp-rejected", "--apply", "--journal-out", "second.jsonl", "--json")
    assert done.exit_code == 0, done.output
    action = json.loads(done.stdout)["action"]
    assert (action["ratings"], action["reasons"]) == ({"-1": 2}, {"rated": 2})
    assert stars_below("photos") == {
        "best.png.xmp": "5", "good.png.xmp": "4", "bad.png.xmp": "-1", "worse.png.xmp": "-1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "rejected"),
    [
        (("--min-score", "3"), {"c", "d"}),
        (("--max-score", "3"), set()),
        (("--quantile", "0.5"), {"c", "d"}),
        (("--top-share", "25%"), {"b", "c", "d"}),
        (("--exclude", "out.txt"), set()),
        (("--draw", "1"), set()),
        (("--marks", "marks.jsonl"), {"a"}),
        (("--budget", "1"), {"a", "b", "c", "d"}),
    ],
)
def test_rules_that_reject(rule: tuple[str, ...], rejected: set[str]) -> None:
    scored([f"{name}.png" for name in "abcd"], [4.0, 3.0, 2.0, 1.0], num_bytes=[70, 70, 70, 70])
    for name in "abcd":  # of the size that the table says
        Path("photos", f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n".ljust(70, b"."))
    Path("out.txt").write_text("photos/a.png\n")
    mark: dict[str, Any] = {"sample": "photos/a.png", "mark": "drop", "time": "2026-11-02T10:00:00.000+00:00"}
    Path("marks.jsonl").write_text(json.dumps(mark) + "\n")
    done = run("select", "scores.csv", *rule, "--xmp", "--xmp-stars", "none", "--xmp-rejected", "--apply")
    assert done.exit_code == 0, done.output
    assert stars_below("photos") == {f"{name}.png.xmp": "-1" for name in sorted(rejected)}


def test_labels_beside_stars_and_alone() -> None:
    scored(["a.png", "b.png", "c.png", "d.png"], [4.0, 3.0, 2.0, 1.0])
    Path("photos/d.xmp").write_text(LIGHTROOM.format(stars=0))
    labels = ("--xmp-labels", "Grün & <gut>=25%,Red=50%")
    done = run("select", "scores.csv", "--xmp", "--xmp-stars", "50%,0,50%", *labels, "--apply")
    assert done.exit_code == 0, done.output
    assert {name: said(f"photos/{name}") for name in ("a.png.xmp", "b.png.xmp", "c.png.xmp", "d.xmp")} == {
        "a.png.xmp": ("5", "Grün & <gut>"), "b.png.xmp": ("5", "Red"), "c.png.xmp": ("3", "Red"), "d.xmp": ("3", None),
    }  # fmt: skip
    assert run("undo", "scores.csv.xmp.journal.jsonl", "--apply").exit_code == 0
    alone = run("select", "scores.csv", "--xmp", "--xmp-stars", "none", "--xmp-labels", "Blue=25%", "--apply")
    assert "1 with a label alone; 1 new sidecar, 0 changed\n" in alone.output
    assert said("photos/a.png.xmp") == (None, "Blue")
    assert stars_below("photos") == {"a.png.xmp": None, "d.xmp": "0"}


def test_stars_inside_a_picture_stay_and_the_picture_is_never_touched(here: Path) -> None:
    """Pillow writes the picture with XMP in it; a sidecar beside would hide a person's four stars."""
    scored(["a.jpg", "b.jpg", "c.jpg"], [3.0, 2.0, 1.0])
    for name, stars in (("a", 4), ("b", 0), ("c", 1)):
        Image.new("RGB", (9, 9)).save(f"photos/{name}.jpg", xmp=LIGHTROOM.format(stars=stars).encode())
    before = contents(here / "photos")
    line = ("select", "scores.csv", "--xmp", "--xmp-stars", "100%", "--apply")
    done = run(*line)
    assert done.exit_code == 0, done.output
    assert "left as they are: 2 pictures\n  2 rated or labelled before (--xmp-replace replaces that)\n" in done.output
    assert "    photos/a.jpg has 4 stars\n    photos/c.jpg has 1 star\n" in done.output
    assert stars_below("photos") == {"b.jpg.xmp": "5"}
    assert run(*line, "--xmp-replace", "--journal-out", "second.jsonl").exit_code == 0
    assert stars_below("photos") == {"a.jpg.xmp": "5", "b.jpg.xmp": "5", "c.jpg.xmp": "5"}
    assert {name: data for name, data in contents(here / "photos").items() if name in before} == before


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--xmp", "--xmp-stars", "101%"], "--xmp-stars '101%': above 0 and at most 100%"),
        (["--xmp", "--xmp-stars", "60%,50%"], "--xmp-stars '60%,50%': these shares are 110 % together, more than all pictures"),
        (["--xmp", "--xmp-stars", "5"], "--xmp-stars '5': above 0 and at most 100%; did you mean 5%?"),
        (["--xmp", "--xmp-stars", "0,0"], "--xmp-stars '0,0' gives nothing to any picture; give a share above 0"),
        (["--xmp", "--xmp-stars", "many"], "--xmp-stars 'many' is no share; write for example 10% or 0.1"),
        (["--xmp", "--xmp-stars", "1%,1%,1%,1%,1%,1%"], "has 6 shares; give at most five, those of 5, 4, 3, 2 and 1 stars"),
        (["--xmp", "--xmp-stars", "none"], "--xmp-stars none leaves nothing to write; add --xmp-labels or --xmp-rejected"),
        (["--xmp", "--xmp-labels", "Green"], "--xmp-labels 'Green': 'Green' is no label with its share; write Green=10%"),
        (["--xmp", "--xmp-labels", "\a=5%"], "is no label with its share"),
        (["--xmp", "--copy", "there"], "--copy and --xmp: choose one at a time"),
        (["--top", "3", "--xmp-replace"], "--xmp-replace is for --xmp, which is not given"),
        (["--xmp-labels", "Green=5%"], "--xmp-labels is for --xmp, which is not given"),
        (["--top", "3", "--xmp-names", "adobe"], "--xmp-names is for --xmp, which is not given"),
        (["--xmp", "--tars", "there"], "--tars and --xmp: choose one at a time"),
        (["--xmp", "--shard-count", "3"], "--shard-count and --shard-bytes are for --tars and --hf-parquet"),
    ],
)
def test_flags_that_mean_nothing_are_one_line(flags: list[str], text: str, here: Path) -> None:
    twenty()
    before = contents(here)
    result = run("select", "scores.csv", *flags, "--apply")
    assert isinstance(result.exception, InputError)
    assert text in str(result.exception)
    assert str(result.exception).isprintable()
    assert contents(here) == before


def documented() -> dict[str, tuple[str, str]]:
    """Situation -> (line, exit status) of every row of the table about stars in docs/bad-input.md."""
    text = PAGE.read_text(encoding="utf-8").split("\n## Stars\n", 1)[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert all(todo for _, _, todo, _ in rows)
    return {situation: (line.strip("`"), status) for situation, line, _, status in rows[2:]}


SITUATIONS: dict[str, tuple[list[str], bytes | None]] = {
    "shares of more than all": (["--xmp", "--xmp-stars", "60%,50%"], None),
    "a share without %": (["--xmp", "--xmp-stars", "5"], None),
    "more shares than stars": (["--xmp", "--xmp-stars", "1%,1%,1%,1%,1%,1%"], None),
    "a label without its share": (["--xmp", "--xmp-labels", "Green"], None),
    "nothing to write": (["--xmp", "--xmp-stars", "none"], None),
    "a flag of --xmp without it": (["--xmp-replace"], None),
    "two acts at once": (["--xmp", "--copy", "there"], None),
    "a sidecar that is no XMP": (["--xmp"], b"no XML"),
    "a sidecar with a document type declaration": (["--xmp"], b"<!DOCTYPE x>" + LIGHTROOM.encode()),
    "a sidecar that is a symbolic link": (["--xmp"], b"->"),
}
"""Flags, and what is at photos/01.xmp."""


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_bad_input_says_is_documented(situation: str, here: Path) -> None:
    twenty()
    flags, sidecar = SITUATIONS[situation]
    if sidecar == b"->":
        (here / "photos" / "01.xmp").symlink_to("elsewhere.xmp")
    elif sidecar is not None:
        (here / "photos" / "01.xmp").write_bytes(sidecar)
    before = contents(here)
    done = beholder("select", "scores.csv", *flags, "--apply")
    line, status = documented()[situation]
    assert str(done.returncode) == status
    told = done.stderr.strip() if status == "1" else " ".join(done.stdout.partition("left out")[2].split("\n")[0:3])
    assert (told if status == "1" else " ".join(f"left out{told}".split())) == line
    after = contents(here)
    assert {name: after[name] for name in before} == before
    assert documented().keys() == SITUATIONS.keys()


def test_another_act_needs_another_journal(here: Path) -> None:
    twenty()
    assert run("select", "scores.csv", "--xmp", "--apply").exit_code == 0
    after = contents(here)
    result = run("select", "scores.csv", "--top", "3", "--xmp", "--apply")
    wanted = r"is the journal of another act (xmp of 20 pictures into their sidecars, begun "
    assert wanted in str(result.exception)
    assert str(result.exception).endswith("name another with --journal-out")
    assert contents(here) == after
