"""Rows of a browsed set in one mapped file, any few of them read in an instant; views of them, best first by one score."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import SAMPLE
from beholder.io.schemas import empty_table, is_list, is_text
from beholder.kernels.ordering import ordered_keys, sort_best_first
from beholder.scoreset.numbers import count_at_least
from beholder.scoreset.score_set import ROW, ScoreSet
from beholder.sources.labels import is_heavy

VIEW = "scores"
"""What the rows are called in conditions."""
BATCH_ROWS = 65_536
_LONG_TEXT = 4_000
"""Values are shown cut to so many characters."""
_FLOAT32_DIGITS = 8
Rows = npt.NDArray[np.uint32 | np.int64]
_SAFE_INTEGER = 2**53
"""Larger integers would lose digits in a web page; they are sent as text."""


class RowStore:
    """Rows of a score set by number. Memory is the system's page cache; the file is as large as the set uncompressed.

    Left out are columns of bytes and of vectors, which no table can show.

    Attributes:
        names: columns, `sample` first, then the scores, then the others.
        left_out: columns of the set that are not here.
        untyped: columns of text that come from a CSV.
        table: all rows, mapped; columns `names` and ROW, and the sample's own column where it has another name.
        handle: descriptor of the file, for other processes; open as long as this is there.
        sample_column: name of the sample's own column.
    """

    def __init__(self, scores: ScoreSet, folder: Path, *, batch_rows: int = BATCH_ROWS) -> None:
        target, self.left_out = _target_schema(scores)
        path = folder / "rows.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, target) as writer:
            for table in _pieces(scores, target, batch_rows):
                writer.write_table(table, max_chunksize=batch_rows)
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.handle, self.sample_column = os.open(path, os.O_RDONLY | os.O_CLOEXEC), scores.sample_column
        weakref.finalize(self, os.close, self.handle)
        path.unlink()  # the mapping stays; the disk is free again even after kill -9
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._starts = np.concatenate([[0], np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)])
        self.table = pa.Table.from_batches(self._batches, target)
        self.untyped = scores.untyped
        self.names = [name for name in target.names if name != ROW]
        if scores.sample_column not in target.names:
            self.table = self.table.append_column(scores.sample_column, self.table.column(SAMPLE))

    @property
    def num_rows(self) -> int:
        """Rows of the set."""
        return int(self._starts[-1])

    def fetch(self, rows: npt.NDArray[np.integer[Any]], names: Sequence[str]) -> pa.Table:
        """Columns `names` of these rows, in the order asked for; rows may repeat."""
        schema = pa.schema([self.table.schema.field(name) for name in names])
        if not len(rows):
            return empty_table(schema)
        order = np.argsort(rows, kind="stable")
        wanted = np.asarray(rows)[order].astype(np.int64)
        places = np.searchsorted(self._starts, wanted, side="right") - 1
        pieces = []
        for place in np.unique(places):
            inside = wanted[places == place] - self._starts[place]
            pieces.append(self._batches[place].select(list(names)).take(pa.array(inside)))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.Table.from_batches(pieces, schema).combine_chunks().take(pa.array(back))

    def samples(self, rows: npt.NDArray[np.integer[Any]]) -> list[str]:
        """Names of these rows."""
        found: list[str] = self.fetch(rows, [SAMPLE]).column(0).to_pylist()
        return found

    def row(self, number: int) -> dict[str, Any]:
        """All columns of one row as JSON takes them: NaN is null, long texts are cut, large integers are texts.

        float32 is written in as few digits as tell it apart, as in an export, and in 8 at most.
        """
        (values,) = self.fetch(np.array([number]), self.names).to_pylist()
        kinds = {name: self.table.schema.field(name).type for name in self.names}
        return {name: as_json(_in_few_digits(value, kinds[name])) for name, value in values.items()}


def _in_few_digits(value: Any, kind: pa.DataType) -> Any:
    """A float32 without the digits that come of widening it: 5.095467 for 5.0954670906066895; others as they are."""
    if value is None or not pa.types.is_float32(kind):
        return value
    return float(f"{float(str(np.float32(value))):.{_FLOAT32_DIGITS}g}")


def _target_schema(scores: ScoreSet) -> tuple[pa.Schema, list[str]]:
    """Columns of the mapped file, and the names of those of the set that do not go there."""
    found = [pa.field(SAMPLE, pa.large_string())]
    left_out = []
    for name in (*scores.score_columns, *scores.metadata_columns):
        kind = _kind_here(scores.schema.field(name).type)
        if kind is None or name in (SAMPLE, ROW):
            left_out.append(name)
        else:
            found.append(pa.field(name, kind))
    own = scores.schema.field(scores.sample_column)
    if own.name != SAMPLE and not is_text(own.type):  # conditions see the numbers that the set has
        found.append(pa.field(own.name, _kind_here(own.type) or pa.large_string()))
    return pa.schema([*found, pa.field(ROW, pa.int64())]), left_out


def _kind_here(kind: pa.DataType) -> pa.DataType | None:
    """The type a column has in the mapped file; None for columns that are left out."""
    types = pa.types
    if types.is_dictionary(kind):
        return _kind_here(kind.value_type)
    if is_text(kind) or types.is_null(kind):
        return pa.large_string()
    if is_heavy(kind) or types.is_union(kind) or types.is_decimal256(kind):
        return None
    if types.is_float16(kind):
        return pa.float32()
    if types.is_struct(kind):
        return None if any(_kind_here(kind.field(at).type) is None for at in range(kind.num_fields)) else kind
    if is_list(kind):
        return None if types.is_floating(kind.value_type) or _kind_here(kind.value_type) is None else kind
    return kind


def _pieces(scores: ScoreSet, target: pa.Schema, batch_rows: int) -> Iterator[pa.Table]:
    """Rows of the set in order, as the mapped file has them."""
    wanted = [scores.sample_column, *(name for name in target.names if name not in (SAMPLE, ROW, scores.sample_column))]
    at = 0
    for batch in scores.batches(wanted, num_rows=batch_rows):
        numbers = np.arange(at, at + batch.num_rows, dtype=np.int64)
        names = scores.names_in(batch.column(scores.sample_column), at)
        made: dict[str, Any] = {SAMPLE: names, ROW: pa.array(numbers)}
        for item in target:
            if item.name not in made:
                made[item.name] = batch.column(item.name).cast(item.type)
        yield pa.table([made[item.name] for item in target], schema=target)
        at += batch.num_rows


def as_json(value: Any) -> Any:
    """A value of a table as a web page takes it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _SAFE_INTEGER else str(value)
    if isinstance(value, float):
        return value if np.isfinite(value) else (None if np.isnan(value) else str(value))
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _LONG_TEXT else f"{text[:_LONG_TEXT]} ... ({len(text):,} characters)"


