"""Parquet parts: lists of every kind, one column per dimension, nulls, slices, row groups, birder's files."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.columns import RowStatus
from beholder.errors import InputError
from beholder.kernels import ColumnBlock
from beholder.sources.parquet import ParquetReader
from beholder.sources.reader import ReadOptions
from oracles.tiers import mostly_slow

N, D = 10_000, 24


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


def read(path: Path, start: int = 0, stop: int | None = None, **options: Any) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    reader, wanted = ParquetReader(), ReadOptions(**options)
    part = reader.inspect(str(path), path.name, wanted)
    matrices, statuses, labels = [], [], []
    for block in reader.blocks(part, start, stop, wanted):
        e = block.embeddings
        matrices.append(np.stack(e.columns, axis=1) if isinstance(e, ColumnBlock) else np.array(e))
        statuses.append(np.zeros(len(matrices[-1]), np.uint8) if block.statuses is None else block.statuses)
        labels.append(block.labels)
    return np.concatenate(matrices), np.concatenate(statuses), pa.concat_tables(labels)


def fixed(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def lists(rows: np.ndarray, kind: Any = pa.list_) -> pa.Array:
    return pa.array(rows.tolist(), kind(pa.from_numpy_dtype(rows.dtype)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("layout", ["fixed", "list", "large_list", "wide"])
@pytest.mark.parametrize("group_rows", mostly_slow([700, N, 4096]))
def test_every_layout_gives_the_same_rows(tmp_path: Path, rows: np.ndarray, layout: str, dtype: str, group_rows: int) -> None:
    rows = rows.astype(dtype)
    names = [f"a/{i}.jpg" for i in range(N)]
    if layout == "wide":
        columns = {str(i): rows[:, i] for i in range(D)}
    elif layout == "fixed":
        columns = {"embedding": fixed(rows)}
    else:
        columns = {"embedding": lists(rows, pa.list_ if layout == "list" else pa.large_list)}
    pq.write_table(pa.table({"sample": names, **columns}), tmp_path / "x.parquet", row_group_size=group_rows)
    found, statuses, labels = read(tmp_path / "x.parquet", block_bytes=1 << 18)
    assert found.dtype == rows.dtype
    assert np.array_equal(found, rows)
    assert not statuses.any()
    assert labels.column_names == ["sample"]
    assert labels["sample"].to_pylist() == names
    found, _, labels = read(tmp_path / "x.parquet", 4100, 9001, block_bytes=1 << 18)
    assert np.array_equal(found, rows[4100:9001])
    assert labels["sample"].to_pylist() == names[4100:9001]


def test_large_row_groups_of_fixed_size_lists_are_not_shifted(tmp_path: Path) -> None:
    """Other readers lose a slice's offset here and give rows beyond 4096 the vector of an earlier row."""
    rows = np.arange(10_000 * 2, dtype=np.float32).reshape(-1, 2)
    pl.DataFrame({"sample": [str(i) for i in range(10_000)], "embedding": rows}).write_parquet(tmp_path / "x.parquet")
    assert np.array_equal(read(tmp_path / "x.parquet", block_bytes=16 << 10)[0], rows)


def test_birders_logits_from_polars(tmp_path: Path, rows: np.ndarray) -> None:
    frame = pl.DataFrame(
        {"sample": [f"d/{i}.png" for i in range(N)], "label": np.arange(N), **{str(i): rows[:, i] for i in range(D)}}
    )
    frame.write_parquet(tmp_path / "x_logits.parquet", row_group_size=3000)
    found, _, labels = read(tmp_path / "x_logits.parquet", columns=("label",))
    assert np.array_equal(found, rows)
    assert labels.column_names == ["sample", "label"]
    assert labels["label"].to_pylist() == list(range(N))


def test_softmax_output_is_refused(tmp_path: Path, rows: np.ndarray) -> None:
    columns = {str(i): rows[:, i] for i in range(D)}
    pl.DataFrame({"sample": ["a"] * N, "prediction": ["x"] * N, **columns}).write_parquet(tmp_path / "x_output.parquet")
    with pytest.raises(InputError, match=r"x_output.parquet.*prediction.*--save-logits"):
        read(tmp_path / "x_output.parquet")


