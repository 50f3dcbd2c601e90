"""Scores and metadata in CSV files: what is written out is the text that stood there, and conditions get what they need."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import beholder
from beholder.curate.options import OutputOptions
from beholder.curate.select.selection import write_lists
from oracles.tiers import mostly_slow

NAMES = ["sample", "aesthetic_score", "phash", "code", "ver", "hexid", "flag", "t", "day", "width", "h", "caption", "clip"]
ROWS = [
    ["a", "5.7", "18446744073709551613", "0012", "1.10", "1e5", "TRUE", "12:30", "2020-01-02", "512", "1000", "12", "0.5"],
    ["b", "5.6", "18446744073709551614", "0013", "1.20", "2e5", "FALSE", "12:31", "2021-01-02", "90", "10", "a cat", ""],
    ["c", "5.5", "18446744073709551615", "12", "1.1", "3e5", "True", "9:05", "2022-03-04", "1000", "900", "x, y", "nan"],
]


@pytest.fixture(params=mostly_slow(["csv", "join", "tsv"], slow=1))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """The rows as a table of scores, or as one that is joined to scores; and the rules that join it."""
    end = "tsv" if request.param == "tsv" else "csv"
    path = tmp_path / f"scores.{end}"
    _write(path, [NAMES, *ROWS])
    if request.param != "join":
        return str(path), {}
    _write(tmp_path / "s.csv", [row[:2] for row in [NAMES, *ROWS]])
    _write(tmp_path / "more.csv", [[row[0], *row[2:]] for row in [NAMES, *ROWS]])
    return str(tmp_path / "s.csv"), {"join": str(tmp_path / "more.csv")}


def _write(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(rows)


def kept(source: tuple[str, dict[str, Any]], **rules: Any) -> str:
    with beholder.select(source[0], **source[1], **rules) as found:
        return "".join(found.kept_rows().column("sample").to_pylist())


def test_what_is_written_is_the_text_that_stood_there(source: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    with beholder.select(source[0], min_score=0, **source[1]) as found:
        out = [str(tmp_path / f"k.{end}") for end in ("csv", "parquet", "jsonl")]
        for path in out:
            write_lists(found.selection, OutputOptions(out=path))
    with Path(out[0]).open(newline="") as file:
        assert [[row[name] for name in NAMES] for row in csv.DictReader(file)] == ROWS
    assert [[str(row[name]) for name in NAMES] for row in pq.read_table(out[1]).to_pylist()] == ROWS
    lines = [json.loads(line) for line in Path(out[2]).read_text().splitlines()]
    assert [[str(row[name]) for name in NAMES] for row in lines] == ROWS


@pytest.mark.parametrize(
    ("condition", "expected"),
    mostly_slow(
        [
            ("width > 512", "c"),
            ("width >= 512 and width * 2 < 1500", "a"),
            ("Width > h", "bc"),
            ("width > '90'", "ac"),
            ("width in (90, 512)", "ab"),
            ("width between 100 and 600", "a"),
            ("width % 5 = 2", "a"),
            ("ver > 1.15", "b"),
            ("ver = 1.1", "ac"),
            ("ver = '1.10'", "a"),
            ("code = '0012'", "a"),
            ("code = 12", "ac"),
            ("code like '00%'", "ab"),
            ("length(code) = 4", "ab"),
            ("code || ver = '121.1'", "c"),
            ("cast(code as varchar) = '12'", "c"),
            ("code::int = 12", "ac"),
            ("phash = '18446744073709551614'", "b"),
            ("phash = 18446744073709551614", "b"),
            ("phash > 18446744073709551614", "c"),
            ("hexid = '1e5'", "a"),
            ("hexid > 150000", "bc"),
            ("flag", "ac"),
            ("not flag and ver > 1", "b"),
            ("flag = 'true'", "ac"),
            ("lower(flag) = 'true'", "ac"),
            ("flag like 'TR%'", "a"),
            ("hour(t) = 12", "ab"),
            ("t > '9:30'", "ab"),
            ("date_part('minute', t) = 31", "b"),
            ("year(day) = 2021", "b"),
            ("day > date '2021-01-01'", "bc"),
            ("day = '2020-01-02'", "a"),
            ("caption = width", ""),
            ("caption = '12'", "a"),
            ("clip < 1", "a"),
            ("clip is null", "bc"),
            ("coalesce(clip, 7) = 7", "bc"),
            ("clip::double is null", "bc"),
            ("'ä' <> 'x' and \"width\" > 600", "c"),
            ("greatest(width, h) = 1000", "ac"),
        ],
        quick=16,
    ),
)
def test_conditions(source: tuple[str, dict[str, Any]], condition: str, expected: str) -> None:
    assert kept(source, where=condition) == expected


def test_conditions_that_no_reading_of_the_text_allows_say_what_to_write(source: tuple[str, dict[str, Any]]) -> None:
    for condition in ("caption > 5", "abs(caption) > 5"):
        with pytest.raises(beholder.InputError, match=r"TRY_CAST\(COLUMN AS DOUBLE\) makes numbers") as failed:
            kept(source, where=condition)
        assert "\n" not in str(failed.value)
    assert kept(source, where="try_cast(caption as double) > 5") == "a"
    for condition in ("1); drop view scores; select (1", "width > 5; select 1", "width >", "nothing > 3"):
        with pytest.raises(beholder.InputError):
            kept(source, where=condition)


@pytest.mark.slow
def test_rules_that_go_by_columns(source: tuple[str, dict[str, Any]]) -> None:
    for column in ("phash", "code", "ver", "hexid", "flag"):  # FALSE, TRUE and True are three texts
        assert kept(source, top=1, per=column) == "abc"
    assert kept(source, rank_by="width", top=2) == "ca"
    assert kept(source, rank_by="0.9*ver + 0.1*clip", top=1) == "a"
    assert kept(source, budget=602, size_column="width") == "ab"
    with pytest.raises(beholder.InputError, match="column 'caption' holds .* which is no number"):
        kept(source, rank_by="caption", top=1)
    with pytest.raises(beholder.InputError, match="column 'caption' holds .* which is no number"):
        kept(source, budget=5, size_column="caption")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("id = other", "b"),
        ("id <> other", "acd"),
        ("not id = other", "acd"),
        ("other = id", "b"),
        ("id in (other, third)", "bc"),
        ("id is not distinct from other", "b"),
        ("id = other and id > 12", "b"),
        ("id > other", "d"),
        ("n = third", "ad"),
        ("n = third + 0", "ad"),
    ],
)
def test_two_columns_with_codes_are_equal_as_texts(tmp_path: Path, condition: str, expected: str) -> None:
    """0012 is not 12; columns of plain numbers (n, third) are equal as numbers: 1.0 is 1."""
    header, *rows = "sample,aesthetic_score,id,other,third,n", "a,9,0012,12,7,7.0", "b,8,0013,0013,5,6", "c,7,14,15,14,1"
    (tmp_path / "s.csv").write_text("\n".join([header, *rows, "d,6,0099,98,3,3"]) + "\n")
    assert kept((str(tmp_path / "s.csv"), {}), where=condition) == expected


def test_several_files_that_look_differently(tmp_path: Path) -> None:
    """Whole numbers here, codes and fractions there: each text stays, and numbers are compared as numbers."""
    (tmp_path / "1.csv").write_text("sample,aesthetic_score,n\na,5,7\nb,4,10\n")
    (tmp_path / "2.csv").write_text("sample,aesthetic_score,n\nc,3,0.50\nd,2,0012\n")
    with beholder.select(str(tmp_path / "*.csv"), where="n > 6.5") as found:
        assert found.kept_rows().column("n").to_pylist() == ["7", "10", "0012"]
    pq.write_table(found_table(), tmp_path / "3.parquet")
    with beholder.select(str(tmp_path / "*"), where="n > 6.5") as found:
        assert found.kept_rows().column("n").to_pylist() == ["7", "10", "0012", "8"]


def found_table() -> Any:
    import pyarrow as pa

    return pa.table({"sample": ["e", "f"], "aesthetic_score": [1.0, 0.5], "n": [8, 1]})


def test_text_in_parquet_is_text_first(tmp_path: Path) -> None:
    """There the type was chosen: two texts are compared as texts, and as numbers only where they cannot be text."""
    import pyarrow as pa

    table = pa.table({"sample": ["a", "b"], "aesthetic_score": [2.0, 1.0], "p": ["9", "10"], "q": ["10", "9"]})
    for condition, expected in (("p > q", ["a"]), ("p > 9", ["b"]), ("p + 0 > q + 0", ["b"])):
        with beholder.select(table, where=condition) as found:
            assert found.kept_rows().column("sample").to_pylist() == expected


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("sample,aesthetic_score\na,5\n")
    twice = tmp_path / "t.csv"
    twice.write_text("sample,x,x\na,1,2\n")
    for rules in ({"join": str(twice), "min_score": 0}, {"exclude": str(twice)}):
        with pytest.raises(beholder.InputError, match="two columns named 'x'"):
            beholder.select(str(tmp_path / "s.csv"), **rules)
    (tmp_path / "u.csv").write_text("sample,aesthetic_score,x,x\na,1,2,3\n")
    with pytest.raises(beholder.InputError, match="two columns named 'x'"):
        beholder.select(str(tmp_path / "u.csv"), min_score=0)
