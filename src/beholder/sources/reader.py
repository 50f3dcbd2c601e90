"""What every reader of embeddings gives: parts, and blocks of their rows in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.kernels import Embeddings


@dataclass(frozen=True)
class Part:
    """One file of embeddings (and perhaps the metadata file beside it), with what its header promises.

    Attributes:
        path: where it is opened: a local path or a URL.
        name: its path relative to what the user gave; names its shards and, without metadata, its samples.
        kind: "npy", "npz", "parquet" or "csv".
        num_rows: rows it holds; None when only reading it through can tell (CSV).
        dim: elements of a row.
        dtype: "float16", "float32" or "float64".
        num_bytes: size of the file.
        metadata_path: Parquet file with the same rows in the same order, or None.
        cuts: rows at which it may be cut into shards, ascending, without 0 and num_rows; None: anywhere.
        detail: what the reader of this kind needs to know again (for example which columns hold the embedding); `labels`: the
            Arrow schema of the other columns, where it has any.
    """

    path: str
    name: str
    kind: str
    num_rows: int | None
    dim: int
    dtype: str
    num_bytes: int
    metadata_path: str | None = None
    cuts: tuple[int, ...] | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a part.

    Attributes:
        embeddings: (N, D) float16, float32 or float64. Valid until the next block is asked for.
        labels: N rows: `sample` (string) first, then the asked-for columns; None when they lie in another file.
        statuses: (N,) uint8 `RowStatus` of rows that the reader itself rejects (MISSING, WRONG_DIMENSION; 0 elsewhere);
            None when it rejects none. Such rows hold zeros in `embeddings`.
        before_chunk: to be called by a worker before it touches rows [start, stop) of this block, or None.
    """

    embeddings: Embeddings
    labels: pa.Table | None = None
    statuses: npt.NDArray[np.uint8] | None = None
    before_chunk: Callable[[int, int], None] | None = None


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How parts are read.

    Attributes:
        columns: metadata columns to pass through, in this order; ("*",) for all.
        sample_column: the column that names the rows; None: the first known one (`columns.SAMPLE_COLUMN_NAMES`).
        embedding_column: the column (or the prefix of numbered columns) with the embedding; None: found by looking.
        block_bytes: how many bytes of embeddings a block may hold.
    """

    columns: tuple[str, ...] = ()
    sample_column: str | None = None
    embedding_column: str | None = None
    block_bytes: int = 256 << 20


class Reader(Protocol):
    """Reads parts of one kind. `inspect` reads no more than headers; `blocks` gives rows [start, stop) in order."""

    def inspect(self, path: str, name: str, options: ReadOptions) -> Part:
        """Look at the header. Raises InputError, naming the file, for anything that cannot be scored."""
        ...

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop) of `part`; stop None: to its end. Raises InputError when the file is not as promised."""
        ...
