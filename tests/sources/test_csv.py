"""CSV files come back as the numbers and texts that other libraries wrote, in order; wrong ones are refused with their line."""

from __future__ import annotations

import csv
import io
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pytest

from beholder.columns import RowStatus
from beholder.sources.csv import CsvReader
from beholder.sources.reader import Block, Part, ReadOptions
from oracles.csv_reading import birder_frame, error_of, numbers, read, same_bits, write


@pytest.mark.parametrize("num_rows", [1, 2, 131, 2500])
def test_birder_logits_come_back_bit_for_bit(tmp_path: Path, num_rows: int) -> None:
    values = numbers(num_rows, 768) * np.float32(3)
    frame = birder_frame(values)
    frame.write_csv(tmp_path / "logits.csv")
    found, labels, statuses = read(str(tmp_path / "logits.csv"), piece_bytes=300_000)
    assert same_bits(found, values)
    assert labels.column_names == ["sample"]
    assert labels["sample"].to_pylist() == frame["sample"].to_list()
    assert not statuses.any()


def test_float64_text_is_rounded_once(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((300, 5))
    pl.DataFrame(values, schema=[f"emb_{i}" for i in range(5)]).write_csv(tmp_path / "a.csv")
    found, labels, _ = read(str(tmp_path / "a.csv"), name="sets/a.csv")
    assert same_bits(found, values.astype(np.float32))
    assert labels["sample"].to_pylist() == [f"sets/a.csv#{i}" for i in range(300)]


def test_a_table_that_numpy_wrote(tmp_path: Path) -> None:
    values = numbers(50, 6, seed=2)
    header = ",".join(str(i) for i in range(6))
    np.savetxt(tmp_path / "a.csv", values, delimiter=", ", header=header, comments="")
    assert same_bits(read(str(tmp_path / "a.csv"))[0], values)


ODD_NAMES = [
    "plain.jpg", "with,comma.jpg", 'with "quotes".jpg', '"', '""', ",", "two\nlines.jpg", "\r\n", "ünï/çødé 写真.jpg",
    " blanks ", "a\rb", "", "trailing\\", "'single'", "x" * 3000, 'comma, "quote"\nand line',
]  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("piece_bytes", [1, 97, 4000, 1 << 20])
def test_odd_names_survive_any_cut(tmp_path: Path, end: str, quoting: Any, piece_bytes: int) -> None:
    names = ODD_NAMES * 3
    values = numbers(len(names), 3, seed=3)
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=quoting, lineterminator=end)
    writer.writerow(["note", "0", "sample", "1", "2"])
    for name, row in zip(names, values, strict=True):
        writer.writerow([name[::-1], row[0], name, row[1], row[2]])
    path = write(tmp_path / "a.csv", text.getvalue())
    found, labels, _ = read(path, piece_bytes=piece_bytes, columns=("note",))
    assert same_bits(found, values)
    expected = [name or ("" if quoting == csv.QUOTE_ALL else f"a.csv#{i}") for i, name in enumerate(names)]
    assert labels["sample"].to_pylist() == expected
    assert [note or "" for note in labels["note"].to_pylist()] == [name[::-1] for name in names]


def test_the_end_of_the_file_may_lack_a_newline_or_have_blank_lines(tmp_path: Path) -> None:
    body = "sample,0,1\na,1,2\nb,3,4"
    for at, end in enumerate(["", "\n", "\r\n", "\n\n", "\n\n\r\n"]):
        found, labels, _ = read(write(tmp_path / f"{at}.csv", body + end))
        assert found.tolist() == [[1, 2], [3, 4]]
        assert labels["sample"].to_pylist() == ["a", "b"]


def test_byte_order_mark(tmp_path: Path) -> None:
    found, labels, _ = read(write(tmp_path / "a.csv", "\ufeffsample,0,1\na,1,2\n"))
    assert found.tolist() == [[1, 2]]
    assert labels["sample"].to_pylist() == ["a"]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_no_rows(tmp_path: Path, end: str) -> None:
    found, labels, _ = read(write(tmp_path / "a.csv", "sample,0,1,2" + end))
    assert found.shape == (0, 3)
    assert labels.num_rows == 0


