"""Reads rows of a score set, and of metadata joined to it, in order: by several threads, a bounded piece at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder.errors import InputError
from beholder.io import remote, storage
from beholder.io.parquet import ParquetFile
from beholder.io.schemas import as_numbers, group_bytes, in_type, is_number, is_text
from beholder.scoreset.score_set import ScoreSet

PIECE_ROWS = 1 << 20
GROUP_ROWS = 1 << 17
"""Smaller row groups are read together."""
LARGE_GROUP_BYTES = 192 << 20
"""Row groups with more bytes in the columns asked for are read by one thread, batch after batch."""
SMALL_FILE_BYTES = 32 << 20
"""Smaller files with at most `GROUP_ROWS` rows are read at once."""
_MOST_INDEX_BYTES = 4
"""A chunk of text that takes no more for each value once decompressed is stored as places in a dictionary of few values."""

T = TypeVar("T")
Number = TypeVar("Number", bound=np.number[Any])


@dataclass(frozen=True)
class _Stretch:
    """Row groups of a file (none named: the whole file) that are read at once; rows [first, first + num_rows) of the set.

    Without a path: rows of the table in memory.
    """

    path: Path | None
    groups: tuple[int, ...]
    first: int
    num_rows: int
    num_bytes: int


class RowReader:
    """Columns of a score set and of metadata in the same order of rows.

    Args:
        scores: the set.
        joined: a Parquet file with as many rows, in the same order; its columns are read as if the set had them.
        untyped: columns that come from a CSV: of text, and numbers where they have to be.
        num_threads: threads that read and decode.
    """

    def __init__(
        self,
        scores: ScoreSet,
        joined: Path | None = None,
        *,
        untyped: Collection[str] = (),
        num_threads: int = 1,
    ) -> None:
        if len(scores.left_out):
            raise ValueError("rows are read of a whole set")
        self.scores = scores
        self.num_rows = scores.num_rows
        self.num_threads = num_threads
        self._untyped = frozenset(untyped)
        self._joined = joined
        self._joined_schema = pq.read_schema(joined).remove_metadata() if joined is not None else pa.schema([])
        self.schema: pa.Schema = pa.schema([*scores.schema.remove_metadata(), *self._joined_schema])

    def holds_numbers(self, name: str) -> bool:
        """Whether a column is of numbers, or may be meant so: `numbers_in` tells."""
        return name in self._untyped or is_number(self.schema.field(name).type)

    def numbers_in(self, table: pa.Table, name: str) -> pa.ChunkedArray:
        """A column of a piece that was read, as numbers: as they are, or, of a CSV's text, float64.

        Raises InputError for a text that is no number.
        """
        column = table.column(name)
        return as_numbers(column, name, self.scores.source) if name in self._untyped else column

    def floats_in(self, table: pa.Table, name: str) -> npt.NDArray[np.float32]:
        """A column of a piece that was read, as float32; NaN for null and infinity, neither of which is a score."""
        column = pc.fill_null(self.numbers_in(table, name).cast(pa.float32(), safe=False), float("nan"))
        found: npt.NDArray[np.float32] = column.combine_chunks().to_numpy(zero_copy_only=False)
        return np.where(np.isinf(found), np.float32(np.nan), found)

    @property
    def metadata_columns(self) -> list[str]:
        """All columns but the sample and the scores, the joined ones last."""
        return [*self.scores.metadata_columns, *self._joined_schema.names]

    def map(
        self,
        names: Sequence[str],
        work: Callable[[int, pa.Table], T],
        *,
        wanted: Callable[[int, int], bool] | None = None,
        on_rows: Callable[[int], None] | None = None,
        encoded: Sequence[str] = (),
    ) -> Iterator[T]:
        """`work(first row, table)` on pieces of at most a few million rows; results in the order of rows.

        `work` runs in the reading threads, several at a time. `wanted(start, stop)`: whether rows are needed; pieces
        without any are not read. `on_rows` hears of rows that were done. `encoded`: columns of text that may come as
        dictionaries, where a file has few values of them: it takes a fifth of the time, and `in_type` makes texts of them.
        """
        own = [name for name in names if name in self.scores.schema.names]
        joined = [name for name in names if name not in own]
        opened = _OpenFiles(frozenset(encoded))

        def results(stretch: _Stretch) -> Iterator[T]:
            first = stretch.first
            for table in self._tables(opened, stretch, own):
                num_rows = table.num_rows if own else stretch.num_rows
                if joined:
                    table = _with_columns(table, self._read_joined(opened, first, num_rows, joined))
                yield work(first, table.select(list(names)))
                first += num_rows

        def tell(num_rows: int) -> None:
            if on_rows is not None:
                on_rows(num_rows)

        waiting: deque[tuple[Future[list[T]], int]] = deque()

        def drained(leave: int = 0) -> Iterator[T]:
            while len(waiting) > leave:
                future, num_rows = waiting.popleft()
                yield from future.result()
                tell(num_rows)

        with opened, ThreadPoolExecutor(self.num_threads) as pool:
            try:
                for stretch in self._stretches(own):
                    if wanted is not None and not wanted(stretch.first, stretch.first + stretch.num_rows):
                        tell(stretch.num_rows)
                    elif stretch.path is None or stretch.num_bytes > LARGE_GROUP_BYTES:
                        yield from drained()
                        yield from results(stretch)
                        tell(stretch.num_rows)
                    else:
                        waiting.append((pool.submit(lambda part: list(results(part)), stretch), stretch.num_rows))
                        yield from drained(leave=self.num_threads)
                yield from drained()
            finally:
                for future, _ in waiting:
                    future.cancel()

    def gathered(
        self, names: Sequence[str], work: Callable[[pa.Table], npt.NDArray[Any]], kind: type[Number]
    ) -> npt.NDArray[Number]:
        """(N,) what `work` makes of the named columns of all rows, piece by piece."""
        found = np.empty(self.num_rows, kind)

        def put(first: int, table: pa.Table) -> None:
            found[first : first + table.num_rows] = work(table)

        for _ in self.map(names, put):
            pass
        return found

    def _stretches(self, names: Sequence[str]) -> Iterator[_Stretch]:
        """The set cut into what is read at once."""
        if self.scores.table is not None:
            for first in range(0, self.num_rows, PIECE_ROWS):
                yield _Stretch(None, (), first, min(PIECE_ROWS, self.num_rows - first), 0)
            return
        first = 0
        for path, expected in zip(self.scores.files, self.scores.row_counts, strict=True):
            if expected <= GROUP_ROWS and path.stat().st_size < SMALL_FILE_BYTES:
                if expected:  # its footer is read where it is read
                    yield _Stretch(path, (), first, expected, 0)
                first += expected
                continue
            with _open(path) as file:
                metadata = file.metadata
            if metadata.num_rows != expected:
                raise _changed(path, metadata.num_rows, expected)
            groups: list[int] = []
            start, rows, num_bytes = first, 0, 0
            for group in range(metadata.num_row_groups):
                found = metadata.row_group(group)
                size = group_bytes(found, names)
                if groups and (rows + found.num_rows > GROUP_ROWS or num_bytes + size > LARGE_GROUP_BYTES):
                    yield _Stretch(path, tuple(groups), start, rows, num_bytes)
                    groups, start, rows, num_bytes = [], start + rows, 0, 0
                groups.append(group)
                rows += found.num_rows
                num_bytes += size
            if rows:
                yield _Stretch(path, tuple(groups), start, rows, num_bytes)
            first += expected

    def _tables(self, opened: _OpenFiles, stretch: _Stretch, names: Sequence[str]) -> Iterator[pa.Table]:
        """The stretch at once; piece by piece where it is large, or a column unpacks to far more than the file holds."""
        if stretch.path is None:
            assert self.scores.table is not None
            yield self.scores.table.select(list(names)).slice(stretch.first, stretch.num_rows)
            return
        file, encoded = opened.scores(stretch.path)
        present = [name for name in names if name in file.schema_arrow.names]
        if not stretch.groups and file.metadata.num_rows != stretch.num_rows:
            raise _changed(stretch.path, file.metadata.num_rows, stretch.num_rows)
        if not present:
            yield self._fitted(pa.table({}), names, stretch.num_rows)
            return
        groups = list(stretch.groups) or list(range(file.num_row_groups))
        use_threads = self.num_threads == 1
        is_large = stretch.num_bytes > LARGE_GROUP_BYTES
        with remote.read_errors(str(stretch.path)):
            if not is_large and file.fits(groups, present):
                table = file.read_row_groups(groups, columns=present, use_threads=use_threads)
                yield self._fitted(table, names, stretch.num_rows, encoded)
                return
            at_once = GROUP_ROWS
            if is_large:
                use_threads = True
                at_once = min(PIECE_ROWS, max(1024, stretch.num_rows * (64 << 20) // stretch.num_bytes))
            for batch in file.iter_batches(at_once, groups, present, use_threads=use_threads):
                yield self._fitted(pa.table(batch), names, batch.num_rows, encoded)

    def _fitted(self, table: pa.Table, names: Sequence[str], num_rows: int, encoded: Collection[str] = ()) -> pa.Table:
        """The columns with the types of the set, but for `encoded` ones; those that a file lacks are null."""
        present = set(table.column_names)
        ready = []
        for name in names:
            kind = self.schema.field(name).type
            if name not in present:
                ready.append(pa.nulls(num_rows, kind))
            elif name in encoded:
                ready.append(table.column(name))
            else:
                ready.append(in_type(table.column(name), kind))
        return pa.table(ready, names=list(names))

    def _read_joined(self, opened: _OpenFiles, first: int, num_rows: int, names: Sequence[str]) -> pa.Table:
        assert self._joined is not None
        file = opened.joined(self._joined)
        groups, start = storage.covering_row_groups(file.metadata, first, first + num_rows)
        return file.read_row_groups(groups, columns=list(names)).slice(first - start, num_rows)


class _OpenFiles:
    """Files as the threads of one reading have them open, each its own; all are closed at its end, whatever thread it was.

    Args:
        encoded: columns of text of the set that may be read as dictionaries.
    """

    def __init__(self, encoded: Collection[str]) -> None:
        self._encoded = encoded
        self._local = threading.local()
        self._all: list[ParquetFile] = []

    def __enter__(self) -> _OpenFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._all:
            file.close()

    def scores(self, path: Path) -> tuple[ParquetFile, Collection[str]]:
        """A file of the set, and the columns that come as dictionaries; one file at a time is open in a thread."""
        return self._opened("scores", path, self._encoded)

    def joined(self, path: Path) -> ParquetFile:
        """The file of the joined columns."""
        return self._opened("joined", path, ())[0]

    def _opened(self, what: str, path: Path, encoded: Collection[str]) -> tuple[ParquetFile, Collection[str]]:
        before: tuple[Path, ParquetFile, Collection[str]] | None = getattr(self._local, what, None)
        if before is not None and before[0] == path:
            return before[1:]
        if before is not None:
            before[1].close()
            self._all.remove(before[1])
        file = _open(path)
        self._all.append(file)
        few = _of_few_values(file, encoded) if encoded else []
        if few:
            self._all.remove(file)
            file.close()
            file = _open(path, read_dictionary=few, metadata=file.metadata)
            self._all.append(file)
        setattr(self._local, what, (path, file, few))
        return file, few


def _open(path: Path, **options: Any) -> ParquetFile:
    """A file that was looked at before; `options` of pyarrow's. Raises InputError where it is damaged."""
    with remote.read_errors(str(path)):
        return ParquetFile(str(path), str(path), pre_buffer=False, **options)


def _of_few_values(file: ParquetFile, names: Collection[str]) -> list[str]:
    """Those of the columns of text that the first row group stores as places in a dictionary of few values."""
    if not file.num_row_groups:
        return []
    group = file.metadata.row_group(0)
    chunks = (group.column(number) for number in range(group.num_columns))
    texts = {field.name for field in file.schema_arrow if field.name in names and is_text(field.type)}
    return [
        chunk.path_in_schema
        for chunk in chunks
        if chunk.path_in_schema in texts
        and chunk.has_dictionary_page
        and chunk.total_uncompressed_size <= _MOST_INDEX_BYTES * chunk.num_values
    ]


def _changed(path: Path, found: int, expected: int) -> InputError:
    return InputError(f"{path} has {found:,} rows where {expected:,} were counted; did it change?")


def _with_columns(table: pa.Table, more: pa.Table) -> pa.Table:
    """Both tables' columns; the first may have none."""
    if not table.num_columns:
        return more
    for name in more.column_names:
        table = table.append_column(name, more.column(name))
    return table
