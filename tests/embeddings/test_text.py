"""CSV files come back as the numbers and texts that other libraries wrote, in order; wrong ones are refused with their line."""

from __future__ import annotations

import csv
import gzip
import io
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pytest

from beholder.columns import RowStatus
from beholder.embeddings.block import Block, Part, ReadOptions
from beholder.embeddings.text import CsvReader
from beholder.errors import InputError


def numbers(num_rows: int, dim: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((num_rows, dim), dtype=np.float32)


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def read(
    path: str, start: int = 0, stop: int | None = None, piece_bytes: int | None = None, name: str = "a.csv", **options: Any
) -> tuple[npt.NDArray[np.float32], pa.Table, npt.NDArray[np.uint8]]:
    """All blocks of a file put together: embeddings, labels, statuses."""
    reader, chosen = CsvReader(piece_bytes=piece_bytes), ReadOptions(**options)
    part = reader.inspect(path, name, chosen)
    assert part.kind == "csv"
    assert part.num_rows is None
    assert part.cuts == ()
    rows, labels, statuses = [np.empty((0, part.dim), np.float32)], [], [np.empty(0, np.uint8)]
    for block in reader.blocks(part, start, stop, chosen):
        assert isinstance(block.embeddings, np.ndarray)
        assert block.embeddings.dtype == np.float32 == np.dtype(part.dtype)
        assert block.embeddings.flags.c_contiguous
        assert block.embeddings.nbytes <= max(chosen.block_bytes, 4 * part.dim)
        assert block.labels is not None
        assert len(block.embeddings) == block.labels.num_rows > 0
        rows.append(block.embeddings.copy())
        labels.append(block.labels)
        if block.statuses is None:
            statuses.append(np.zeros(len(block.embeddings), np.uint8))
        else:
            assert block.statuses.any()
            statuses.append(block.statuses.copy())
    table = pa.concat_tables(labels) if labels else pa.table({"sample": pa.array([], pa.large_string())})
    return np.concatenate(rows), table, np.concatenate(statuses)


def same_bits(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> bool:
    return found.shape == expected.shape and bool((found.view(np.uint32) == expected.view(np.uint32)).all())


def birder_frame(values: npt.NDArray[np.float32]) -> pl.DataFrame:
    names = [f"images/{i:05d}.jpg" for i in range(len(values))]
    return pl.DataFrame({"sample": names}).hstack(pl.DataFrame(values, schema=[str(i) for i in range(values.shape[1])]))


def error_of(path: str, piece_bytes: int | None = None, **options: Any) -> str:
    """The text of the error that reading the file raises; one line that names the file."""
    with pytest.raises(InputError) as caught:
        read(path, piece_bytes=piece_bytes, **options)
    text = str(caught.value)
    assert path in text
    assert "\n" not in text
    return text


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
    types = [str(labels.schema.field(name).type) for name in labels.column_names]
    assert types == ["large_string", "int64", "double", "large_string", "large_string", "int64"]
    assert labels["sample"].to_pylist() == frame["key"].to_list()
    for name in labels.column_names[1:]:
        assert labels[name].to_pylist() == frame[name].to_list()


def test_the_sample_column_is_never_read_as_a_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,0,1\n1.50,1,2\n7,3,4\n")
    assert read(path)[1]["sample"].to_pylist() == ["1.50", "7"]


def test_columns_are_passed_on_in_the_asked_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sample,url,w,0,1,h\na,u,1,0.5,0.5,2\n")
    assert read(path, columns=("h", "w"))[1].to_pylist() == [{"sample": "a", "h": 2, "w": 1}]
    assert read(path, columns=("h",), sample_column="url")[1].to_pylist() == [{"sample": "u", "h": 2}]


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


def test_softmax_outputs_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a_output.csv", "sample,prediction,0,1\na.jpg,1,0.25,0.75\n")
    assert "--save-logits" in error_of(path)


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sample,url,0,1\na,u,1,2\n")
    assert "no column 'wdith'; it has: sample, url" in error_of(path, columns=("wdith",))
    assert "no column 'key'" in error_of(path, sample_column="key")
    assert "2 columns named 'n'" in error_of(write(tmp_path / "b.csv", "n,n,0,1\na,b,1,2\n"), columns=("n",))


@pytest.mark.parametrize("in_head", [True, False])
@pytest.mark.parametrize(
    ("row", "line", "message"),
    [
        ("x,1,abc", 0, "column '1': 'abc' is not a number"),
        ("x,1,2,3", 0, "more than 3 fields"),
        ("x,1", 0, "only 2 of 3 fields"),
        ('x"y,1,2', 0, "column 'sample': 'x' is followed by a quote"),
        ('"x"y,1,2', 0, "goes on after its closing quote"),
        ('"two\nlines",1,oops', 1, "'oops' is not a number"),
        ('x,1,"2', 0, "quote that opens '\"2"),
        ("x,1," + "y" * 100, 0, "y..."),
    ],
)
def test_wrong_rows_are_named_by_their_line(tmp_path: Path, in_head: bool, row: str, line: int, message: str) -> None:
    before = ["sample,0,1", "a,1,2", '"b\n\nc",1,2', ""]
    before += ["filler,0.5,0.25"] * (3 if in_head else 90_000)
    rows = [*before, row, "d,1,2", "e,3,4"]
    path = write(tmp_path / "a.csv", "\n".join(rows) + "\n")
    text = error_of(path, piece_bytes=None if in_head else 100_000)
    assert f"a.csv: line {len(before) + 2 + line + 1}: " in text
    assert message in text


def test_rows_before_a_wrong_one_are_given_and_it_is_not_met_when_not_asked_for(tmp_path: Path) -> None:
    rows = [f"s{i},{i},0.5" for i in range(90_000)]
    rows[85_000] = "s85000,1"
    path = write(tmp_path / "a.csv", "\n".join(["sample,0,1", *rows]))
    found, _, _ = read(path, 0, 85_000)
    assert found[:, 0].tolist() == list(range(85_000))
    reader = CsvReader()
    blocks = reader.blocks(reader.inspect(path, "a.csv", ReadOptions()), 0, None, ReadOptions())
    seen: list[int] = []
    with pytest.raises(InputError, match="line 85002: only 2 of 3 fields"):
        seen.extend(block.embeddings.shape[0] for block in blocks)
    assert sum(seen) == 85_000


@pytest.mark.parametrize(("first", "later", "message"), [
    ("7", "7.5", "'7.5' is not a whole number"), ("7", "x", "'x' is not a whole number"), ("0.5", "x", "'x' is not a number"),
    ("7", "007", "'007' is not a whole number"), ("7", str(2**63), "is not a whole number"),
])  # fmt: skip
def test_a_label_that_does_not_fit_the_first_rows(tmp_path: Path, first: str, later: str, message: str) -> None:
    rows = [f"s,{first},0.5,0.25"] * 90_000
    rows[88_000] = f"s,{later},0.5,0.25"
    path = write(tmp_path / "a.csv", "\n".join(["sample,n,0,1", *rows]))
    text = error_of(path, columns=("n",))
    assert "line 88002: column 'n'" in text
    assert message in text
    assert len(read(path)[0]) == 90_000


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    assert "line 2: not UTF-8" in error_of(write(tmp_path / "a.csv", b"sample,0,1\n\xe9t\xe9.jpg,1,2\n"))
    path = write(tmp_path / "b.csv", b"sample,0,1\na,1,2\nb,1,2\n\xe9t\xe9.jpg,1,2\nc,1,2\n")
    assert "line 4: column 'sample': '\ufffdt\ufffd.jpg' is not UTF-8 text" in error_of(path)
    assert "line 1: not UTF-8" in error_of(write(tmp_path / "c.csv", b"s\xffmple,0,1\na,1,2\n"))


def test_files_of_another_kind(tmp_path: Path) -> None:
    text = b"sample,0,1\na,1,2\n"
    assert "0 bytes" in error_of(write(tmp_path / "a.csv", b""))
    assert "gunzip" in error_of(write(tmp_path / "a.csv.gz", gzip.compress(text)))
    assert "UTF-16" in error_of(write(tmp_path / "b.csv", text.decode().encode("utf-16")))
    assert "zero bytes" in error_of(write(tmp_path / "c.csv", b"abc\0def"))
    assert "not separated by commas" in error_of(write(tmp_path / "d.csv", text.replace(b",", b";")))
    assert "not the names of the columns" in error_of(write(tmp_path / "e.csv", "0.5,0.25\n1.5,1.25\n"))
    assert "found no embedding" in error_of(write(tmp_path / "f.csv", "\n\n"))
    assert "a quote in the wrong place" in error_of(write(tmp_path / "g.csv", 'sa"mple,0,1\na,1,2\n'))
    assert "a quote in the wrong place" in error_of(write(tmp_path / "h.csv", '"sample,0,1\na,1,2\n'))
    with pytest.raises(InputError, match="does not exist"):
        CsvReader().inspect(str(tmp_path / "none.csv"), "none.csv", ReadOptions())


def test_files_that_change_after_they_were_looked_at(tmp_path: Path) -> None:
    reader, options = CsvReader(piece_bytes=1000), ReadOptions()
    path = tmp_path / "a.csv"
    birder_frame(numbers(200, 4)).write_csv(path)
    whole = path.read_bytes()
    part = reader.inspect(str(path), "a.csv", options)

    def blocks() -> list[Block]:
        return list(reader.blocks(part, 0, None, options))

    for changed in (whole[: len(whole) // 2], whole + b"more.jpg,1,2,3,4\n", b""):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=rf"a\.csv had {len(whole)} bytes when the run was planned and now has"):
            blocks()
    path.write_bytes(whole.replace(b"sample", b"simple"))
    with pytest.raises(InputError, match="other column names"):
        blocks()
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        blocks()


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    birder_frame(numbers(4000, 8)).write_csv(path)
    reader, options = CsvReader(piece_bytes=1000), ReadOptions()
    blocks = reader.blocks(reader.inspect(str(path), "a.csv", options), 0, None, options)
    next(blocks)
    with path.open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(InputError, match="it was changed meanwhile"):
        list(blocks)


@pytest.fixture
def memory_folder() -> Iterator[str]:
    """A folder of fsspec's file system in memory."""
    yield "memory://beholder-test"
    fsspec.filesystem("memory").rm("/beholder-test", recursive=True)


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


def test_a_quote_that_is_never_closed_does_not_read_on_for_ever(memory_folder: str) -> None:
    def error_in(text: str, piece_bytes: int | None = None) -> str:
        with fsspec.open(f"{memory_folder}/a.csv", "wb") as file:
            file.write(text.encode())
        return error_of(f"{memory_folder}/a.csv", piece_bytes)

    before, after = "sample,0,1\n" + "s,0.5,0.25\n" * 120_000, "s,0.5,0.25\n" * 6_500_000
    text = error_in(before + '"s,0.5,0.25\n' + after, piece_bytes=5000)
    assert "line 120002: the row is longer than 64 MiB; is a quote not closed?" in text
    text = error_in(before + 's"t,0.5,0.25\n' + after, piece_bytes=5000)
    assert "line 120002: column 'sample': 's' is followed by a quote" in text
    assert "line 1: the row is longer than 64 MiB" in error_in("x" * (65 << 20))


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


def test_a_plan_is_plain_data(tmp_path: Path) -> None:
    import json

    path = write(tmp_path / "a.csv", "sample,w,0,1\na,3,1,2\n")
    part: Part = CsvReader().inspect(path, "x/a.csv", ReadOptions())
    assert (part.path, part.name, part.dim, part.dtype, part.num_bytes) == (path, "x/a.csv", 2, "float32", 21)
    assert json.loads(json.dumps(part.detail)) == part.detail


def test_another_reader_agrees(tmp_path: Path) -> None:
    values = np.random.default_rng(9).standard_normal((700, 20)) * 10.0 ** np.random.default_rng(8).integers(-30, 30, (700, 20))
    pl.DataFrame(values, schema=[str(i) for i in range(20)]).write_csv(tmp_path / "a.csv")
    types = {str(i): pa.float32() for i in range(20)}
    table = pyarrow.csv.read_csv(tmp_path / "a.csv", convert_options=pyarrow.csv.ConvertOptions(column_types=types))
    expected = np.stack([column.to_numpy() for column in table.columns], axis=1)
    assert same_bits(read(str(tmp_path / "a.csv"))[0], np.ascontiguousarray(expected))
