"""Conditions against Python over the rows; what must never be run; time limits; one line for every error."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from beholder.browse.app import ColumnFilter
from beholder.browse.conditions import Conditions
from beholder.browse.newest_first import Busy
from beholder.browse.rows import RowStore
from beholder.errors import InputError
from beholder.scoreset.database import mask_where
from beholder.scoreset.score_set import open_scores

N = 300
TABLE = pa.table(
    {
        "sample": [f"s/{i % 290:03d};--'é" for i in range(N)],
        "aesthetic_score": pa.array([None if i % 11 == 0 else 4 + (i % 40) / 20 for i in range(N)], pa.float32()),
        "width": pa.array([None if i % 13 == 0 else i for i in range(N)], pa.int32()),
        'odd "name"': [("Cat", "dog", None, "50% off_x")[i % 4] for i in range(N)],
        "flag": [(True, False, None)[i % 3] for i in range(N)],
        "p": [math.nan if i % 5 == 0 else i / N for i in range(N)],
    }
)
ROWS = TABLE.to_pylist()
ODD = 'odd "name"'


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conditions]:
    folder = tmp_path_factory.mktemp("conditions")
    with open_scores(TABLE) as scores:
        found = Conditions(RowStore(scores, folder), folder, threads=2)
    yield found
    found.close()


CLICKED: list[tuple[dict, Callable[[dict], bool]]] = [
    ({"column": "width", "kind": "range", "low": 10, "high": 20}, lambda r: r["width"] is not None and 10 <= r["width"] <= 20),
    ({"column": "width", "kind": "range", "low": 290.5}, lambda r: r["width"] is not None and r["width"] >= 290.5),
    ({"column": ODD, "kind": "contains", "text": "%"}, lambda r: "%" in (r[ODD] or "")),
    ({"column": ODD, "kind": "contains", "text": "CAT"}, lambda r: "cat" in (r[ODD] or "").lower()),
    ({"column": ODD, "kind": "contains", "text": "' OR 1=1 --"}, lambda r: False),
    ({"column": "sample", "kind": "contains", "text": "'é"}, lambda r: True),
    ({"column": ODD, "kind": "in", "values": ["Cat", None]}, lambda r: r[ODD] in ("Cat", None)),
    ({"column": ODD, "kind": "in", "values": ["Cat'; DROP TABLE x"]}, lambda r: False),
    ({"column": "flag", "kind": "in", "values": [True]}, lambda r: r["flag"] is True),
    ({"column": "flag", "kind": "in", "values": [None]}, lambda r: r["flag"] is None),
    ({"column": "width", "kind": "null"}, lambda r: r["width"] is None),
    ({"column": "width", "kind": "not_null"}, lambda r: r["width"] is not None),
    ({"column": "aesthetic_score", "kind": "range", "low": 5.0}, lambda r: (r["aesthetic_score"] or 0) >= 5),
]


@pytest.mark.parametrize(("clicked", "holds"), CLICKED, ids=lambda item: str(item)[:60] if isinstance(item, dict) else "")
def test_clicked_filters_are_the_plain_test_of_every_row(conditions: Conditions, clicked: dict, holds) -> None:
    assert conditions.matching([ColumnFilter(**clicked).sql()]).tolist() == [holds(row) for row in ROWS]


WRITTEN: list[tuple[str, Callable[[dict], bool]]] = [
    ("width > 100 and width % 2 = 0", lambda r: r["width"] is not None and r["width"] > 100 and r["width"] % 2 == 0),
    ("sample LIKE '%;--%'", lambda r: True),
    ("flag", lambda r: r["flag"] is True),
    ("not flag", lambda r: r["flag"] is False),
    ("NULL", lambda r: False),
    ("beholder_row < 7", lambda r: ROWS.index(r) < 7),
    ("width >= (SELECT max(width) FROM scores)", lambda r: r["width"] == 298),
    ("\n  width\n=\n5\n", lambda r: r["width"] == 5),
]


@pytest.mark.parametrize(("text", "holds"), WRITTEN)
def test_written_conditions_are_the_plain_test_of_every_row(conditions: Conditions, text: str, holds) -> None:
    assert conditions.matching([text]).tolist() == [holds(row) for row in ROWS]


def test_several_conditions_hold_together_and_none_hold_always(conditions: Conditions) -> None:
    assert conditions.matching([]).all()
    found = conditions.matching(["width < 50 or width > 250", "flag"])
    wanted = [r["width"] is not None and (r["width"] < 50 or r["width"] > 250) and r["flag"] is True for r in ROWS]
    assert found.tolist() == wanted


def test_the_same_rows_as_select_where(conditions: Conditions) -> None:
    with open_scores(TABLE) as scores, duckdb.connect() as connection:
        scores.register(connection)
        for text in ["width > 7 and p < 0.5", "p > 0.2", '"odd ""name""" is not distinct from NULL', "isnan(p)"]:
            assert (conditions.matching([text]) == mask_where(connection, text, "scores", N)).all()


