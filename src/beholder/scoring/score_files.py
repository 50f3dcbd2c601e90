"""Files of one shard's scores and rejects, Parquet or CSV text: written as its rows come, read again, joined at the end."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder import columns
from beholder.errors import InputError
from beholder.io import storage, tables
from beholder.io.schemas import as_text, common_schema, pieces_of
from beholder.io.tables import ParquetRows, open_table, parquet_rows, stamped
from beholder.scoreset.numbers import ScoreStats
from beholder.scoring.shards import EarlierShard, ShardResult

Reject = tuple[str, str, str]
"""Of a rejected row: the stage it failed in, the fixed word for the reason, and the text."""
REJECTS_SCHEMA = pa.schema([
    (columns.SAMPLE, pa.string()), (columns.STAGE, pa.string()), (columns.REASON, pa.string()), (columns.MESSAGE, pa.string())
])  # fmt: skip
_CSV_BYTES = 8 << 20
"""Bytes of columns that are made to text at a time, of which there are several copies then."""


def shard_files(stem: str, *, as_csv: bool) -> list[str]:
    """Where the scores and the rejects of a shard are written, relative to the run's folder."""
    return [
        f"{columns.SCORES_FOLDER}/{stem}.{'csv' if as_csv else 'parquet'}",
        f"{columns.REJECTS_FOLDER}/{stem}.parquet",
    ]


