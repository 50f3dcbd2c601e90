"""Parquet whose dictionaries unpack to far more than the file holds, or whose text is none: one line, or in pieces."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import weakref
from pathlib import Path

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import beholder
from beholder.curate.options import OutputOptions, SelectRules
from beholder.curate.select.selection import select_rows, write_lists
from beholder.errors import DamagedError, InputError
from beholder.io import storage
from beholder.io.parquet import ParquetFile
from beholder.io.parquet_footer import footer_fields, integer_range
from beholder.scoreset.score_set import open_scores
from beholder.sources.parquet import PackedReader, ParquetReader
from beholder.sources.reader import ReadOptions, SourceOptions
from oracles import program
from oracles.hub import Hub
from oracles.tiers import mostly_slow
from oracles.web import running

LONG = 1 << 20


def repeated(values: list[str] | list[bytes], rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.arange(rows) % len(values), pa.int32()), pa.array(values))


def write(path: Path, **columns: pa.Array) -> str:
    """A file in which the columns' dictionaries stand as they are, however long their values."""
    pq.write_table(pa.table(columns), path, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False)
    return str(path)


def test_a_caption_of_a_megabyte_in_each_of_two_thousand_rows(tmp_path: Path) -> None:
    captions, rows = repeated(["x" * LONG], 2000), np.ones((2000, 4), np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 4)
    path = write(tmp_path / "x.parquet", sample=pa.array(map(str, range(2000))), caption=captions, embedding=vectors)
    assert Path(path).stat().st_size < 100_000
    reader, wanted = ParquetReader(), ReadOptions(columns=("caption",))
    words = "unpacks to too much: column 'caption' takes 2,097,152,000 bytes .* stored as 1,.*; write it without that column"
    with pytest.raises(InputError, match=words):
        reader.inspect(path, "x.parquet", wanted)
    part = reader.inspect(path, "x.parquet", ReadOptions())
    with pytest.raises(InputError, match=words):
        next(reader.blocks(part, 0, None, wanted))
    without = ReadOptions()
    blocks = list(reader.blocks(reader.inspect(path, "x.parquet", without), 0, None, without))
    assert sum(len(np.asarray(block.embeddings)) for block in blocks) == 2000
    scores = write(tmp_path / "s.parquet", sample=pa.array(map(str, range(2000))), caption=captions, score=pa.array(rows[:, 0]))
    with open_scores(scores) as opened, pytest.raises(InputError, match=f"s.parquet {words}"):
        opened.register(duckdb.connect())


def test_pictures_of_one_dictionary_are_rejects(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", image=repeated([b"\xff\xd8\xff" + bytes(LONG)], 2000))
    part = PackedReader().inspect(path, "x.parquet", SourceOptions())
    refs = [ref for block in PackedReader().blocks(part, 0, None, SourceOptions()) for ref in block.refs]
    assert len(refs) == 2000
    assert all(ref.error is not None and "unpacks to" in ref.error[1] for ref in refs)


def test_long_values_come_a_few_rows_at_a_time_and_whole(tmp_path: Path) -> None:
    texts = [letter * LONG for letter in "abc"]
    with storage.open_parquet(write(tmp_path / "x.parquet", caption=repeated(texts, 150))) as file:
        sizes, found = [], []
        for batch in file.iter_batches(batch_size=300):
            sizes.append(batch.num_rows)
            found += [text[0] for text in batch.column(0).to_pylist() if len(text) == LONG]
        assert max(sizes) * LONG <= 128 << 20
        assert found == list("abc") * 50
        assert file.read_row_group(0).num_rows == 150


def test_short_values_may_be_repeated_without_end(tmp_path: Path) -> None:
    with storage.open_parquet(write(tmp_path / "x.parquet", source=repeated(["web", "book"], 3_000_000))) as file:
        file.check_dictionaries()
        assert sum(batch.num_rows for batch in file.iter_batches()) == 3_000_000


def test_text_that_is_not_utf8_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"sample": ["one", "caf\u00e9", "three"]}), path, use_dictionary=False, compression="none")
    path.write_bytes(path.read_bytes().replace("caf\u00e9".encode(), b"caf\xe9\xe9"))
    with storage.open_parquet(str(path)) as file:
        for read in (lambda: list(file.iter_batches()), file.read):
            with pytest.raises(
                DamagedError, match=r"x\.parquet is damaged near row 0: column 'sample': text that is not UTF-8; write it again"
            ):
                read()


