"""Columns of odd Arrow types in a selection, of files and tables in memory: passed through, grouped by, written, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import beholder
from beholder.curate.options import OutputOptions
from beholder.curate.select.selection import write_lists

SCORES = [1.0, 4.0, 2.0, 3.0]
IDS = ["00000000-0000-0000-0000-000000000041", "ffffffff-0123-4567-89ab-cdef00112233"]


def uuids(*texts: str | None) -> pa.Array:
    return pa.array([None if text is None else bytes.fromhex(text.replace("-", "")) for text in texts], pa.uuid())


def jsons(*texts: str | None) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(texts, pa.string()))


def listed(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), values)


def source(kind: str, folder: Path, column: Any, **more: Any) -> Any:
    """Four rows a, b, c, d and the column `col`, as a table or a file."""
    table = pa.table({"sample": ["a", "b", "c", "d"], "aesthetic_score": pa.array(SCORES, pa.float32()), "col": column} | more)
    if kind == "table":
        return table
    pq.write_table(table, folder / "scores.parquet")
    return str(folder / "scores.parquet")


KINDS = pytest.mark.parametrize("kind", ["table", "file"])


@KINDS
@pytest.mark.parametrize(
    ("column", "best"),
    [
        (listed(uuids(IDS[0], IDS[1], None, IDS[0])), [[IDS[1]], [IDS[0]]]),
        (pa.StructArray.from_arrays([jsons("1", '{"a": 2}', None, "[]")], ["j"]), [{"j": '{"a": 2}'}, {"j": "[]"}]),
        (pa.array([None, [("k", "v")], [], None], pa.map_(pa.string_view(), pa.string_view())), [[("k", "v")], None]),
        (pa.array([None, ["x", None], None, ["y", "z"]], pa.list_(pa.string_view(), 2)), [["x", None], ["y", "z"]]),
    ],
)
def test_nested_columns_are_passed_through(tmp_path: Path, kind: str, column: pa.Array, best: list[Any]) -> None:
    with beholder.select(source(kind, tmp_path, column), top=2, where="sample is not null") as found:
        kept = found.kept_rows()
        assert kept.column("sample").to_pylist() == ["b", "d"]
        got = kept.column("col").to_pylist()
        assert (got if "uuid" not in str(column.type) else [[str(one) for one in row] for row in got]) == best
        assert found.decisions().num_rows == 4
        out = [str(tmp_path / f"out.{end}") for end in ("parquet", "jsonl", "csv")]
        for path in out:
            write_lists(found.selection, OutputOptions(out=path))
        assert pq.read_table(out[0]).column("col").to_pylist() == got
        said = [json.loads(line)["col"] for line in Path(out[1]).read_text().splitlines()]
        assert said == json.loads(json.dumps(best))
    with beholder.select(source(kind, tmp_path, column), where="sample = ''") as found:
        assert found.kept_rows().num_rows == 0
        assert found.kept_rows().schema.names[-1] == "col"


@KINDS
@pytest.mark.parametrize(
    "column",
    [
        uuids(IDS[1], IDS[0], IDS[0], IDS[1]),
        jsons("1", '{"a": 2}', '{"a": 2}', "1"),
        uuids(None, IDS[0], IDS[0], None),
    ],
)
def test_groups_by_extension_types(tmp_path: Path, kind: str, column: pa.Array) -> None:
    """Rows a and d are of one value, b and c of the other; b is the best of its group, d of the other."""
    for rules in ({"top": 1, "per": "col"}, {"top": 2, "balance": "col"}):
        with beholder.select(source(kind, tmp_path, column), **rules) as found:
            assert found.kept.tolist() == [False, True, False, True]


@KINDS
@pytest.mark.parametrize("flag", ["per", "balance"])
def test_groups_by_what_has_no_plain_value_are_refused(tmp_path: Path, kind: str, flag: str) -> None:
    tensors = pa.FixedShapeTensorArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [1]), pa.array([[1.0]] * 4, pa.list_(pa.float32(), 1))
    )
    words = pa.array([b"a"] * 4).dictionary_encode()
    for column in (tensors, words) if kind == "table" else (tensors,):
        with pytest.raises(beholder.InputError, match=rf"^--{flag} col: rows cannot be put into groups by a column of "):
            beholder.select(source(kind, tmp_path, column), top=1, **{flag: "col"})


def test_polars_frames_through_arrow() -> None:
    """`pa.table` of a frame has views of strings everywhere, `to_arrow` has not."""
    frame = polars.DataFrame(
        {
            "sample": ["a", "b", "c", "d"],
            "aesthetic_score": polars.Series(SCORES, dtype=polars.Float32),
            "cat": polars.Series(["x", "y", "y", "x"], dtype=polars.Categorical),
            "enum": polars.Series(["x", "y", "y", None], dtype=polars.Enum(["y", "x"])),
            "cats": polars.Series([["x"], ["y", None], None, []], dtype=polars.List(polars.Categorical)),
            "pairs": polars.Series([["a", "b"], ["c", None], None, None], dtype=polars.Array(polars.String, 2)),
        }
    )
    for column, kept in (("cat", ["b", "d"]), ("enum", ["b", "d", "a"])):
        with beholder.select(pa.table(frame), top=1, per=column) as found:
            rows = found.kept_rows()
        assert rows.column("sample").to_pylist() == kept
        assert rows.slice(0, 1).select(["cat", "enum", "cats", "pairs"]).to_pylist() == [
            {"cat": "y", "enum": "y", "cats": ["y", None], "pairs": ["c", None]}
        ]


@KINDS
def test_uuids_name_rows_in_lists_as_well(tmp_path: Path, kind: str) -> None:
    table = pa.table({"sample": uuids(*IDS, None), "aesthetic_score": pa.array([1, 2, 3], pa.float32())})
    given: Any = table
    if kind == "file":
        given = str(tmp_path / "ids.parquet")
        pq.write_table(table, given)
    (tmp_path / "not.txt").write_text(IDS[1] + "\n")
    with beholder.select(given, exclude=str(tmp_path / "not.txt")) as found:
        assert found.kept_rows().column("sample").to_pylist() == ["#2", IDS[0]]
        write_lists(found.selection, OutputOptions(out=str(tmp_path / "o.csv")))
    assert [line.split(",")[0] for line in (tmp_path / "o.csv").read_text().splitlines()] == ["sample", "#2", IDS[0]]


@KINDS
def test_uuids_in_csv_are_their_text(tmp_path: Path, kind: str) -> None:
    with beholder.select(source(kind, tmp_path, uuids(IDS[0], IDS[1], None, IDS[0])), top=3) as found:
        write_lists(found.selection, OutputOptions(out=str(tmp_path / "o.csv")))
    assert [line.rsplit(",", 1)[1] for line in (tmp_path / "o.csv").read_text().splitlines()] == ["col", IDS[1], IDS[0], ""]


@KINDS
def test_whole_numbers_above_2_to_the_53_are_scores(tmp_path: Path, kind: str) -> None:
    """The nearest float64: 2**53 + 1 lies between two and goes to the even one."""
    table = pa.table({"sample": ["a", "b", "c"], "score": pa.array([2**53 + 1, 2**64 - 1, None], pa.uint64())})
    given: Any = table
    if kind == "file":
        given = str(tmp_path / "s.parquet")
        pq.write_table(table, given)
    with beholder.select(given, top=2) as found:
        assert found.kept_rows().column("score").to_pylist() == [18446744073709551616.0, 9007199254740992.0]
        assert found.decisions().column("score").to_pylist() == [9007199254740992.0, 18446744073709551616.0, None]


def test_whole_numbers_of_more_than_64_bits_are_refused_in_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / "s.parquet")
    wide = polars.Series([1, 2]).cast(polars.Int128)
    polars.DataFrame({"sample": ["a", "b"], "aesthetic_score": [1.0, 2.0], "wide": wide}).write_parquet(path)
    with pytest.raises(beholder.InputError, match=r"s.parquet .*: Integers with more than 64 bits") as said:
        beholder.select(path, top=1)
    assert "\n" not in str(said.value)
    pq.write_table(pa.table({"sample": ["a"], "aesthetic_score": [1.0]}), tmp_path / "plain.parquet")
    with pytest.raises(beholder.InputError, match=r"s.parquet .*: Integers with more than 64 bits"):
        beholder.select(str(tmp_path / "plain.parquet"), top=1, join=path)


def test_groups_by_dictionaries_with_narrow_indices() -> None:
    """As many values as int8 has numbers for, and null beside them; parts whose dictionaries together have more."""
    numbers = np.arange(1000)
    codes = numbers % 129
    one = pa.DictionaryArray.from_arrays(
        pa.array(np.where(codes < 128, codes, 0).astype(np.int8), mask=codes == 128), [f"w{i:03d}" for i in range(128)]
    )
    other = pa.DictionaryArray.from_arrays(pa.array((numbers % 100).astype(np.int8)), [f"x{i:03d}" for i in range(100)])
    for parts, num_groups in (([one], 129), ([one, other], 229), ([other], 100)):
        rows = np.arange(1000 * len(parts))
        table = pa.table(
            {
                "sample": [f"{row:05d}" for row in rows],
                "aesthetic_score": rows.astype(np.float32),
                "colour": pa.chunked_array(parts),
            }
        )
        with beholder.select(table, top=1, per="colour") as selection:
            assert selection.num_kept == num_groups


def test_text_of_few_values_stays_text(tmp_path: Path) -> None:
    """Files that store a column of text as dictionaries, and one that does not; row groups without and with nulls."""
    rng = np.random.default_rng(3)
    words = np.array(["red", "green", "", "blue", None], object)
    frames = [
        pd.DataFrame(
            {
                "sample": [f"{number}/{row:06d}" for row in range(40_000)],
                "aesthetic_score": rng.normal(5, 1, 40_000).astype(np.float32),
                "colour": words[rng.integers(0, 4 if number == 1 else 5, 40_000)],
            }
        )
        for number in range(3)
    ]
    folder = tmp_path / "scores"
    folder.mkdir()
    schema = pa.schema([("sample", pa.string()), ("aesthetic_score", pa.float32()), ("colour", pa.string())])
    for number, frame in enumerate(frames):
        pq.write_table(
            pa.Table.from_pandas(frame, schema, preserve_index=False),
            folder / f"{number}.parquet",
            row_group_size=15_000,
            use_dictionary=["colour"] if number != 2 else False,
        )
    whole = pd.concat(frames, ignore_index=True).sort_values(["aesthetic_score", "sample"], ascending=[False, True])
    for rules, wanted in (
        ({"min_score": 6.0}, whole[whole.aesthetic_score >= 6]),
        ({"top": 50, "per": "colour"}, whole[whole.groupby("colour", dropna=False).cumcount() < 50]),
    ):
        with beholder.select(str(folder), **rules) as selection:
            kept = selection.kept_rows()
        assert kept.schema.field("colour").type == pa.string()
        assert kept.column("sample").to_pylist() == wanted["sample"].tolist()
        assert kept.column("colour").to_pylist() == [None if pd.isna(word) else word for word in wanted["colour"]]
