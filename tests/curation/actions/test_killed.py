"""Acts as a kill leaves them: a journal that ends in the middle, and the files of that moment; undone and gone on with."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from beholder import InputError
from oracles.acting import act, contents, score_table, take_back
from oracles.tar_making import png


def as_killed(journal: Path, made: list[Path], num_made: int, *, without: tuple[str, ...] = ()) -> None:
    """Have an act as if its run had been killed in its first batch, with `num_made` of the files that it made there."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    end = next(i for i, line in enumerate(lines) if "results" in line)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines[:end] if not set(without) & set(line)))
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
    assert "  2 at which a run was killed, or that were there before: put elsewhere or delete, as you see fit" in said
    assert not any("run the act again" in line for line in said)
    with pytest.raises(InputError, match="left 2 files as they were"):
        act(zipped, copy="kept")
    for i in range(2):
        (here / "kept" / "z" / f"{i:02d}.png").unlink()
    assert take_back(journal)[0].exit_status == 0
    assert act(zipped, copy="kept", apply=True)[0].num_done == 40