@pytest.mark.slow
@pytest.mark.parametrize("kind", mostly_slow(["delta", "fixed", "dotted"]))
def test_however_values_are_stored_once_and_named_often_batches_are_small(tmp_path: Path, kind: str) -> None:
    rows = 300
    value = b"".join(b"%07x " % i for i in range(LONG // 8))
    if kind == "fixed":
        column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(LONG), rows, [None, pa.py_buffer(value * rows)])
    else:
        column = pa.array([value.decode()] * rows, pa.large_string())
    name = "prompt.text" if kind == "dotted" else "caption"
    how = {"use_dictionary": False, "column_encoding": {name: "DELTA_BYTE_ARRAY"}} if kind == "delta" else {}
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({name: column}), path, compression="zstd", dictionary_pagesize_limit=1 << 30, **how)
    assert path.stat().st_size < 2 * LONG
    with storage.open_parquet(str(path)) as file:
        file.check_dictionaries(all_encodings=True)
        assert not file.fits([0])
        found = 0
        for batch in file.iter_batches(columns=[name]):
            assert batch.num_rows * LONG <= 128 << 20
            assert batch.column(0)[0].as_py() in (value, value.decode())
            found += batch.num_rows
        assert found == rows


@pytest.mark.slow
def test_values_told_by_their_difference_are_refused_where_that_would_never_end(tmp_path: Path) -> None:
    table = pa.table({"caption": pa.array(["x" * LONG] * 1080, pa.large_string())})
    path = tmp_path / "x.parquet"
    encoding = {"caption": "DELTA_BYTE_ARRAY"}
    pq.write_table(table, path, use_dictionary=False, column_encoding=encoding, write_statistics=False)
    del table
    words = "x.parquet unpacks to too much: column 'caption' takes 1,.* stored as .*; write it without that column"
    with storage.open_parquet(str(path)) as file:
        assert file.metadata.num_row_groups == 1
        with pytest.raises(InputError, match=words):
            file.check_dictionaries(all_encodings=True)
        with pytest.raises(InputError, match=words):
            for _ in file.iter_batches():
                pass


@pytest.mark.slow
def test_a_workflow_beside_each_of_many_pictures_is_no_hindrance(tmp_path: Path) -> None:
    rows = 60_000
    workflow = "w" * 20_000
    scores = pa.array(np.arange(rows, dtype=np.float32))
    names, workflows = pa.array(map(str, range(rows))), repeated([workflow], rows)
    path = write(tmp_path / "s.parquet", sample=names, workflow=workflows, score=scores)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with beholder.select(path, top=2, per="workflow", num_threads=2) as chosen:
        assert chosen.kept_rows()["sample"].to_pylist() == [str(rows - 1), str(rows - 2)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    with open_scores(path) as opened, select_rows(opened, SelectRules(top=2)) as chosen:  # with its column
        write_lists(chosen, OutputOptions(out=str(tmp_path / "k.parquet")))
    kept = pq.read_table(tmp_path / "k.parquet")
    assert kept["sample"].to_pylist() == [str(rows - 1), str(rows - 2)]
    assert kept["workflow"].to_pylist() == [workflow] * 2


def test_a_column_that_nobody_asks_for_may_unpack_to_anything(tmp_path: Path) -> None:
    long, scores = repeated(["x" * LONG], 2000), pa.array(np.arange(2000, dtype=np.float32))
    path = write(tmp_path / "s.parquet", sample=pa.array(map(str, range(2000))), caption=long, score=scores)
    with open_scores(path) as opened, select_rows(opened, SelectRules(top=1)) as chosen:
        write_lists(chosen, OutputOptions(out=str(tmp_path / "k.txt")))
    assert (tmp_path / "k.txt").read_text() == "1999\n"


def test_of_a_remote_file_hardly_more_is_fetched_than_it_holds(tmp_path: Path) -> None:
    rows = 8_000
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones((rows, 256), np.float32).ravel()), 256)
    names = pa.array([f"folder/{i:060}.jpg" for i in range(rows)])
    texts = pa.array([f"a picture of number {i} {'and more ' * 10}" for i in range(rows)])
    path = tmp_path / "e.parquet"
    how = {"row_group_size": 2000, "compression": "none", "use_dictionary": ["image_path", "caption"]}
    pq.write_table(pa.table({"image_path": names, "caption": texts, "embedding": vectors}), path, **how)
    num_bytes, hub, wanted = path.stat().st_size, Hub(), ReadOptions(columns=("caption",))
    hub.add("/e.parquet", path)
    with running(hub):
        part = ParquetReader().inspect(f"{hub.url}/e.parquet", "e.parquet", wanted)
        assert hub.num_bytes_sent < 200_000
        blocks = list(ParquetReader().blocks(part, 0, None, wanted))
        assert [text for block in blocks for text in block.labels["caption"].to_pylist()] == texts.to_pylist()
        assert hub.num_bytes_sent < 1.3 * num_bytes