class ShardRows:
    """The scores and rejects of one shard as they are written, and the counts of what went into them. See `shard_rows`."""

    def __init__(
        self, opened: contextlib.ExitStack, folder: Path, stem: str, schema: pa.Schema, names: Sequence[str], *, as_csv: bool,
        metadata: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._opened, self._folder, self._names, self._metadata = opened, folder, names, metadata
        scores_name, self._rejects_name = shard_files(stem, as_csv=as_csv)
        self._written: list[str] = [scores_name] if names else []
        self._scores: list[npt.NDArray[np.float32]] = []
        self._reasons: Counter[str] = Counter()
        self._csv: IO[bytes] | None = None
        self._parquet: ParquetRows | None = None
        self._rejects: ParquetRows | None = None
        self.num_read = 0
        if names and as_csv:
            temporary = opened.enter_context(storage.write_whole(str(folder / scores_name)))
            self._csv = opened.enter_context(temporary.open("wb"))
            header = [columns.SAMPLE, *names, columns.STATUS, *schema.names[1:]]
            tables.write_csv(self._csv, [pa.array([name], pa.large_string()) for name in header])
        elif names:
            self._parquet = opened.enter_context(_rows_of(folder / scores_name, scores_schema(schema, names), metadata))

    def write(self, labels: pa.Table, scores: npt.NDArray[np.float32], rejects: Mapping[int, Reject]) -> None:
        """Take the next rows.

        Args:
            labels: N rows of the shard's columns, `sample` first.
            scores: (N, H) float32; those of rejected rows count for nothing.
            rejects: of these rows, by their number from 0.
        """
        is_kept = np.ones(labels.num_rows, bool)
        is_kept[list(rejects)] = False
        self.num_read += labels.num_rows
        self._scores.append(scores[is_kept] if rejects else scores)
        if self._csv is not None:
            words = np.full(labels.num_rows, columns.STATUS_OK, dtype=object)
            scores = np.where(is_kept[:, None], scores, np.float32(np.nan))
            for row, (_, reason, _) in rejects.items():
                words[row] = reason
            self._write_csv(labels.append_column(columns.STATUS, pa.array(words, pa.large_string())), scores)
        elif self._parquet is not None:
            table = scores_table(labels, scores, self._names)
            self._parquet.write(table.filter(pa.array(is_kept)) if rejects else table)
        if not rejects:
            return
        if self._rejects is None:
            self._written.append(self._rejects_name)
            self._rejects = self._opened.enter_context(
                _rows_of(self._folder / self._rejects_name, REJECTS_SCHEMA, self._metadata)
            )
        rows = sorted(rejects)
        samples = labels.column(columns.SAMPLE).take(pa.array(rows)).cast(pa.string())
        said = zip(*(rejects[row] for row in rows), strict=True)
        self._rejects.write(pa.table([samples, *(pa.array(texts, pa.string()) for texts in said)], schema=REJECTS_SCHEMA))
        self._reasons.update(reason for _, reason, _ in rejects.values())

    def _write_csv(self, labels: pa.Table, scores: npt.NDArray[np.float32]) -> None:
        """Lines of `sample`, the scores (empty where NaN), `status`, then the other columns."""
        assert self._csv is not None
        for piece in pieces_of(scores_table(labels, scores, self._names), _CSV_BYTES):
            own = {columns.SAMPLE, columns.STATUS, *self._names}
            others = [as_text(piece.column(name)) for name in piece.column_names if name not in own]
            samples = as_text(piece.column(columns.SAMPLE))
            texts = [tables.as_text(piece.column(name)) for name in self._names]
            tables.write_csv(self._csv, [samples, *texts, piece.column(columns.STATUS), *others])

    def result(self) -> ShardResult:
        """The counts, and the sizes of the files; once they are closed."""
        scores = np.concatenate([np.empty((0, len(self._names)), np.float32), *self._scores])
        return ShardResult(
            num_read=self.num_read,
            num_scored=len(scores),
            num_rejected=self.num_read - len(scores),
            reasons=dict(self._reasons),
            files={name: (self._folder / name).stat().st_size for name in self._written},
            stats={name: ScoreStats.of(np.ascontiguousarray(scores[:, i])).to_json() for i, name in enumerate(self._names)},
        )


@contextlib.contextmanager
def shard_rows(
    folder: Path, stem: str, schema: pa.Schema, names: Sequence[str], *, as_csv: bool, metadata: Mapping[str, Any]
) -> Iterator[ShardRows]:
    """Write the scores and rejects of a shard as its rows come, each file whole or not at all.

    Args:
        folder: the run's folder.
        stem: the shard's name.
        schema: its columns without scores, `sample` first.
        names: the score columns; without any only rejects are written.
        as_csv: CSV text with rejected rows in their place (empty score, `status`) instead of Parquet without them.
        metadata: JSON-ready; goes into Parquet's schema.
    """
    with contextlib.ExitStack() as opened:
        yield ShardRows(opened, folder, stem, schema, names, as_csv=as_csv, metadata=metadata)


def scores_table(labels: pa.Table, scores: npt.NDArray[np.float32], names: Sequence[str]) -> pa.Table:
    """`sample`, then one float32 column per head, then the other columns of `labels`. scores: (N, H) float32."""
    table = {columns.SAMPLE: labels.column(columns.SAMPLE)}
    for position, name in enumerate(names):
        table[name] = pa.array(np.ascontiguousarray(scores[:, position]))
    for name in labels.column_names[1:]:
        table[name] = labels.column(name)
    return pa.table(table)


def scores_schema(labels: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """The columns of `scores_table`. Raises InputError when a passed-through column has a score column's name."""
    twice = [name for name in labels.names if name in names]
    if twice:
        raise InputError(f"column {twice[0]!r} is in the metadata and the name of a score; name the columns to pass one by one")
    return pa.schema([labels.field(columns.SAMPLE), *((name, pa.float32()) for name in names), *list(labels)[1:]])


def check_csv_names(names: Iterable[str]) -> None:
    """Raise InputError for a passed-through column that a CSV cannot have."""
    for name in names:
        if name == columns.STATUS:
            raise InputError("column 'status' is the CSV's own; name the columns to pass one by one, or write .parquet")
        if "\n" in name or "\r" in name:
            raise InputError(f"column {name!r} has a line break in its name, which a CSV header cannot hold; leave it out")


def _parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Samples differ in every row, so a dictionary only costs; statistics of scores let readers skip row groups."""
    dictionary = [f.name for f in schema if f.name != columns.SAMPLE and not pa.types.is_floating(f.type)]
    return {"compression": "zstd", "compression_level": 1, "use_dictionary": dictionary}


def _rows_of(path: Path, schema: pa.Schema, metadata: Mapping[str, Any]) -> contextlib.AbstractContextManager[ParquetRows]:
    return parquet_rows(str(path), stamped(schema, metadata), **_parquet_options(schema))


def write_parquet(path: Path, parts: Iterable[pa.Table], schema: pa.Schema, metadata: Mapping[str, Any]) -> None:
    """Write tables of one schema as a shard's file; `metadata` goes into it as `beholder`."""
    with _rows_of(path, schema, metadata) as out:
        for part in parts:
            out.write(part)


def read_rows(
    shard: EarlierShard, names: Sequence[str], *, as_csv: bool
) -> Iterator[tuple[pa.Table, npt.NDArray[np.float32], list[str]]]:
    """Rows of an earlier shard, in pieces; where rejected ones are not in their place (Parquet), they come last.

    Labels (`sample` first; text in CSV, of rejected rows of Parquet the sample alone), scores (N, H) float32 with NaN where
    rejected, and statuses.
    """
    scores_name, rejects_name = shard_files(shard.name, as_csv=as_csv)
    if as_csv:
        types = dict.fromkeys(names, pa.float32())
        with open_table(str(shard.folder / scores_name), types, empty_is_null=True) as (_, batches):
            for batch in batches:
                table = pa.Table.from_batches([batch])
                words: list[str] = table.column(columns.STATUS).to_pylist()
                yield table.drop_columns([*names, columns.STATUS]), _columns(table, names), words
        return
    if names:
        with storage.open_parquet(str(shard.folder / scores_name)) as file:
            for batch in file.iter_batches():
                table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
                yield table.drop_columns(list(names)), _columns(table, names), [columns.STATUS_OK] * table.num_rows
    if rejects_name in shard.result.files:
        with storage.open_parquet(str(shard.folder / rejects_name)) as file:
            table = file.read().replace_schema_metadata(None)
        scores = np.full((table.num_rows, len(names)), np.nan, np.float32)
        yield table.select([columns.SAMPLE]), scores, table.column(columns.REASON).to_pylist()


def _columns(table: pa.Table, names: Sequence[str]) -> npt.NDArray[np.float32]:
    found = [pc.fill_null(table.column(name), float("nan")).to_numpy() for name in names]
    return np.stack(found, axis=1).astype(np.float32, copy=False)


def is_ours(path: str) -> bool:
    """Whether a Parquet file, local or remote, was written by this program."""
    try:
        with storage.open_parquet(path) as file:
            return b"beholder" in (file.schema_arrow.metadata or {})
    except (InputError, pa.ArrowException, OSError):
        return False


def join_shards(target: str, parts: Sequence[Path], metadata: Mapping[str, Any], scratch: Path) -> None:
    """Join files of scores or rejects, in order, to one file; whole or not at all."""
    if target.lower().endswith(".csv"):
        tables.join_csv(target, parts, scratch)
        return
    if len(parts) == 1:  # it has the metadata already
        with storage.write_whole(target, scratch=scratch) as temporary:
            shutil.copyfile(parts[0], temporary)
        return
    schema = stamped(common_schema(pq.read_schema(part) for part in parts), metadata)
    tables.join_parquet(target, parts, schema, scratch=scratch, **_parquet_options(schema))