def test_missing_numbers_and_values_that_are_not_finite(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'sample,0,1\na,1,2\nb,,2\nc,null,NaN\nd,nan,-inf\ne,"",5\nf,5,Infinity\n')
    found, labels, statuses = read(path)
    missing = int(RowStatus.MISSING)
    assert statuses.tolist() == [0, missing, missing, 0, missing, 0]
    np.testing.assert_array_equal(found, [[1, 2], [0, 0], [0, 0], [np.nan, -np.inf], [0, 0], [5, np.inf]])
    assert labels["sample"].to_pylist() == list("abcdef")


@pytest.mark.parametrize("piece_bytes", [500, None])
def test_ranges_of_rows(tmp_path: Path, piece_bytes: int | None) -> None:
    values = numbers(100, 4)
    birder_frame(values).write_csv(tmp_path / "a.csv")
    path = str(tmp_path / "a.csv")
    for start, stop in [(0, 0), (0, 1), (0, 100), (7, 61), (40, None), (99, 100), (99, 1000), (100, None), (500, 600)]:
        found, labels, _ = read(path, start, stop, piece_bytes, block_bytes=7 * 16)
        assert same_bits(found, values[start:stop])
        assert labels["sample"].to_pylist() == [f"images/{i:05d}.jpg" for i in range(100)][start:stop]


def test_row_numbers_name_the_rows_of_a_range(tmp_path: Path) -> None:
    pl.DataFrame(numbers(30, 2), schema=["0", "1"]).write_csv(tmp_path / "a.csv")
    _, labels, _ = read(str(tmp_path / "a.csv"), 11, 14, 100)
    assert labels["sample"].to_pylist() == ["a.csv#11", "a.csv#12", "a.csv#13"]


@pytest.mark.slow
def test_many_numbers_that_need_exact_arithmetic(tmp_path: Path) -> None:
    rows = ["a,16777217.0,16777219.0,1.00000017881393432617187499"] * 30_000
    rows[1500] = "b,16777217.0,,16777219.0"
    text = "\n".join(["sample,0,1,2", *rows, "c,1,2,3,4"])
    path = write(tmp_path / "a.csv", text)
    found, _, statuses = read(path, 0, 30_000)
    assert np.flatnonzero(statuses).tolist() == [1500]
    assert found[1500].tolist() == [0, 0, 0]
    assert (np.delete(found, 1500, axis=0) == np.array([16777216, 16777220, 1 + 2**-23], np.float32)).all()
    assert "line 30002: more than 4 fields" in error_of(path)


def test_labels_keep_one_type_in_all_blocks(tmp_path: Path) -> None:
    count = 60
    frame = pl.DataFrame({
        "key": [f"{i:09d}" for i in range(count)],
        "width": [None if i == 3 else 100 + i for i in range(count)],
        "punsafe": [i / 7 for i in range(count)],
        "caption": ["3" if i % 2 else "a cat" for i in range(count)],
        "nothing": [None] * count,
        "label": list(range(-1, count - 1)),
        "e1": [0.5] * count,
        "e0": [0.25] * count,
    })  # fmt: skip
    frame.write_csv(tmp_path / "a.csv")
    found, labels, _ = read(str(tmp_path / "a.csv"), piece_bytes=200, columns=("*",))
    assert found.tolist() == [[0.25, 0.5]] * count
    assert labels.column_names == ["sample", "width", "punsafe", "caption", "nothing", "label"]
    assert set(labels.schema.types) == {pa.large_string()}
    assert labels["sample"].to_pylist() == frame["key"].to_list()
    for name in labels.column_names[1:]:
        assert labels[name].to_pylist() == frame[name].cast(pl.String).to_list()


def test_columns_are_the_text_that_stands_there(tmp_path: Path) -> None:
    rows = "007,1.50,1e5,18446744073709551614,TRUE,1,2\n7,1.5,x,,,3,4\n"
    labels = read(write(tmp_path / "a.csv", f"id,ver,hexid,phash,flag,0,1\n{rows}"), columns=("*",))[1]
    assert labels.to_pydict() == {
        "sample": ["007", "7"], "ver": ["1.50", "1.5"], "hexid": ["1e5", "x"], "phash": ["18446744073709551614", None],
        "flag": ["TRUE", None],
    }  # fmt: skip


