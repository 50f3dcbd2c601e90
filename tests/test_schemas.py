"""Columns of other types: dictionaries with the values at hand only, and types that hold the values of two columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beholder.embeddings.block import ReadOptions
from beholder.embeddings.parquet import ParquetReader
from beholder.schemas import num_bytes_of, pieces_of, without_unused
from oracles.score_jobs import D, read_scores, run


def categories(codes: list[int | None], values: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(values))


def test_rows_of_a_file_bring_along_the_categories_that_they_name(tmp_path: Path, small_head: Path) -> None:
    """A row group of 4,000 categories of 1 kB each: a batch of it is not to hold the 4 MB of all."""
    captions = [f"{number} " + "c" * 1000 for number in range(4000)]
    vectors = np.random.default_rng(0).standard_normal((4000, D)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), D)
    table = pa.table({"caption": categories(list(range(4000)), captions), "embedding": lists})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd")
    reader, wanted = ParquetReader(), ReadOptions(columns=("caption",), block_bytes=1 << 20)
    part = reader.inspect(str(tmp_path / "x.parquet"), "x.parquet", wanted)
    num_blocks = 0
    for block in reader.blocks(part, 0, None, wanted):
        assert pa.types.is_dictionary(block.labels.schema.field("caption").type)
        num_bytes = sum(chunk.dictionary.nbytes for chunk in block.labels["caption"].chunks)
        assert num_bytes < 1100 * block.labels.num_rows
        assert num_bytes_of(block.labels) > num_bytes
        num_blocks += 1
    assert num_blocks > 3
    run(tmp_path / "x.parquet", tmp_path / "out", small_head, columns=("caption",), memory_bytes=64 * 10**6)
    assert read_scores(tmp_path / "out")["caption"].to_list() == captions


def test_pieces_of_categories_are_cut_by_what_they_hold() -> None:
    column = categories([*range(1000), None], ["v" * 1000 + str(number) for number in range(1200)])
    table = pa.table({"caption": column, "number": np.arange(1001)})
    pieces = list(pieces_of(table, 100_000))
    assert max(map(num_bytes_of, pieces)) <= 100_000
    assert len(pieces) == 16
    assert pa.concat_tables(pieces).to_pylist() == table.to_pylist()


def test_a_long_value_of_all_rows_makes_no_piece_of_each() -> None:
    table = pa.table({"caption": categories([0, 1] * 500, ["v" * 100_000, "w" * 100_000, "unused"])})
    pieces = list(pieces_of(table, 150_000))
    assert [piece.num_rows for piece in pieces] == [1000]
    assert num_bytes_of(pieces[0]) > 200_000


def test_unused_categories_are_left_out() -> None:
    array = categories([3, None, 1, 3], ["a" * 50, "b", "c" * 50, "d"])
    ordered = pa.DictionaryArray.from_arrays(array.indices.cast(pa.int8()), array.dictionary, ordered=True)
    for column in (array, array.slice(1), ordered, array.slice(0, 0), categories([None, None], ["e" * 50])):
        table = pa.table({"c": column})
        found = without_unused(table)
        assert found.schema == table.schema
        assert found.to_pylist() == table.to_pylist()
        assert all(len(chunk.dictionary) == len(chunk.drop_null().unique()) for chunk in found["c"].chunks)
