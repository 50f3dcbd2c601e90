"""Counts, listings and exports against a plain pass over the rows, and against `beholder select` itself."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.browse.about import about
from beholder.browse.export import EXPORT_FORMATS, ExportFormat, select_command, write_selection
from beholder.browse.marks import Mark
from beholder.browse.options import BrowseOptions
from beholder.browse.rejects import Rejects
from beholder.browse.session import Gone, Session, opened
from beholder.curation.selecting.options import OutputOptions, SelectRules
from beholder.curation.selecting.selection import select_rows
from beholder.curation.selecting.writing import write_lists
from beholder.errors import InputError
from beholder.scores.score_set import open_scores
from oracles.browse_sets import write_set

N = 400
HEADS = {"one": "sac+logos+ava1-l14-linearMSE", "two": "sa_0_4_vit_l_14_linear"}
WHERES: list[tuple[str, ...]] = [(), ("width < 200",), ("label = 'cat'", "width >= 17"), ("false",)]


def made() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    one = np.round(rng.normal(5, 0.5, N), 2).astype(np.float32)  # many ties
    missing = rng.random(N) < 0.05
    return {
        "sample": [f'folder/{"Ü" if i % 5 == 0 else "x"}{i * 7919 % N:04d}, "q".jpg' for i in range(N)],
        "one": pa.array(one, mask=missing),
        "two": rng.normal(6, 1, N).astype(np.float32),
        "width": pa.array([None if i % 17 == 0 else i for i in range(N)], pa.int32()),
        "label": [("cat", "dog", None)[i % 3] for i in range(N)],
        "rank": list(range(N)),
        "tags": [["a", "b"][: i % 3] for i in range(N)],
    }


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    path = write_set(tmp_path / "s.parquet", made(), heads=HEADS, row_group_rows=90)
    with open_scores(str(path)) as scores, opened(scores, tmp_path, BrowseOptions(scores=str(path))) as found:
        yield found


def table_of(session: Session) -> list[dict[str, Any]]:
    rows = pq.read_table(session.scores.source).to_pylist()
    return [{**row, "row": number, "mark": int(session.marks.state[number])} for number, row in enumerate(rows)]


def holds(row: dict[str, Any], where: tuple[str, ...]) -> bool:
    tests = {
        "width < 200": row["width"] is not None and row["width"] < 200,
        "label = 'cat'": row["label"] == "cat",
        "width >= 17": row["width"] is not None and row["width"] >= 17,
        "false": False,
    }
    return all(tests[text] for text in where)


def is_kept(row: dict[str, Any], score: str, where: tuple[str, ...], threshold: float) -> bool:
    if row["mark"] == Mark.KEEP:
        return True
    value = row[score]
    return row["mark"] == Mark.NONE and value is not None and holds(row, where) and value >= np.float32(threshold)


def by_score(score: str) -> Any:
    return lambda row: (row[score] is None, -(row[score] or 0), row["sample"].encode(), row["row"])


def mark_some(session: Session) -> None:
    rng = np.random.default_rng(9)
    for mark in (Mark.DROP, Mark.KEEP, Mark.NONE):
        session.mark(rng.integers(0, N, 40).tolist(), mark)


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("is_marked", [False, True])
@pytest.mark.parametrize("score", ["one", "two"])
def test_counts_and_listings_are_those_of_a_plain_pass(session: Session, where, is_marked: bool, score: str) -> None:
    if is_marked:
        mark_some(session)
    rows = table_of(session)
    view = session.view(score, where)
    inside = [row for row in rows if holds(row, where)]
    scored = sorted((row for row in inside if row[score] is not None), key=by_score(score))
    assert (view.num_matching, len(view.rows)) == (len(inside), len(scored))
    for threshold in (0.0, 4.5, 5.0, 5.13, 6.4, 99.0):
        kept = sorted((row for row in rows if is_kept(row, score, where, threshold)), key=by_score(score))
        dropped = sorted((row for row in scored if not is_kept(row, score, where, threshold)), key=by_score(score))
        counts = session.counts(view, threshold)
        assert counts["kept"] == len(kept)
        assert counts["above"] == sum(row[score] >= np.float32(threshold) for row in scored)
        listed = session.listing(view, "kept", "best", threshold=threshold)
        assert listed.rows.tolist() == [row["row"] for row in kept]
        without = sum(row[score] is None and row["mark"] != Mark.KEEP for row in inside)
        assert counts["dropped"] == len(dropped) + without
        assert session.listing(view, "dropped", "best", threshold=threshold).rows.tolist() == [row["row"] for row in dropped]
    assert session.listing(view, "all", "worst", threshold=0).rows.tolist() == [row["row"] for row in scored][::-1]
    shuffled = session.listing(view, "all", "random", threshold=0, seed=4)
    assert sorted(shuffled.rows.tolist()) == sorted(row["row"] for row in scored)
    assert session.listing(view, "all", "random", threshold=0, seed=4).key == shuffled.key
    low, high = 4.5, 5.0
    wanted = [row["row"] for row in scored if low <= row[score] < high]
    assert session.listing(view, "bucket", "best", threshold=0, bucket=(low, high)).rows.tolist() == wanted
    for tab, mark in (("marked_keep", Mark.KEEP), ("marked_drop", Mark.DROP)):
        wanted = [row["row"] for row in sorted((row for row in rows if row["mark"] == mark), key=by_score(score))]
        assert session.listing(view, tab, "best", threshold=0).rows.tolist() == wanted
    no_score = [row["row"] for row in inside if row[score] is None]
    assert session.listing(view, "no_score", "best", threshold=0).rows.tolist() == no_score


def test_pages_of_a_listing_hold_the_rows_and_marks_of_now(session: Session) -> None:
    view = session.view("one", ())
    listing = session.listing(view, "all", "best", threshold=5)
    rows = table_of(session)
    found = [item for start in range(0, N, 90) for item in session.page(listing, "one", start, 90)]
    assert [item["row"] for item in found] == listing.rows.tolist()
    for item in found:
        row = rows[item["row"]]
        assert (item["sample"], item["score"], item["width"]) == (row["sample"], row["one"], row["width"])
    session.mark([found[3]["row"]], Mark.DROP)
    assert session.page(listing, "one", 3, 1)[0]["mark"] == "drop", "marks of now in the order of before"
    assert session.page(listing, "one", N, 10) == session.page(listing, "one", 5, -1) == []


def test_what_is_no_longer_kept_is_gone_not_wrong(session: Session) -> None:
    with pytest.raises(Gone):
        session.known_listing("x")
    with pytest.raises(Gone):
        session.known_view("x")
    with pytest.raises(InputError, match="three"):
        session.view("three", ())


@pytest.mark.parametrize("kind", EXPORT_FORMATS)
@pytest.mark.parametrize("where", WHERES)
def test_an_export_is_what_select_writes(session: Session, tmp_path: Path, kind: ExportFormat, where) -> None:
    mark_some(session)
    view = session.view("one", where)
    ours, theirs = tmp_path / f"ours.{kind}", tmp_path / f"theirs.{kind}"
    num_rows = write_selection(session, view, 5.13, ours)
    words = shlex.split(select_command(session, view, 5.13, kind))
    assert words[:3] == ["beholder", "select", session.scores.source]
    given: dict[str, Any] = {"where": ()}
    for flag, value in zip(words[3:-2:2], words[4:-2:2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        given[name] = (*given["where"], value) if name == "where" else float(value) if name == "min_score" else value
    assert set(given) <= {item.name for item in fields(SelectRules)}
    with open_scores(words[2]) as scores, select_rows(scores, SelectRules(**given)) as selection:
        write_lists(selection, OutputOptions(out=str(theirs)))
        assert num_rows == selection.num_kept
    if kind == "parquet":
        one, two = pq.read_table(ours), pq.read_table(theirs)
        assert one.schema.equals(two.schema)
        assert one.equals(two)
        record = json.loads(pq.read_schema(ours).metadata[b"beholder"])
        assert (record["format"], record["num_kept"]) == ("beholder-selection", num_rows)
    else:
        assert ours.read_bytes() == theirs.read_bytes()


def test_infinite_scores_are_none(tmp_path: Path) -> None:
    values = [math.inf, 5.5, -math.inf, math.nan, None, 4.0, 6.25]
    rows = {"sample": list("abcdefg"), "aesthetic_score": pa.array(values, pa.float32())}
    path = write_set(tmp_path / "s.parquet", rows)
    with open_scores(str(path)) as found, opened(found, tmp_path, BrowseOptions(scores=str(path))) as session:
        view = session.view("aesthetic_score", ())
        assert about(session, Rejects([]))["scores"][0]["num_without"] == 4
        for threshold, kept in ((5.0, [6, 1]), (-math.inf, [6, 1, 5]), (math.inf, [])):
            assert session.listing(view, "kept", "best", threshold=threshold).rows.tolist() == kept
            counts = session.counts(view, threshold)
            assert (counts["kept"], counts["above"], counts["dropped"]) == (len(kept), len(kept), 7 - len(kept))
        assert session.listing(view, "all", "best", threshold=5).rows.tolist() == [6, 1, 5]
        without = session.listing(view, "no_score", "best", threshold=5)
        assert without.rows.tolist() == [0, 2, 3, 4]
        assert [tile["score"] for tile in session.page(without, "aesthetic_score", 0, 9)] == [None] * 4
        assert session.ranks("aesthetic_score").tolist() == [0, 2, 0, 0, 0, 3, 1]
        session.mark([0, 2], Mark.KEEP)
        session.mark([6], Mark.DROP)
        assert session.listing(view, "kept", "best", threshold=5).rows.tolist() == [1, 0, 2]
        assert session.counts(view, 5)["kept"] == 3
        assert write_selection(session, view, 5, tmp_path / "k.txt") == 3
        only = session.view("aesthetic_score", ("sample IN ('a', 'g')",))
        assert (only.rows.tolist(), only.num_matching) == ([6], 2)
        assert session.listing(only, "no_score", "best", threshold=5).rows.tolist() == [0]


def test_one_row_and_none(tmp_path: Path) -> None:
    for number, scores in enumerate(([5.25], [math.nan], [])):
        rows = {"sample": [f"s{i}" for i in range(len(scores))], "aesthetic_score": pa.array(scores, pa.float32())}
        path = write_set(tmp_path / f"{number}.parquet", rows)
        with open_scores(str(path)) as found, opened(found, tmp_path, BrowseOptions(scores=str(path))) as session:
            view = session.view("aesthetic_score", ())
            described = session.describe(view)
            json.dumps(described, allow_nan=False)
            wanted = sum(not math.isnan(score) for score in scores)
            assert described["num_scored"] == sum(described["histogram"]["counts"]) == wanted
            assert session.counts(view, 5)["kept"] == wanted
            assert len(session.page(session.listing(view, "all", "best", threshold=5), "aesthetic_score", 0, 10)) == wanted
            for kind in EXPORT_FORMATS:
                assert write_selection(session, view, 5, tmp_path / f"e{number}.{kind}") == wanted