@dataclass(frozen=True)
class View:
    """The rows that satisfy some conditions, by one score.

    Attributes:
        key: names the view.
        score: the score's column.
        conditions: SQL expressions that all rows satisfy.
        rows: (M,) rows that have a finite score, best first; ties by sample, then by row.
        ascending: (M,) float32, their scores, from the smallest.
        inside: (N,) bool, which rows of the set satisfy the conditions; None: all.
        num_matching: rows that satisfy them, with a score or not.
    """

    key: str
    score: str
    conditions: tuple[str, ...]
    rows: Rows
    ascending: npt.NDArray[np.float32]
    inside: npt.NDArray[np.bool_] | None
    num_matching: int

    @property
    def num_bytes(self) -> int:
        """Memory it holds."""
        return self.rows.nbytes + self.ascending.nbytes + (self.inside.nbytes if self.inside is not None else 0)

    def count_at_least(self, threshold: float) -> int:
        """Rows with this score or more."""
        return count_at_least(self.ascending, threshold)

    def between(self, low: float, high: float) -> Rows:
        """Rows with a score in [low, high), best first."""
        return self.rows[self.count_at_least(high) : self.count_at_least(low)]


def best_first(scores: npt.NDArray[np.float32], store: RowStore) -> Rows:
    """Rows that have a finite score, best first; ties by sample (UTF-8 bytes), then by row."""
    found = np.flatnonzero(np.isfinite(scores)).astype(np.uint32)
    _, rows = sort_best_first(ordered_keys(scores[found]), found)
    values = scores[rows]
    same = values[1:] == values[:-1]
    if not same.any():
        return rows
    tied = np.zeros(len(rows), bool)
    tied[1:] |= same
    tied[:-1] |= same
    run = np.concatenate([[0], np.cumsum(~same)])[tied]
    among = rows[tied]
    names = store.fetch(among, [SAMPLE]).column(0)
    keys = pa.table({"run": run, "sample": names, "row": among})
    rows[tied] = among[pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names]).to_numpy()]
    return rows
