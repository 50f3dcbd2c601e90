"""Score sets in which a picture has several rows: each is acted on once, and every run says the same of the others."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from beholder import InputError
from oracles.acting import act, contents, photos, take_back
from oracles.journals import lines_of
from oracles.tar_making import png


@pytest.mark.parametrize("seed", range(3))
def test_each_name_once(here: Path, seed: int) -> None:
    rng = random.Random(seed)
    names = [f"{rng.randrange(20)}ö.jpg" for _ in range(rng.choice([2, 50, 300]))]
    for name in names:
        (here / "photos" / name).write_bytes(name.encode())
    chunks = [names[at : at + 70] for at in range(0, len(names), 70)]
    summary, _ = act(pa.concat_tables([photos(*chunk) for chunk in chunks]), copy="best", apply=True)
    assert set(contents(here / "best")) == set(names)
    assert summary.num_done == len(set(names))
    assert summary.num_skipped == len(names) - len(set(names))
    again = [name for i, name in enumerate(names) if name in names[:i]]
    assert [name for _, name, _ in summary.examples] == [f"photos/{name}" for name in again[:5]]
    made = [line["sample"] for line in lines_of(here / "best.journal.jsonl") if "do" in line]
    assert made == [f"photos/{name}" for name in dict.fromkeys(names)]


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