SECRET = "/etc/passwd"
REACHING_OUT = [
    f"(SELECT count(*) FROM read_csv('{SECRET}')) > 0",
    f"(SELECT count(*) FROM read_text('{SECRET}')) > 0",
    f"(SELECT count(*) FROM read_blob('{SECRET}')) > 0",
    f"(SELECT count(*) FROM '{SECRET}') > 0",
    f"(SELECT count(*) FROM sniff_csv('{SECRET}')) > 0",
    f"(SELECT count(*) FROM read_json('{SECRET}')) > 0",
    f"(SELECT count(*) FROM parquet_metadata('{SECRET}')) > 0",
    "(SELECT count(*) FROM glob('/etc/*')) > 0",
    "(SELECT count(*) FROM read_csv('http://127.0.0.1:1/x')) > 0",
    f"(SELECT count(*) FROM query('SELECT * FROM read_text(''{SECRET}'')')) > 0",
    "(SELECT count(*) FROM duckdb_secrets()) >= 0",
    "(SELECT count(*) FROM enable_logging('QueryLog', storage='file', storage_path='/tmp/x')) > 0",
    "(SELECT count(*) FROM TABLE_OF_PYTHON) > 0",
    "getenv('HOME') = '/root'",
    "width > 1; COPY (SELECT 1) TO '/tmp/x'",
    "width > 1) OR (1 = 1",
    "1 = 1) UNION SELECT (1",
    "width > 1 -- and more",
    "width > 1 /* and more */",
    "$$a$$ = sample",
    "*",
    "width > ?",
]


@pytest.mark.parametrize("text", REACHING_OUT)
def test_nothing_but_the_rows_can_be_reached(conditions: Conditions, text: str) -> None:
    TABLE_OF_PYTHON = pa.table({"x": [1]})  # noqa: F841
    with pytest.raises(InputError) as refusal:
        conditions.matching([text])
    assert "\n" not in str(refusal.value)
    assert "root:" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wdth > 3", '"wdth" not found'),
        ("width >", "syntax error"),
        ("width > 'x'", "Could not convert"),
        ("sum(width) > 3", "aggregates"),
        ("", "empty"),
        ("  \n ", "empty"),
        ("width > 1 and " * 2000 + "true", "letters"),
    ],
)
def test_wrong_conditions_are_one_clear_line(conditions: Conditions, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        conditions.matching([text])
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 800


ENDLESS = "(SELECT count(*) FROM range(10000000000) a, range(100000) b) > width"


@pytest.mark.slow
def test_a_condition_that_would_run_for_hours_is_stopped_and_the_next_one_works(tmp_path: Path) -> None:
    with open_scores(TABLE) as scores:
        found = Conditions(RowStore(scores, tmp_path), tmp_path, threads=2, time_limit_s=4)
    with pytest.raises(InputError, match=r"longer than 4 s"):
        found.matching([ENDLESS])
    assert found.matching(["width < 5"]).sum() == 4
    found.close()


HUNGRY = [
    "(SELECT max(len(l)) FROM (SELECT list(x || 'abcdefghijklmnop') l FROM range(20000000) t(x))) > 0",
    "list_sum(range(4000000000)) > 0",
    "len(repeat('x', 4000000000)) > 0",
    "list_sum(range(width * 1000000)) > 0",
    "len(repeat(sample, 100000000)) > width",
]


@pytest.mark.slow
def test_conditions_that_would_need_much_memory_are_stopped_and_the_next_one_works(tmp_path: Path) -> None:
    """Lists and texts, too, of which DuckDB's own limit knows nothing."""
    with open_scores(TABLE) as scores:
        found = Conditions(RowStore(scores, tmp_path), tmp_path, threads=2, time_limit_s=100, memory_bytes=60_000_000)
    for text in HUNGRY:
        with pytest.raises(InputError, match="more memory than it may use") as refusal:
            found.matching([text])
        assert "\n" not in str(refusal.value)
    assert found.matching(["width < 5"]).sum() == 4
    found.close()


@pytest.mark.slow
def test_what_ends_a_process_ends_nothing_else(tmp_path: Path) -> None:
    with open_scores(TABLE) as scores:
        found = Conditions(RowStore(scores, tmp_path), tmp_path, threads=2, time_limit_s=100)
    assert found.matching(["width < 5"]).sum() == 4
    (idle,) = found.process_ids
    os.kill(idle, signal.SIGKILL)
    assert found.matching(["width < 6"]).sum() == 5, "it had nothing to do: nobody hears of it"
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(found.matching, [ENDLESS])
        while not found.process_ids or found.num_busy == 0:
            time.sleep(0.01)
        assert found.matching(["width < 7"]).sum() == 6, "another process takes the next one"
        while not endless.done():
            for process_id in found.process_ids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)
            time.sleep(0.05)
        assert "ended" in str(endless.exception()) or "no process" in str(endless.exception())
    assert found.matching(["width < 8"]).sum() == 7
    with ThreadPoolExecutor(30) as pool:
        endless = [pool.submit(found.matching, [ENDLESS]) for _ in range(30)]
        while sum(one.done() for one in endless) < 12:
            time.sleep(0.01)
        found.close()
        errors = [one.exception() for one in endless]
    assert sum(isinstance(error, Busy) for error in errors) >= 12, "2 at work, 16 waiting"
    assert {str(error) for error in errors if isinstance(error, InputError)} == {"beholder browse was stopped"}
    assert not found.process_ids


