"""CSV files for tests, as others write them, and all that our reader gives of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pytest

from beholder.errors import InputError
from beholder.sources.csv import CsvReader
from beholder.sources.reader import ReadOptions


def numbers(num_rows: int, dim: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Normal float32, `num_rows` x `dim`, from a seed."""
    return np.random.default_rng(seed).standard_normal((num_rows, dim), dtype=np.float32)


def write(path: Path, text: str | bytes) -> str:
    """Write a file; its path, as readers take it."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def read(
    path: str, start: int = 0, stop: int | None = None, piece_bytes: int | None = None, name: str = "a.csv", **options: Any
) -> tuple[npt.NDArray[np.float32], pa.Table, npt.NDArray[np.uint8]]:
    """All blocks of a file, each checked, put together: embeddings (rows, dim) float32, labels, statuses uint8."""
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
    """Whether shapes and all bits agree."""
    return found.shape == expected.shape and bool((found.view(np.uint32) == expected.view(np.uint32)).all())


def birder_frame(values: npt.NDArray[np.float32]) -> pl.DataFrame:
    """`sample`, then columns 0, 1, ..., as birder writes logits."""
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