@pytest.mark.slow
def test_columns_of_a_file_cut_short_while_it_is_read_are_damage(tmp_path: Path) -> None:
    path, rows = tmp_path / "wide.parquet", 100_000
    columns = {f"d{i}": np.random.default_rng(i).standard_normal(rows).astype(np.float32) for i in range(16)}
    pq.write_table(pa.table(columns), path, row_group_size=10_000)
    code = (
        "import os, sys\n"
        "from beholder.sources.reader import ReadOptions\n"
        "from beholder.sources.parquet import ParquetReader\n"
        "part = ParquetReader().inspect(sys.argv[1], 'x', ReadOptions())\n"
        "for block in ParquetReader().blocks(part, 0, None, ReadOptions()):\n"
        "    os.truncate(sys.argv[1], 4096)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 1  # and not killed by the system
    assert "DamagedError" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("sound", "wrong", "why"),
    [
        (
            b"\x25\2\x18\7caption",
            b"\x25\0\x18\7caption",
            "caption.*level histogram size mismatch|level histogram size mismatch",
        ),
        (b"\x15\4\x25\2\x18\5stars", b"\x15\2\x25\2\x18\5stars", "type"),
    ],
    ids=["levels", "type"],
)
def test_a_footer_that_contradicts_itself_does_not_end_the_process(
    tmp_path: Path, small_head: Path, sound: bytes, wrong: bytes, why: str
) -> None:
    """Asked what such a footer says of a column, pyarrow aborts. A column is optional, or of 64 bits, in one place only."""
    rows = np.random.default_rng(5).standard_normal((30, 24)).astype(np.float32)
    table = {"sample": [f"{i}.jpg" for i in range(30)], "caption": ["a"] * 30, "stars": range(30), "embedding": list(rows)}
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(table), path, row_group_size=10)
    sane = path.read_bytes()
    assert sane.count(sound) == 1
    run = [
        "score",
        str(path),
        "-o",
        str(tmp_path / "out"),
        "--head",
        str(small_head),
        "--column",
        "*",
        "--backbone",
        "test/clip-24",
    ]
    assert program.beholder(*run).returncode == 0
    path.write_bytes(sane.replace(sound, wrong))
    done = program.beholder(*run, "--overwrite")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert re.search(f"x.parquet .*({why})", done.stderr)


def _footer(path: Path) -> bytes:
    data = path.read_bytes()
    return data[-8 - int.from_bytes(data[-8:-4], "little") : -8]


