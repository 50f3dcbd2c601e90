"""Parquet whose dictionaries unpack to far more than the file holds, or whose text is none: one line, or in pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import storage
from beholder.embeddings.block import ReadOptions
from beholder.embeddings.parquet import ParquetReader
from beholder.errors import DamagedError, InputError
from beholder.images.packed import PackedReader
from beholder.images.picture import SourceOptions
from beholder.scores.score_set import open_scores

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
    words = "column 'caption' unpacks to 2,097,152,000 bytes and more out of 1,048,.*; write it without that column"
    with pytest.raises(InputError, match=words):
        reader.inspect(path, "x.parquet", wanted)
    part = reader.inspect(path, "x.parquet", ReadOptions())
    with pytest.raises(InputError, match=words):
        next(reader.blocks(part, 0, None, wanted))
    without = ReadOptions()
    blocks = list(reader.blocks(reader.inspect(path, "x.parquet", without), 0, None, without))
    assert sum(len(np.asarray(block.embeddings)) for block in blocks) == 2000
    scores = write(tmp_path / "s.parquet", sample=pa.array(map(str, range(2000))), caption=captions, score=pa.array(rows[:, 0]))
    with pytest.raises(InputError, match=f"s.parquet is damaged: {words}"), open_scores(scores):
        pass


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