@pytest.mark.parametrize("text", ["sample = '\ud800'", "sample = 'a\0b'", "\udcff", "\0"])
def test_what_is_no_text_is_refused_with_one_line(conditions: Conditions, text: str) -> None:
    with pytest.raises(InputError, match="not UTF-8 text") as refusal:
        conditions.matching([text])
    str(refusal.value).encode()


def test_values_and_ranges_of_columns(conditions: Conditions) -> None:
    found = {item["value"]: item["count"] for item in conditions.few_values(ODD) or []}
    assert found == {"Cat": 75, "dog": 75, None: 75, "50% off_x": 75}
    assert {item["value"]: item["count"] for item in conditions.few_values("flag") or []} == {True: 100, False: 100, None: 100}
    assert conditions.range_of("width") == (1, 298)
    least, largest = conditions.range_of("p")
    assert (least, largest) == (1 / N, 299 / N)
    assert conditions.few_values("sample") is None


def test_columns_with_more_values_than_chips_have_none_listed(tmp_path: Path) -> None:
    """Of "late" the first 20,000 rows have one value; "long" has two, one of them a long text."""
    num_rows = 20_050
    rows = range(num_rows)
    columns = {
        "twenty": [None if row % 20 == 0 else row % 20 for row in rows],
        "more": [None if row % 21 == 0 else row % 21 for row in rows],
        "late": [f"{max(0, row - 20_000)}" for row in rows],
        "long": ["x" * 201 if row == 7 else "y" for row in rows],
    }
    table = pa.table({"sample": [f"{row}.jpg" for row in rows], "score": [1.0] * num_rows, **columns})
    with open_scores(table) as scores:
        store = RowStore(scores, tmp_path)
    with contextlib.closing(Conditions(store, tmp_path, threads=2)) as found:
        counts = {item["value"]: item["count"] for item in found.few_values("twenty") or []}
        assert counts == {value: columns["twenty"].count(value) for value in (None, *range(1, 20))}
        assert [found.few_values(name) for name in ("more", "late", "long")] == [None, None, None]


def test_names_are_found_and_doubles_noticed(conditions: Conditions) -> None:
    assert not conditions.has_unique_names()
    assert conditions.rows_named(["s/003;--'é", "nobody", "s/150;--'é"]) == {"s/003;--'é": [3, 293], "s/150;--'é": [150]}
    assert conditions.rows_named([]) == {}


def test_a_filter_that_says_nothing_is_refused() -> None:
    for clicked in ({"kind": "range"}, {"kind": "contains"}, {"kind": "in"}):
        with pytest.raises(InputError, match="is empty"):
            ColumnFilter(column="width", **clicked).sql()


@pytest.mark.slow
def test_what_a_csv_holds_is_known_however_short_the_time_for_a_condition(tmp_path: Path) -> None:
    """The page asks for it when it opens: it is looked for once, and no time limit of a condition ends that."""
    lines = [f"{i}.jpg,{i / 10},{i},{i:04d},{i % 2 == 0},x{i}" for i in range(3000)]
    (tmp_path / "s.csv").write_text("\n".join(["sample,aesthetic_score,n,code,even,words", *lines]) + "\n")
    with open_scores(str(tmp_path / "s.csv")) as scores:
        store = RowStore(scores, tmp_path)
    with contextlib.closing(Conditions(store, tmp_path, threads=2, time_limit_s=0.0)) as found:
        known = {name: (form.kind, form.is_plain) for name, form in found.forms.items()}
        assert known == {"n": ("BIGINT", True), "code": ("BIGINT", False), "even": ("BOOLEAN", True)}
        with pytest.raises(InputError, match="longer than 0 s"):
            found.matching(["n > 5"])
    with contextlib.closing(Conditions(store, tmp_path, threads=2)) as found:
        assert found.range_of("n") == (0, 2999)
        assert found.matching(["n >= 2990 AND even AND code <> '2992'"]).nonzero()[0].tolist() == [2990, 2994, 2996, 2998]


@pytest.mark.slow
def test_what_the_program_is_started_with_has_none_of_the_limits_of_visitors(tmp_path: Path) -> None:
    """Neither their time nor their number of letters; it holds for all that they ask."""
    with open_scores(TABLE) as scores:
        store = RowStore(scores, tmp_path)
    expected = [r["width"] is not None and r["width"] >= 290 and r["flag"] is True for r in ROWS]
    where = ["width >= 290" + " " * 20_001, "flag"]
    with contextlib.closing(Conditions(store, tmp_path, threads=2, where=where, time_limit_s=0.0)) as found:
        assert found.matching([]).tolist() == expected
        with pytest.raises(InputError, match="longer than 0 s"):
            found.matching(["width >= 290"])
    with pytest.raises(InputError, match=r"^--where 'wdth': .*wdth"):
        Conditions(store, tmp_path, threads=2, where=["wdth"])
