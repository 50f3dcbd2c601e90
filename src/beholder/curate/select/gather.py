"""Rows in any order in, their columns in that order out: one pass over the files, what does not fit goes through scratch files.

The place of every row is known beforehand, so nothing is sorted: pieces of the files are filtered, their rows put into
buckets of neighbouring places, and each bucket put in order at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.curate.select.records import SELECTION_FORMAT
from beholder.curate.select.sieve import RULES
from beholder.io.schemas import in_type
from beholder.kernels import choosing, ordering
from beholder.scoreset.row_reader import Chosen

if TYPE_CHECKING:
    from beholder.curate.select.rules import Judge

Rows = npt.NDArray[np.uint32]
T = TypeVar("T")

RANK, KEPT, DROPPED_BY = "rank", "kept", "dropped_by"
RESERVED = (RANK, KEPT, DROPPED_BY)
NEAR_TO, SIMILARITY = "near_to", "similarity"
_MOST_BUCKETS = 512
_MEMORY_SHARE = 12
"""Rows that take more than this fraction of --memory go through scratch files."""


class Gatherer:
    """Makes tables of rows.

    Attributes:
        passed: columns that are passed through -> their names in the result.
        schema: of the rows that stay; decision_schema: of all rows.
    """

    def __init__(self, judge: Judge) -> None:
        self._rows, self._values, self._scores = judge.rows, judge.values, judge.scores
        self._reader = judge.rows.reader
        self._dropped = judge.sieve.dropped
        self._budget = judge.rules.memory // _MEMORY_SHARE
        is_selection = self._scores.record.get("format") == SELECTION_FORMAT
        passed: list[str] = []
        taken = {columns.SAMPLE, *self._scores.score_columns, *RESERVED}
        for name in self._reader.metadata_columns:
            if name in RESERVED and is_selection:  # of the selection that this one is made of
                continue
            kind = self._reader.schema.field(name).type
            if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)):
                passed.append(name)
        self.passed = columns.source_names(passed, taken)
        fields = [pa.field(columns.SAMPLE, pa.large_string())]
        fields += [pa.field(name, self._score_type(name)) for name in self._scores.score_columns]
        fields += [pa.field(RANK, pa.int64()), pa.field(KEPT, pa.bool_()), pa.field(DROPPED_BY, pa.string())]
        self._is_compared = judge.rules.dedup is not None or bool(judge.rules.dedup_against)
        more = [pa.field(NEAR_TO, pa.large_string()), pa.field(SIMILARITY, pa.float32())] if self._is_compared else []
        self.decision_schema = pa.schema([*fields, *more])
        self.schema = pa.schema(
            [*fields, *(pa.field(new, self._reader.schema.field(name).type) for name, new in self.passed.items())]
        )

    def _score_type(self, name: str) -> pa.DataType:
        kind = self._scores.schema.field(name).type
        return kind if pa.types.is_floating(kind) else pa.float64()

    def _from_keys(self, name: str) -> bool:
        """Whether a score is known without reading it again."""
        keys = self._values.score_keys
        return keys is not None and name == self._values.score and self._scores.schema.field(name).type == pa.float32()

    def in_order(self, order: Rows, ranks: Rows | None, *, num_rows: int) -> Iterator[pa.Table]:
        """Tables of `schema` of the rows in this order, at most `num_rows` at a time; without ranks, of samples only."""
        schema = self.schema if ranks is not None else pa.schema([self.schema.field(columns.SAMPLE)])
        by_row = choosing.left_rows(self._values.rank_keys, self._dropped)
        known = self._rows.names.remembered(by_row)
        sample = self._scores.sample_column
        wanted = [] if known is not None else [sample]
        if ranks is not None:
            wanted += [name for name in self._scores.score_columns if not self._from_keys(name)]
            wanted += [name for name in self.passed if name not in wanted]
        places = ordering.places_of(by_row, order, self._scores.num_rows)
        shuffled = self._shuffled(wanted, by_row, places, num_rows)
        for start, table in shuffled:
            part = slice(start, min(start + num_rows, len(order)))
            found = {name: table.column(name) for name in table.column_names}
            if known is not None:
                found[sample] = known.take(pa.array(np.searchsorted(by_row, order[part])))
            ready = [found.pop(sample)]
            if ranks is not None:
                ready += self._scores_of(order[part], found)
                ready += _told(ranks[part], np.zeros(len(ranks[part]), np.uint8))
                ready += [found[name] for name in self.passed]
            yield pa.table(ready, schema=schema)

    def _scores_of(self, rows: Rows, found: dict[str, pa.ChunkedArray]) -> list[pa.ChunkedArray | pa.Array]:
        ready = []
        for name in self._scores.score_columns:
            if self._from_keys(name):
                assert self._values.score_keys is not None
                scores = ordering.scores_of(self._values.score_keys[rows])
                ready.append(pa.array(scores, from_pandas=True))
            else:
                ready.append(in_type(found[name], self._score_type(name)))
        return ready

    def _shuffled(self, names: list[str], by_row: Rows, places: Rows, num_rows: int) -> Iterator[tuple[int, pa.Table]]:
        """The columns of ascending rows, put to their places: (first place, table of up to `num_rows`)."""
        starts = range(0, len(by_row), num_rows)
        if not names:
            yield from ((start, pa.table({})) for start in starts)
            return
        pieces = self._pieces(names, by_row)
        waiting: list[pa.Table] = []
        num_bytes = 0
        for table in pieces:
            waiting.append(table)
            num_bytes += table.nbytes
            if num_bytes > self._budget:
                yield from self._through_files(waiting, pieces, places, num_rows)
                return
        whole = pa.concat_tables(waiting).combine_chunks() if waiting else None
        del waiting
        if whole is None:
            return
        back = np.empty(len(places), np.uint32)
        back[places] = np.arange(len(places), dtype=np.uint32)
        yield from _ahead(lambda start: (start, whole.take(pa.array(back[start : start + num_rows]))), starts)

    def _pieces(self, names: list[str], by_row: Rows) -> Iterator[pa.Table]:
        """The columns of ascending rows, piece by piece, in row order."""
        sample = self._scores.sample_column
        chosen = Chosen(by_row)

        def take(first: int, table: pa.Table) -> pa.Table:
            inside = by_row[chosen.within(first, first + table.num_rows)]
            if sample in table.column_names:
                at = table.column_names.index(sample)
                table = table.set_column(at, sample, self._scores.names_in(table.column(sample), first))
            if len(inside) == table.num_rows:
                return table.combine_chunks()
            mask = np.zeros(table.num_rows, np.bool_)
            mask[inside - np.uint32(first)] = True
            return table.filter(pa.array(mask)).combine_chunks()

        def tell(count: int) -> None:
            self._rows.tell("rows for the result", count)

        return self._reader.map(names, take, wanted=chosen.any, on_rows=tell)

    def _through_files(
        self, first: list[pa.Table], rest: Iterator[pa.Table], places: Rows, num_rows: int
    ) -> Iterator[tuple[int, pa.Table]]:
        """The same for rows that do not fit in memory: a scratch file for each bucket of places."""
        at_once = max(num_rows, -(-len(places) // _MOST_BUCKETS))
        folder = self._rows.scratch / "buckets"
        folder.mkdir(exist_ok=True)
        files: dict[int, tuple[pa.ipc.RecordBatchStreamWriter, Path]] = {}
        at = 0

        def put(table: pa.Table) -> None:
            nonlocal at
            mine = places[at : at + table.num_rows]
            at += table.num_rows
            table = table.append_column("place", pa.array(mine))
            buckets = (mine // np.uint32(at_once)).astype(np.uint16)
            by_bucket = np.argsort(buckets, kind="stable")
            table = table.take(pa.array(by_bucket)).combine_chunks()
            counts = np.bincount(buckets)
            start = 0
            for bucket in np.flatnonzero(counts).tolist():
                if bucket not in files:
                    path = folder / str(bucket)
                    files[bucket] = (pa.ipc.new_stream(str(path), table.schema), path)
                files[bucket][0].write_table(table.slice(start, int(counts[bucket])))
                start += int(counts[bucket])

        while first:
            put(first.pop(0))
        for table in rest:
            put(table)
        for writer, _ in files.values():
            writer.close()

        def load(bucket: int) -> tuple[int, pa.Table]:
            path = files[bucket][1]
            with pa.OSFile(str(path)) as source:
                table = pa.ipc.open_stream(source).read_all()
            path.unlink()
            inside = table.column("place").to_numpy() - np.uint32(bucket * at_once)
            back = np.empty(len(inside), np.uint32)
            back[inside] = np.arange(len(inside), dtype=np.uint32)
            return bucket * at_once, table.drop_columns("place").combine_chunks().take(pa.array(back))

        for start, table in _ahead(load, sorted(files)):
            for inside in range(0, table.num_rows, num_rows):
                yield start + inside, table.slice(inside, num_rows)

    def decisions(
        self, ranks: Rows, dropped: npt.NDArray[np.uint8], groups: pa.Table | None, *, only_dropped: bool
    ) -> Iterator[pa.Table]:
        """Tables of `decision_schema` in the order of the set.

        groups: of near-duplicates (`duplicates.GROUPS_SCHEMA`), from which it is told what a dropped row is near to.
        """
        near = _NearTo(groups) if self._is_compared and groups is not None else None
        sample = self._scores.sample_column
        wanted = [sample, *(name for name in self._scores.score_columns if not self._from_keys(name))]

        def tell(first: int, table: pa.Table) -> pa.Table:
            part = slice(first, first + table.num_rows)
            rows = np.arange(first, first + table.num_rows, dtype=np.uint32)
            found = {name: table.column(name) for name in wanted}
            ready = [
                self._scores.names_in(found[sample], first),
                *self._scores_of(rows, found),
                *_told(ranks[part], dropped[part]),
                *(near.columns(first, table.num_rows) if near is not None else ()),
            ]
            whole = pa.table(ready, schema=self.decision_schema)
            return whole.filter(pa.array(dropped[part] != 0)) if only_dropped else whole

        return self._reader.map(wanted, tell, on_rows=lambda count: self._rows.tell("decisions", count))


class _NearTo:
    """Of rows that near-duplicate removal dropped, what each is near to, and how near."""

    def __init__(self, groups: pa.Table) -> None:
        stays = groups.column("kept").to_numpy(zero_copy_only=False).astype(bool)
        number = groups.column("group").to_numpy()
        names = groups.column(columns.SAMPLE).combine_chunks()
        keeper = np.zeros(int(number.max(initial=-1)) + 1, np.int64)
        keeper[number[stays]] = np.flatnonzero(stays)
        dropped = np.flatnonzero(~stays)
        rows = groups.column("row").to_numpy()[dropped]
        dropped = dropped[order := np.argsort(rows)]
        self._rows = rows[order]
        others = names.take(pa.array(keeper[number[dropped]])) if len(names) else names
        self._others = pc.coalesce(groups.column("reference").combine_chunks().take(pa.array(dropped)), others)
        self._similarity = groups.column("similarity").combine_chunks().take(pa.array(dropped))

    def columns(self, first: int, num_rows: int) -> list[pa.Array]:
        """near_to and similarity of rows [first, first + num_rows); null for all others."""
        low, high = np.searchsorted(self._rows, [first, first + num_rows]).tolist()
        at = np.full(num_rows, -1, np.int64)
        at[self._rows[low:high] - first] = np.arange(low, high)
        places = pa.array(at, mask=at < 0)
        return [self._others.take(places), self._similarity.take(places)]


def _told(ranks: Rows, dropped: npt.NDArray[np.uint8]) -> list[pa.Array]:
    """The columns rank, kept and dropped_by."""
    words = pa.DictionaryArray.from_arrays(pa.array(dropped.view(np.int8)), pa.array([None, *RULES[1:]], pa.string()))
    return [pa.array(ranks.astype(np.int64), mask=ranks == 0), pa.array(dropped == 0), words.cast(pa.string())]


def _ahead(load: Callable[[int], T], numbers: Iterable[int]) -> Iterator[T]:
    """`load` of each number, one ahead of what is asked for."""
    future: Future[T] | None = None
    with ThreadPoolExecutor(1) as pool:
        for number in numbers:
            following = pool.submit(load, number)
            if future is not None:
                yield future.result()
            future = following
        if future is not None:
            yield future.result()
