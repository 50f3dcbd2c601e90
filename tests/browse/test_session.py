"""Counts, listings and exports against a plain pass over the rows, and against `beholder select` itself."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.browse.about import Rejects, about
from beholder.browse.app import MEDIA_TYPES, ExportFormat, select_command, write_selection
from beholder.browse.marks import Mark
from beholder.browse.options import BrowseOptions
from beholder.browse.session import Gone, LearnedScore, Session
from beholder.curate.options import OutputOptions, SelectRules
from beholder.curate.select.selection import select_rows, write_lists
from beholder.errors import InputError
from beholder.scoreset.row_names import open_each_once
from beholder.scoreset.score_set import open_scores
from oracles.browse_sets import write_set
from oracles.tiers import mostly_slow

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
    with open_scores(str(path)) as scores, Session(scores, tmp_path, BrowseOptions(scores=str(path))) as found:
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


@pytest.mark.parametrize("where", mostly_slow(map(pytest.param, WHERES), slow=1))
@pytest.mark.parametrize("is_marked", [False, True])
@pytest.mark.parametrize("score", ["one", "two"])
def test_counts_and_listings_are_those_of_a_plain_pass(session: Session, where, is_marked: bool, score: str) -> None:
    if is_marked:
        mark_some(session)
    rows = table_of(session)
    view = session.view(score, where)
    inside = [row for row in rows if holds(row, where)]
    assert (view.num_matching, len(view.rows)) == (len(inside), sum(row[score] is not None for row in inside))
    counted = sorted((row for row in rows if holds(row, where) or row["mark"] == Mark.KEEP), key=lambda row: row["row"])
    scored = sorted((row for row in counted if row[score] is not None), key=by_score(score))
    without = [row for row in counted if row[score] is None]

    def listed(tab: Any, sort: Any = "best", **how: Any) -> list[int]:
        return session.listing(view, tab, sort, **{"threshold": 0, **how}).rows.tolist()

    def numbers(found: list[dict[str, Any]]) -> list[int]:
        return [row["row"] for row in found]

    for threshold in (0.0, 4.5, 5.0, 5.13, 6.4, 99.0):
        kept = sorted((row for row in rows if is_kept(row, score, where, threshold)), key=by_score(score))
        dropped = [row for row in [*scored, *without] if not is_kept(row, score, where, threshold)]
        counts = session.counts(view, threshold)
        assert (counts["all"], counts["kept"], counts["dropped"]) == (len(counted), len(kept), len(dropped))
        assert counts["above"] == sum(row[score] >= np.float32(threshold) for row in scored)
        assert counts["outside"] == sum(not holds(row, where) for row in counted)
        assert listed("kept", threshold=threshold) == numbers(kept)
        assert listed("dropped", threshold=threshold) == numbers(dropped)
    assert listed("all") == numbers([*scored, *without])
    assert listed("all", "worst") == numbers([*scored[::-1], *without])
    assert sorted(listed("all", "random", seed=4)) == sorted(numbers(counted))
    assert listed("all", "random", seed=4) == listed("all", "random", seed=4)
    assert listed("no_score") == numbers(without)
    assert counts["no_score"] == len(without)
    for tab, mark in (("marked_keep", Mark.KEEP), ("marked_drop", Mark.DROP)):
        wanted = sorted((row for row in counted if row["mark"] == mark), key=by_score(score))
        assert listed(tab) == numbers(wanted)
        assert counts[tab] == len(wanted)
    told = session.describe(view)["buckets"]
    assert sum(counts["buckets"]) + counts["no_score"] == counts["all"]
    for bucket, count in zip(told, counts["buckets"], strict=True):
        ends = [-math.inf if bucket["low"] is None else bucket["low"], math.inf if bucket["high"] is None else bucket["high"]]
        wanted = [row for row in scored if np.float32(ends[0]) <= row[score] < np.float32(ends[1])]
        assert listed("bucket", bucket=tuple(ends)) == numbers(wanted)
        assert count == len(wanted)


def test_three_marks_outside_a_filter_are_in_all_numbers(tmp_path: Path) -> None:
    """18 of 40 pictures are cats; of them 8 reach 5; three dogs are marked keep, one of which has a score of 5 or more."""
    scores = [5.5 if i < 8 else 4.0 for i in range(18)] + [6.0, 4.0, math.nan] + [7.0] * 19
    rows = {
        "sample": [f"{i:02d}" for i in range(40)],
        "aesthetic_score": pa.array(scores, pa.float32()),
        "label": ["cat"] * 18 + ["dog"] * 22,
    }
    path = write_set(tmp_path / "s.parquet", rows)
    with open_scores(str(path)) as found, Session(found, tmp_path, BrowseOptions(scores=str(path))) as session:
        view = session.view("aesthetic_score", ("label = 'cat'",))
        names = ("all", "kept", "dropped", "marked_keep", "marked_drop", "no_score", "outside", "above")
        assert [session.counts(view, 5)[name] for name in names] == [18, 8, 10, 0, 0, 0, 0, 8]
        session.mark([18, 19, 20], Mark.KEEP)
        session.mark([0, 30], Mark.DROP)
        assert [session.counts(view, 5)[name] for name in names] == [21, 10, 11, 3, 1, 1, 3, 9]
        for tab in ("all", "kept", "dropped", "marked_keep", "marked_drop", "no_score"):
            listing = session.listing(view, tab, "best", threshold=5)  # type: ignore[arg-type]
            assert len(listing.rows) == session.counts(view, 5)[tab]
        assert session.listing(view, "kept", "best", threshold=5).rows.tolist() == [18, 1, 2, 3, 4, 5, 6, 7, 19, 20]
        assert session.listing(view, "marked_drop", "best", threshold=5).rows.tolist() == [0]
        assert write_selection(session, view, 5, tmp_path / "k.txt") == 10


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


@pytest.mark.parametrize("kind", mostly_slow(tuple(MEDIA_TYPES), slow=1))
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


@pytest.mark.slow
def test_the_command_keeps_repeated_rows_where_the_page_does(tmp_path: Path) -> None:
    rows = {"sample": ["a", "a", "b"], "aesthetic_score": pa.array([6, 7, 8], pa.float32()), "rank": [1, 2, 3]}
    path = write_set(tmp_path / "s.parquet", rows | {"source_rank": [4, 5, 6]})
    options = BrowseOptions(scores=str(path), repeated="all")
    with open_each_once(str(path), "all") as found, Session(found, tmp_path, options) as session:
        view = session.view("aesthetic_score", ())
        assert write_selection(session, view, 5.0, tmp_path / "ours.csv") == 3
        words = shlex.split(select_command(session, view, 5.0, "csv"))
    words[-1] = str(tmp_path / "theirs.csv")
    subprocess.run([sys.executable, "-m", *words, "-q"], check=True)
    assert (tmp_path / "ours.csv").read_text() == (tmp_path / "theirs.csv").read_text()
    assert (tmp_path / "ours.csv").read_text().splitlines() == [
        "sample,aesthetic_score,rank,kept,dropped_by,source_source_rank,source_rank",
        "b,8.0,1,true,,3,6", "a,7.0,2,true,,2,5", "a,6.0,3,true,,1,4",
    ]  # fmt: skip


def test_infinite_scores_are_none(tmp_path: Path) -> None:
    values = [math.inf, 5.5, -math.inf, math.nan, None, 4.0, 6.25]
    rows = {"sample": list("abcdefg"), "aesthetic_score": pa.array(values, pa.float32())}
    path = write_set(tmp_path / "s.parquet", rows)
    with open_scores(str(path)) as found, Session(found, tmp_path, BrowseOptions(scores=str(path))) as session:
        view = session.view("aesthetic_score", ())
        assert about(session, Rejects([]))["scores"][0]["num_without"] == 4
        for threshold, kept in ((5.0, [6, 1]), (-math.inf, [6, 1, 5]), (math.inf, [])):
            assert session.listing(view, "kept", "best", threshold=threshold).rows.tolist() == kept
            counts = session.counts(view, threshold)
            assert (counts["kept"], counts["above"], counts["dropped"]) == (len(kept), len(kept), 7 - len(kept))
        assert session.listing(view, "all", "best", threshold=5).rows.tolist() == [6, 1, 5, 0, 2, 3, 4]
        assert session.listing(view, "all", "worst", threshold=5).rows.tolist() == [5, 1, 6, 0, 2, 3, 4]
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
        assert session.listing(only, "no_score", "best", threshold=5).rows.tolist() == [0, 2], "marked keep, whatever its name"


def test_one_row_and_none(tmp_path: Path) -> None:
    for number, scores in enumerate(([5.25], [math.nan], [])):
        rows = {"sample": [f"s{i}" for i in range(len(scores))], "aesthetic_score": pa.array(scores, pa.float32())}
        path = write_set(tmp_path / f"{number}.parquet", rows)
        with open_scores(str(path)) as found, Session(found, tmp_path, BrowseOptions(scores=str(path))) as session:
            view = session.view("aesthetic_score", ())
            described = session.describe(view)
            json.dumps(described, allow_nan=False)
            wanted, num_rows = sum(not math.isnan(score) for score in scores), len(scores)
            assert described["num_scored"] == sum(described["histogram"]["counts"]) == wanted
            assert session.counts(view, 5)["kept"] == wanted
            assert len(session.page(session.listing(view, "all", "best", threshold=5), "aesthetic_score", 0, 10)) == num_rows
            for kind in MEDIA_TYPES:
                assert write_selection(session, view, 5, tmp_path / f"e{number}.{kind}") == wanted


def test_ranks_of_a_score_that_was_dropped_meanwhile_are_not_kept(tmp_path: Path) -> None:
    """One thread asks for ranks of each new score while two newer ones take its place."""
    path = tmp_path / "s.csv"
    path.write_text("sample,score\n" + "".join(f"p{row},{row}\n" for row in range(2000)))
    with open_scores(str(path)) as found, Session(found, tmp_path, BrowseOptions(scores=str(path))) as session:
        names: list[str] = []
        is_over = threading.Event()

        def asking() -> None:
            while not is_over.is_set():
                for name in names[-3:]:
                    with contextlib.suppress(Gone):
                        session.ranks(name)

        thread = threading.Thread(target=asking)
        thread.start()
        for number in range(150):
            values = np.random.default_rng(number).random(2000, np.float32)
            session.add_learned(LearnedScore(f"s{number}", f"c{number}", "t", {}), values)
            names.append(f"s{number}")
        is_over.set()
        thread.join()
        assert set(session._ranks) <= {"score", *session.learned}
        newest = session.ranks("s149")
        assert newest[np.argmax(np.random.default_rng(149).random(2000, np.float32))] == 1