def test_nulls_and_wrong_lengths_become_statuses(tmp_path: Path) -> None:
    values: list[Any] = [[1.0, 2.0, 3.0], None, [4.0, 5.0, 6.0], [1.0], [], [1.0, None, 2.0], [7.0, 8.0, 9.0]]
    table = pa.table({"key": [str(i) for i in range(7)], "embedding": pa.array(values, pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "x.parquet")
    found, statuses, _ = read(tmp_path / "x.parquet")
    words = [RowStatus(s).word for s in statuses]
    assert words == ["ok", "missing", "ok", "wrong_dimension", "wrong_dimension", "missing", "ok"]
    assert np.array_equal(found[[0, 2, 6]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert not found[[1, 3, 4, 5]].any()


def test_nulls_in_fixed_size_lists_and_columns(tmp_path: Path) -> None:
    array = pa.array([[1.0, 2.0], None, [3.0, 4.0], [5.0, None]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"embedding": array}), tmp_path / "fixed.parquet")
    found, statuses, labels = read(tmp_path / "fixed.parquet")
    assert statuses.tolist() == [0, RowStatus.MISSING, 0, RowStatus.MISSING]
    assert np.array_equal(found[[0, 2]], [[1, 2], [3, 4]])
    assert labels["sample"].to_pylist() == [f"fixed.parquet#{i}" for i in range(4)]
    wide = pa.table({"0": pa.array([1, None, 3], pa.float32()), "1": pa.array([4, 5, 6], pa.float32())})
    pq.write_table(wide, tmp_path / "wide.parquet")
    found, statuses, _ = read(tmp_path / "wide.parquet")
    assert statuses.tolist() == [0, RowStatus.MISSING, 0]
    assert np.array_equal(found[[0, 2]], [[1, 4], [3, 6]])


def test_columns_pass_through_and_are_missed_by_name(tmp_path: Path, rows: np.ndarray) -> None:
    table = pa.table(
        {"url": [f"http://x/{i}" for i in range(N)], "embedding": fixed(rows), "width": np.arange(N), "caption": ["c"] * N}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    _, _, labels = read(tmp_path / "x.parquet", columns=("width",))
    assert labels.column_names == ["sample", "width"]
    assert labels["sample"][7].as_py() == "http://x/7"
    assert read(tmp_path / "x.parquet", columns=("*",))[2].column_names == ["sample", "width", "caption"]
    assert read(tmp_path / "x.parquet", sample_column="caption")[2]["sample"][0].as_py() == "c"
    with pytest.raises(InputError, match="has no column 'height'; it has: url, width, caption"):
        read(tmp_path / "x.parquet", columns=("height",))
    with pytest.raises(InputError, match="no column 'nowhere'"):
        read(tmp_path / "x.parquet", sample_column="nowhere")


def test_two_list_columns_ask_for_a_choice(tmp_path: Path, rows: np.ndarray) -> None:
    pq.write_table(pa.table({"one": fixed(rows), "two": fixed(rows * 2)}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="--embedding-column: one, two"):
        read(tmp_path / "x.parquet")
    assert np.array_equal(read(tmp_path / "x.parquet", embedding_column="two")[0], rows * 2)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"embedding": pa.array([[1, 2]], pa.list_(pa.int8()))},
            "column 'embedding' is list<.*int8.*>, expected a list of floats",
        ),
        ({"embedding": pa.array([b"xx"])}, "column 'embedding' is binary, expected a list of floats"),
        ({"embedding": pa.array([None], pa.list_(pa.float32()))}, "every embedding in column 'embedding' is null or empty"),
    ],
)
def test_columns_that_cannot_be_scored_are_refused(tmp_path: Path, columns: dict[str, pa.Array], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.parquet")


def test_damaged_files_are_one_clear_line(tmp_path: Path, rows: np.ndarray) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"embedding": fixed(rows)}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty .0 bytes."):
        read(path)
    for options in ({"compression": "zstd"}, {"compression": "none", "write_page_checksum": True}):
        pq.write_table(pa.table({"embedding": fixed(rows)}), path, use_dictionary=False, **options)
        whole = path.read_bytes()
        path.write_bytes(whole[:9000] + b"\xff" * 20_000 + whole[29_000:])
        with pytest.raises(InputError, match="damaged near row"):
            read(path)


def test_no_rows_and_one_row(tmp_path: Path, rows: np.ndarray) -> None:
    pq.write_table(pa.table({"embedding": fixed(rows[:0])}), tmp_path / "none.parquet")
    reader = ParquetReader()
    part = reader.inspect(str(tmp_path / "none.parquet"), "none", ReadOptions())
    assert (part.num_rows, part.dim) == (0, D)
    assert list(reader.blocks(part, 0, None, ReadOptions())) == []
    pq.write_table(pa.table({"embedding": fixed(rows[:1])}), tmp_path / "one.parquet")
    assert np.array_equal(read(tmp_path / "one.parquet")[0], rows[:1])


@pytest.mark.parametrize("layout", ["list", "wide"])
def test_the_first_rows_of_a_group_take_no_more_than_they_need(layout: str, tmp_path: Path) -> None:
    """The later pages of the file's only row group are gone, which reading them would notice."""
    rows = np.random.default_rng(0).standard_normal((20_000, 8)).astype(np.float32)
    if layout == "list":
        table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 8)})
    else:
        table = pa.table({f"x{column}": rows[:, column] for column in range(8)})
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, use_dictionary=False, data_page_size=4096, compression="NONE")
    data = bytearray(path.read_bytes())
    with pq.ParquetFile(path) as file:
        chunks = [file.metadata.row_group(0).column(column) for column in range(file.metadata.num_columns)]
    for chunk in chunks:
        quarter = chunk.total_compressed_size // 4
        end = chunk.data_page_offset + chunk.total_compressed_size
        data[end - quarter : end] = b"\xff" * quarter
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path, 0, 1000, block_bytes=64_000)[0], rows[:1000])
    with pytest.raises(InputError):
        read(path, block_bytes=64_000)


def test_lists_of_less_than_no_numbers_are_refused(tmp_path: Path) -> None:
    """So a damaged schema has them: the length of a fixed-size list is any number of 32 bits."""
    table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(48, np.float32)), 24)})
    pq.write_table(table, tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    footer = pq.read_metadata(tmp_path / "x.parquet").metadata[b"ARROW:schema"]
    schema = bytearray(base64.b64decode(footer))
    at = schema.index(b"\x18\0\0\0")
    while not str(pa.ipc.read_schema(pa.py_buffer(bytes(schema))).field(0).type).endswith("[-24]"):
        at = schema.index(b"\x18\0\0\0", at) + 1
        changed = bytearray(schema)
        changed[at - 1 : at + 3] = (-24).to_bytes(4, "little", signed=True)
        with contextlib.suppress(pa.ArrowInvalid, OSError):
            if str(pa.ipc.read_schema(pa.py_buffer(bytes(changed))).field(0).type).endswith("[-24]"):
                schema = changed
    (tmp_path / "x.parquet").write_bytes(data.replace(footer, base64.b64encode(schema)))
    with pytest.raises(InputError, match="x.parquet: the embeddings in column 'embedding' have no dimensions"):
        read(tmp_path / "x.parquet")
