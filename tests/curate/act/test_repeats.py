"""Score sets in which a picture has several rows: each is acted on once, and every run says the same of the others."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from beholder import InputError
from beholder.curate.act.repeats import without_repeats
from oracles.acting import act, contents, photos, score_table, take_back
from oracles.tar_making import png


@pytest.mark.parametrize("seed", range(6))
def test_each_name_once(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"p/{rng.randrange(60)}ö" for _ in range(rng.choice([1, 2, 50, 300]))]
    chunks = [names[at : at + 70] for at in range(0, len(names), 70)]
    table = pa.table(
        {"sample": pa.chunked_array([pa.array(chunk, pa.large_string()) for chunk in chunks]), "n": range(len(names))}
    )
    kept, repeats = without_repeats(table)
    assert kept.column("sample").to_pylist() == list(dict.fromkeys(names))
    assert kept.column("n").to_pylist() == [names.index(name) for name in dict.fromkeys(names)]
    assert repeats == [name for i, name in enumerate(names) if name in names[:i]]


def test_no_rows_and_no_repeats() -> None:
    for names in ([], ["a"], ["a", "b"]):
        table = pa.table({"sample": pa.array(names, pa.large_string())})
        assert without_repeats(table) == (table, [])


@pytest.mark.parametrize("action", ["copy", "link", "symlink", "move"])
@pytest.mark.parametrize("count", [3, 300])
def test_every_run_says_the_same_of_a_row_that_comes_twice(here: Path, action: str, count: int) -> None:
    """300: the two rows are planned in different batches."""
    names = [f"{i:03d}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        (here / "photos" / name).write_bytes(png(i % 7))
    table = photos(*names, names[0])
    heard = []
    for apply in (False, True, True, False):
        summary, said = act(table, **{action: "best"}, apply=apply)
        assert (summary.num_pictures, summary.num_done, summary.reasons) == (count + 1, count, {"clash": 1})
        assert summary.exit_status == 3
        assert not any("was moved to" in line for line in said)
        heard.append(said[said.index("left out: 1 picture") :][:3])
    assert heard == [heard[0]] * 4
    assert heard[0][1:] == [
        "  1 whose place is taken",
        f"    photos/{names[0]}: a row before names the same picture",
    ]
    assert set(contents(here / "best")) == set(names)
    assert take_back("best.journal.jsonl")[0].num_done == count


def test_a_row_that_comes_twice_makes_another_act(here: Path) -> None:
    act(photos("a.jpg"), copy="best", apply=True)
    with pytest.raises(InputError, match="is the journal of another act"):
        act(photos("a.jpg", "a.jpg"), copy="best")


def test_the_act_itself_is_not_named_as_what_took_a_picture_away(here: Path) -> None:
    """Two names of one picture: the second finds nothing, as this very act moved it."""
    table = score_table(["photos/a.jpg", "./photos/a.jpg"], None)
    for apply in (True, True, False):
        summary, said = act(table, move="best", apply=apply)
        assert (summary.num_done, summary.exit_status) == (1, 3)
        assert not any("was moved to" in line for line in said), said
