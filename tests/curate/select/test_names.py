"""Names that are read piece by piece: later ones may not hold what the first made one expect; names of chosen rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.curate.select.ranking import Ranking
from beholder.curate.select.values import read_keys
from beholder.kernels.ordering import Chosen
from beholder.scoreset import row_reader
from beholder.scoreset.row_names import Names
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import open_scores

FIRST = {
    "ascends": [f"set/shard/{number:03d}" for number in range(40)],
    "mixed": [f"set/shard/{number * 7 % 40:03d}" for number in range(40)],
    "one": ["set/shard/000"],
}
LATER = {
    "ascends": [f"set/sharp/{number:03d}" for number in range(40)],
    "goes on": [f"set/shard/{number * 3 % 40:03d}/x" for number in range(40)],
    "shorter": [f"set/{'abc'[number % 3]}" for number in range(40)],
    "empty": ["", "set/shard/0", "set/shar", ""],
    "other": [f"é{number * 11 % 40}" for number in range(40)],
}


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row group is a piece."""
    monkeypatch.setattr(row_reader, "GROUP_ROWS", 1)
    monkeypatch.setattr(row_reader, "SMALL_FILE_BYTES", 0)


def write_set(folder: Path, *pieces: list[str]) -> str:
    """A set in which all scores are equal, a row group for each list of names."""
    schema = pa.schema([("sample", pa.string()), ("aesthetic_score", pa.float32())])
    with pq.ParquetWriter(folder / "scores.parquet", schema) as writer:
        for names in pieces:
            scores = np.full(len(names), 5, np.float32)
            writer.write_table(pa.table({"sample": names, "aesthetic_score": scores}, schema=schema))
    return str(folder / "scores.parquet")


@pytest.mark.parametrize("later", list(LATER))
@pytest.mark.parametrize("first", list(FIRST))
@pytest.mark.usefixtures("small_pieces")
def test_later_names_may_begin_otherwise(tmp_path: Path, first: str, later: str) -> None:
    pieces = [FIRST[first], LATER[later], FIRST["mixed"]]
    names = [name for piece in pieces for name in piece]
    expected = sorted(range(len(names)), key=lambda row: (names[row].encode(), row))
    dropped = (np.arange(len(names)) % 3 == 0).astype(np.uint8)
    left = [row for row in expected if not dropped[row]]
    with open_scores(write_set(tmp_path, *pieces)) as scores:
        reader = RowReader(scores, num_threads=2)
        keys = read_keys(reader, "aesthetic_score")
        for asked_before in (False, True):
            known = Names(reader)
            if asked_before:
                known.scan()
            ranking = Ranking(keys, known, 2, few_rows=0)
            assert ranking.kept_best_first(dropped).tolist() == left
            order, ranks = ranking.kept_in_order(dropped)
            assert order.tolist() == left
            assert ranks.tolist() == [expected.index(row) + 1 for row in left]


@pytest.mark.usefixtures("small_pieces")
def test_names_that_are_wanted_again_are_read_once(tmp_path: Path) -> None:
    """Few rows: the names that decide ties serve for the result as well."""
    told: list[str] = []
    with open_scores(write_set(tmp_path, FIRST["mixed"], LATER["goes on"])) as scores:
        reader = RowReader(scores)
        keys = read_keys(reader, "aesthetic_score")
        names = Names(reader, lambda what, _: told.append(what))
        dropped = (np.arange(80) % 2).astype(np.uint8)
        Ranking(keys, names).kept_in_order(dropped)
        kept = names.of(np.arange(0, 80, 2, dtype=np.uint32))
    assert told == ["names"] * 2  # the two pieces, once each
    assert kept.to_pylist() == [*FIRST["mixed"], *LATER["goes on"]][::2]


def test_chosen_rows_of_a_stretch() -> None:
    chosen = Chosen(np.array([0, 3, 4, 9, 4_294_967_293], np.uint32))
    assert chosen.within(0, 3) == slice(0, 1)
    assert chosen.within(3, 10) == slice(1, 4)
    assert chosen.within(4_294_967_293, 4_294_967_294) == slice(4, 5)
    assert [chosen.any(1, 3), chosen.any(1, 4), chosen.any(9, 9), chosen.any(10, 4_294_967_294)] == [False, True, False, True]
    assert not Chosen(np.empty(0, np.uint32)).any(0, 100)