def test_columns_are_passed_on_in_the_asked_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sample,url,w,0,1,h\na,u,1,0.5,0.5,2\n")
    assert read(path, columns=("h", "w"))[1].to_pylist() == [{"sample": "a", "h": "2", "w": "1"}]
    assert read(path, columns=("h",), sample_column="url")[1].to_pylist() == [{"sample": "u", "h": "2"}]


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        ("sample,1,0,2", {}, [2, 1, 3]),
        ("sample,emb_2,emb_0,emb_1", {}, [2, 3, 1]),
        ("sample,tench,ant,cat", {}, [1, 2, 3]),
        ("sample,a_0,b_0,b_1", {"embedding_column": "b_"}, [2, 3]),
        (",2,1,0", {}, [3, 2, 1]),
    ],
)
def test_the_columns_of_the_embedding(tmp_path: Path, names: str, options: Any, expected: list[float]) -> None:
    path = write(tmp_path / "a.csv", f"{names}\nx.jpg,1,2,3\n" if names[0] != "," else f"{names}\n0,1,2,3\n")
    assert read(path, **options)[0].tolist() == [expected]


def test_remote_files(memory_folder: str) -> None:
    values = numbers(40, 5)
    url = f"{memory_folder}/logits.csv"
    with fsspec.open(url, "wb") as file:
        birder_frame(values).write_csv(file)
    found, labels, _ = read(url, piece_bytes=700)
    assert same_bits(found, values)
    assert labels["sample"][39].as_py() == "images/00039.jpg"


def test_a_row_longer_than_a_piece(tmp_path: Path) -> None:
    long_name = "x" * 3_000_000
    path = write(tmp_path / "a.csv", f"sample,0,1\na,1,2\n{long_name},3,4\nb,5,6\n")
    found, labels, _ = read(path, piece_bytes=64)
    assert found.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert labels["sample"][1].as_py() == long_name


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    frame = birder_frame(numbers(500, 256))
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        for copy in range(16):
            frame.write_csv(file, include_header=copy == 0)
    reader, options = CsvReader(), ReadOptions(block_bytes=1 << 20)
    part = reader.inspect(str(path), "a.csv", options)
    assert part.num_bytes > 16 << 20
    for _ in reader.blocks(part, 0, 10, options):
        pass
    tracemalloc.start()
    num_rows = sum(len(block.embeddings) for block in reader.blocks(part, 0, None, options))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_rows == 8000
    assert peak < 8 << 20


def test_stopping_early_leaves_no_thread(tmp_path: Path) -> None:
    birder_frame(numbers(3000, 16)).write_csv(tmp_path / "a.csv")
    reader, options = CsvReader(piece_bytes=5000), ReadOptions()
    blocks: Iterator[Block] = reader.blocks(reader.inspect(str(tmp_path / "a.csv"), "a.csv", options), 0, None, options)
    next(blocks)
    assert any(thread.name.startswith("beholder-csv") for thread in threading.enumerate())
    blocks.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("beholder-csv") for thread in threading.enumerate())


def test_what_is_planned(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sample,w,0,1\na,3,1,2\n")
    part: Part = CsvReader().inspect(path, "x/a.csv", ReadOptions())
    assert (part.path, part.name, part.dim, part.dtype, part.num_bytes) == (path, "x/a.csv", 2, "float32", 21)
    assert part.detail["labels"].names == ["sample", "w"]


def test_another_reader_agrees(tmp_path: Path) -> None:
    values = np.random.default_rng(9).standard_normal((700, 20)) * 10.0 ** np.random.default_rng(8).integers(-30, 30, (700, 20))
    pl.DataFrame(values, schema=[str(i) for i in range(20)]).write_csv(tmp_path / "a.csv")
    types = {str(i): pa.float32() for i in range(20)}
    table = pyarrow.csv.read_csv(tmp_path / "a.csv", convert_options=pyarrow.csv.ConvertOptions(column_types=types))
    expected = np.stack([column.to_numpy() for column in table.columns], axis=1)
    assert same_bits(read(str(tmp_path / "a.csv"))[0], np.ascontiguousarray(expected))