def test_ranges_of_integers_are_those_of_the_statistics(tmp_path: Path) -> None:
    """Compared with pyarrow's own reading of sound statistics: signed and not, of 32 and 64 bits, none, and without values."""
    table = pa.table({
        "a": pa.array([-5, 7, None, 3], pa.int64()), "b": pa.array([2**63, 1, 2, 3], pa.uint64()),
        "c": pa.array([-1, 2, 3, 4], pa.int8()), "d": pa.array([None] * 4, pa.int32()),
        "e": pa.array([2**31, 0, 1, 1], pa.uint32()), "f": [1.5] * 4,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    footer = pq.read_metadata(tmp_path / "x.parquet")
    found = footer_fields(_footer(tmp_path / "x.parquet"), range(6))
    assert len(found) == 2
    for group, columns in enumerate(found):
        assert len(columns) == 6
        for number, name in enumerate("abcde"):
            said = footer.row_group(group).column(number).statistics
            expected = (said.min, said.max) if said.has_min_max else None
            assert integer_range(columns[number], is_signed=name not in "be") == expected
        assert integer_range(columns[5], is_signed=True) is None
    pq.write_table(table, tmp_path / "y.parquet", write_statistics=False)
    assert integer_range(footer_fields(_footer(tmp_path / "y.parquet"), [0])[0][0], is_signed=True) is None
    for broken in (b"", _footer(tmp_path / "x.parquet")[:100], b"\x49\x2c\xff", b"\x45\x02\x00", b"\x49\x15\x02\x00"):
        with pytest.raises(ValueError, match="makes no sense|without end|no kind"):
            footer_fields(broken, [0])


def test_marks_of_small_integers_come_of_any_file(tmp_path: Path) -> None:
    """Also of one on a server, and of one whose orders of columns are none, which pyarrow cannot write again."""
    pq.write_table(pa.table({"a": [1, 2], "b": [2**60, 1], "c": ["x", "y"]}), tmp_path / "x.parquet")
    fsspec.filesystem("memory").pipe("/marks/x.parquet", (tmp_path / "x.parquet").read_bytes())
    data = (tmp_path / "x.parquet").read_bytes()
    orders = b"\x19\x3c\x1c\x00\x00\x1c\x00\x00\x1c\x00\x00"
    assert data.count(orders) == 1
    (tmp_path / "y.parquet").write_bytes(data.replace(orders, b"\x19\x3c\x2c\x00\x00\x1c\x00\x00\x1c\x00\x00"))
    for path in (str(tmp_path / "x.parquet"), "memory://marks/x.parquet", str(tmp_path / "y.parquet")):
        with storage.open_parquet(path) as file:
            assert [field.metadata is not None for field in file.schema_with_ranges()] == [True, False, False]


def test_a_footer_that_was_read_serves_another_file_object(tmp_path: Path) -> None:
    """As who opens a file again to have some columns as dictionaries hands it on."""
    table = pa.table({"label": ["a", "b"] * 50, "score": np.arange(100.0)})
    pq.write_table(table, tmp_path / "x.parquet")
    with storage.open_parquet(str(tmp_path / "x.parquet")) as file:
        footer = file.metadata
    path = str(tmp_path / "x.parquet")
    with ParquetFile(path, path, read_dictionary=["label"], metadata=footer) as again:
        found = again.read()
    assert pa.types.is_dictionary(found.schema.field("label").type)
    assert found.column("label").to_pylist() == table.column("label").to_pylist()


def test_ranges_of_some_columns_of_many(tmp_path: Path) -> None:
    """Of those that are asked for alone, wherever they stand in the file, as those of all of them; others are not marked."""
    rng = np.random.default_rng(3)
    kinds = [
        pa.int8(),
        pa.uint64(),
        pa.float32(),
        pa.string(),
        pa.list_(pa.int32()),
        pa.struct({"x": pa.int64(), "y": pa.bool_()}),
    ]
    columns: dict[str, pa.Array] = {}
    for number in range(60):
        kind = kinds[number % len(kinds)]
        values = rng.integers(0, 100, 12).tolist() if number % 12 != 1 else [2**60, *range(11)]
        if pa.types.is_nested(kind):
            values = [[value] if pa.types.is_list(kind) else {"x": value, "y": None} for value in values]
        columns[f"c{number}"] = pa.array([str(value) for value in values] if kind == pa.string() else values, kind)
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=5)
    integers = [name for name, column in columns.items() if pa.types.is_integer(column.type)]
    small = {name for name in integers if int(name[1:]) % 12 != 1}
    with storage.open_parquet(str(tmp_path / "x.parquet")) as file:
        for asked in (None, integers, ["c0"], ["c54", "c1", "c13"], ["c2", "c3", "c4", "c5"], [], ["none"]):
            found = file.schema_with_ranges(asked)
            assert found.equals(file.schema_arrow)
            marked = {field.name for field in found if field.metadata is not None}
            assert marked == (small if asked is None else small & set(asked))


def test_a_look_at_the_footer_leaves_the_position_of_a_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), tmp_path / "x.parquet")
    with (tmp_path / "x.parquet").open("rb") as opened:
        file = ParquetFile("x.parquet", opened)
        opened.seek(7)
        assert [field.metadata is not None for field in file.schema_with_ranges()] == [True, False]
        assert opened.tell() == 7
        assert file.read().column("a").to_pylist() == [1, 2]


def test_what_a_footer_says_keeps_nothing_of_those_who_asked(tmp_path: Path) -> None:
    """Pyarrow keeps an exception that a file raises, and with it every frame on the way: databases that were never closed."""

    class Held:
        pass

    def ask() -> weakref.ref[Held]:
        held = Held()
        file = ParquetFile("x.parquet", str(tmp_path / "x.parquet"))
        assert file.metadata.row_group(0).column(0).num_values == 3
        file.close()
        return weakref.ref(held)

    pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "x.parquet")
    asked = ask()
    gc.collect()
    assert asked() is None
