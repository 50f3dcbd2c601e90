"""Columns of odd Arrow types in the types that Arrow computes with: the same values, whatever they were held in."""

from __future__ import annotations

import uuid
from typing import Any

import pyarrow as pa
import pytest

from beholder.errors import InputError
from beholder.io.schemas import as_texts, empty_table, in_type, usual_type
from beholder.scoreset.score_set import open_scores

VIEW, TEXT = pa.string_view(), pa.large_string()
IDS = ["00000000-0000-0000-0000-000000000041", "ffffffff-0123-4567-89ab-cdef00112233", "c2a9c2a9-c2a9-c2a9-c2a9-c2a9c2a9c2a9"]
UUIDS = pa.array([bytes.fromhex(text.replace("-", "")) for text in IDS], pa.uuid())
"""The bytes of the first and the last are UTF-8, too."""


@pytest.mark.parametrize(
    ("kind", "usual", "values"),
    [
        (VIEW, TEXT, ["a", None, "", "ö"]),
        (pa.binary_view(), pa.large_binary(), [b"\xff", None]),
        (pa.map_(VIEW, VIEW), pa.map_(TEXT, TEXT), [[("a", "b")], [], None, [("c", None)]]),
        (pa.list_(VIEW, 2), pa.list_(TEXT, 2), [["a", "b"], None, [None, "c"]]),
        (pa.list_(pa.struct([("x", VIEW)]), 1), pa.list_(pa.struct([("x", TEXT)]), 1), [[{"x": "a"}], None]),
        (pa.map_(pa.int8(), pa.list_(VIEW)), pa.map_(pa.int8(), pa.list_(TEXT)), [[(1, ["a", None])], None]),
    ],
)  # fmt: skip
def test_views_become_what_they_show(kind: pa.DataType, usual: pa.DataType, values: list[Any]) -> None:
    assert usual_type(kind) == usual
    assert usual_type(usual) == usual
    for array in (pa.array(values, kind), pa.array([*values, *values], kind)[1 : len(values) + 2], pa.array([], kind)):
        column = pa.chunked_array([array, array[1:]])
        found = in_type(column, usual)
        assert found.type == usual
        found.combine_chunks().validate(full=True)
        assert found.to_pylist() == column.to_pylist()


@pytest.mark.parametrize(
    "kind", [pa.list_view(pa.int8()), pa.struct([("x", pa.large_list_view(VIEW))]), pa.run_end_encoded(pa.int32(), pa.string())]
)
def test_list_views_and_run_ends_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(InputError, match="a column is of type .*, which is not read; write it as plain values or lists"):
        usual_type(kind)


def test_dictionaries_of_views() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1], pa.uint32()), pa.array(["x", "y"], VIEW))
    assert usual_type(words.type) == pa.dictionary(pa.uint32(), TEXT)
    assert in_type(pa.chunked_array([words]), usual_type(words.type)).to_pylist() == ["y", "x", None, "y"]


def test_extension_types_stay_unless_they_hold_views() -> None:
    for kind in (pa.uuid(), pa.json_(pa.string()), pa.list_(pa.uuid()), pa.fixed_shape_tensor(pa.float32(), [2])):
        assert usual_type(kind) == kind
    text = pa.ExtensionArray.from_storage(pa.json_(VIEW), pa.array(['{"a": 1}', None], VIEW))
    assert usual_type(text.type) == TEXT
    assert in_type(pa.chunked_array([text]), TEXT).to_pylist() == ['{"a": 1}', None]


def test_uuids_as_text_and_values_of_extension_types() -> None:
    assert [str(uuid.UUID(text)) for text in IDS] == IDS
    some = pa.array([UUIDS[1].as_py().bytes, None, UUIDS[0].as_py().bytes], pa.uuid())
    column = pa.chunked_array([UUIDS, some[1:], UUIDS[:0]])
    assert as_texts(column).to_pylist() == [*IDS, None, IDS[0]]
    assert as_texts(pa.chunked_array([], pa.uuid())).to_pylist() == []


def test_no_rows_of_any_type() -> None:
    schema = pa.schema([("a", pa.list_(pa.uuid())), ("b", pa.struct([("j", pa.json_())])), ("c", pa.int8())])
    found = empty_table(schema)
    assert (found.schema, found.num_rows) == (schema, 0)


def named(column: pa.Array) -> list[str]:
    table = pa.table({"sample": column, "aesthetic_score": pa.array([1.0] * len(column), pa.float32())})
    with open_scores(table) as scores:
        return [name for names in scores.samples() for name in names.to_pylist()]


def test_rows_are_named_by_uuids_and_numbers_but_not_by_lists_or_bytes() -> None:
    assert named(UUIDS) == IDS
    assert named(UUIDS[:0]) == []
    assert named(pa.array([7, None])) == ["7", "#1"]
    assert named(pa.array(["é".encode(), None])) == ["é", "#1"]
    with pytest.raises(
        InputError, match=r"the table: column 'sample' \(binary\) has bytes that are no UTF-8 text, .*--sample-column"
    ):
        named(pa.array([b"a", b"\xff"]))
    for kind, shown in ((pa.list_(pa.string()), "list<item: string>"), (pa.struct([("x", pa.int8())]), "struct<x: int8>")):
        for column in (pa.array([None], kind), pa.array([], kind)):
            with pytest.raises(
                InputError, match=f"the table: column 'sample' is {shown}, which cannot name rows; name another"
            ):
                named(column)
