"""Tables of the rows that stay, best first, and of what became of every row, with what their files say about themselves.

The place of every row is known, or its key is: the files are read once, and what does not fit in memory is put into scratch
files of neighbouring places, each of which is put in order at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.curate.options import RuleOptions, SelectRules
from beholder.curate.select.range_mask import RangeMask
from beholder.curate.select.ranking import order_of
from beholder.curate.select.row_mask import RULES
from beholder.curate.select.rules import RuleRunner
from beholder.curate.select.values import keys_in
from beholder.io.schemas import in_type, is_bytes
from beholder.kernels import ordering
from beholder.kernels.ordering import Chosen, Rows
from beholder.scoreset.row_names import whole
from beholder.scoreset.score_set import ScoreSet

T = TypeVar("T")

SELECTION_FORMAT = "beholder-selection"
NEAR_TO, SIMILARITY = "near_to", "similarity"
_READING = ("score", "head", "rank_by", "join", "score_column", "sample_column")
_PLACE, _IS_LEFT, _ROW = "\0place", "\0is_left", "\0row"
_MOST_BUCKETS = 512
_MEMORY_SHARE = 12
"""Rows that take more than this fraction of --memory go through scratch files."""


def passed_columns(scores: ScoreSet, names: Iterable[str]) -> dict[str, str]:
    """Columns of a set that lists pass through -> their names there. A selection's own columns are made anew."""
    is_selection = scores.record.get("format") == SELECTION_FORMAT
    passed = [name for name in names if not (is_selection and name in columns.OF_A_SELECTION)]
    return columns.source_names(passed, {columns.SAMPLE, *scores.score_columns, *columns.OF_A_SELECTION})


def list_schema(scores: ScoreSet, more: Iterable[pa.Field]) -> pa.Schema:
    """The columns of a list: sample, the scores, rank, kept, dropped_by, and more."""
    found = [pa.field(columns.SAMPLE, pa.large_string())]
    found += [pa.field(name, score_type(scores, name)) for name in scores.score_columns]
    kinds = zip(columns.OF_A_SELECTION, (pa.int64(), pa.bool_(), pa.string()), strict=True)
    return pa.schema([*found, *(pa.field(name, kind) for name, kind in kinds), *more])


def score_type(scores: ScoreSet, name: str) -> pa.DataType:
    """The type of a score column in lists: its own, or float64 where that is of no floats."""
    kind = scores.schema.field(name).type
    return kind if pa.types.is_floating(kind) else pa.float64()


def decided(ranks: Rows, dropped: npt.NDArray[np.uint8]) -> list[pa.Array]:
    """The columns rank (from 1, 0 for none), kept and dropped_by (an index into RULES, 0 for rows that stay)."""
    words = pa.DictionaryArray.from_arrays(pa.array(dropped.view(np.int8)), pa.array([None, *RULES[1:]], pa.string()))
    return [pa.array(ranks.astype(np.int64), mask=ranks == 0), pa.array(dropped == 0), words.cast(pa.string())]


def list_record(scores: ScoreSet, rules: Mapping[str, Any], num_rows: int, num_kept: int, **more: Any) -> dict[str, Any]:
    """What a list says about itself; its heads and pictures are those of the scores."""
    source = scores.record
    record = {
        "format": SELECTION_FORMAT,
        "format_version": columns.FORMAT_VERSION,
        "source": scores.source,
        "rules": dict(rules),
        **more,
        "num_rows": num_rows,
        "num_kept": num_kept,
        "score_columns": list(scores.score_columns),
        "heads": [scores.head_record(name) for name in scores.score_columns],
        "source_record": source,
    }
    if columns.PICTURES in source:
        record[columns.PICTURES] = source[columns.PICTURES]
    return record


def rules_record(rules: SelectRules) -> dict[str, Any]:
    """The options that decide which rows stay, as far as they were given."""
    defaults = {item.name: item.default for item in fields(SelectRules)}
    found = {}
    for name in [*(item.name for item in fields(RuleOptions)), *_READING]:
        value = getattr(rules, name)
        if value != defaults[name] or (name in ("seed", "temperature") and rules.sample is not None):
            found[name] = list(value) if isinstance(value, tuple) else value if value != float("inf") else "inf"
    return found


class RowTables:
    """Makes tables of rows, after the rules have been applied by `runner`.

    Attributes:
        budget: rows that take more bytes go through scratch files.
        passed: columns that are passed through -> their names in the result.
        schema: of the rows that stay; decision_schema: of all rows.
    """

    def __init__(self, runner: RuleRunner) -> None:
        self._runner, self._scores, self._reader = runner, runner.scores, runner.rows.reader
        self._sample = self._scores.sample_column
        self.budget = runner.rules.memory // _MEMORY_SHARE
        kinds = {name: self._reader.schema.field(name).type for name in self._reader.metadata_columns}
        self.passed = passed_columns(self._scores, [name for name, kind in kinds.items() if not is_bytes(kind)])
        self.schema = list_schema(self._scores, (pa.field(new, kinds[name]) for name, new in self.passed.items()))
        decides = {self._sample, *self._scores.score_columns}
        self._encoded = [name for name in self.passed if name not in decides]
        self._is_compared = runner.rules.dedup is not None or bool(runner.rules.dedup_against)
        near = [pa.field(NEAR_TO, pa.large_string()), pa.field(SIMILARITY, pa.float32())] if self._is_compared else []
        self.decision_schema = list_schema(self._scores, near)

    def in_order(self, given: tuple[Rows, Rows | None] | None, *, only_samples: bool, num_rows: int) -> Iterator[pa.Table]:
        """Tables of `schema`, or of samples only, of the rows that stay, best first, at most `num_rows` at a time.

        given: the rows and their ranks; None where the runner holds nothing of a row.
        """
        schema = pa.schema([self.schema.field(columns.SAMPLE)]) if only_samples else self.schema
        scores, passed = ([], []) if only_samples else (list(self._scores.score_columns), list(self.passed))
        for table, ranks in _ahead(self._ordered([self._sample, *scores, *passed], given, num_rows)):
            ready = [table.column(self._sample), *(table.column(name) for name in scores)]
            if not only_samples:
                ready += decided(ranks, np.zeros(len(ranks), np.uint8))
            yield pa.table([*ready, *(table.column(name) for name in passed)], schema=schema)

    def rows_in_order(self) -> tuple[Rows, Rows]:
        """The rows that stay, best first, and their ranks, where the runner holds nothing of a row."""
        found = [(table.column(_ROW).to_numpy(), ranks) for table, ranks in self._ordered([_ROW], None, 1 << 20)]
        none = np.zeros(0, np.uint32)
        return np.concatenate([none, *(rows for rows, _ in found)]), np.concatenate([none, *(ranks for _, ranks in found)])

    def _ordered(
        self, names: list[str], given: tuple[Rows, Rows | None] | None, num_rows: int
    ) -> Iterator[tuple[pa.Table, Rows]]:
        """The named columns of the rows that stay, best first, and their ranks (zeros where they were not given)."""
        if given is not None:
            order, ranks = given
            at = 0
            buckets = _even_buckets(len(order))
            for table in self._sorted(self._placed(names, order), len(order), buckets, num_rows, has_ties=False):
                part = slice(at, at + table.num_rows)
                at = part.stop
                yield table, ranks[part] if ranks is not None else np.zeros(table.num_rows, np.uint32)
            return
        mask = self._runner.mask
        assert isinstance(mask, RangeMask)
        rank, left = mask.num_above, mask.left
        inverted, counts = mask.bins()
        ended = np.cumsum(counts)

        def buckets_of(at_once: int) -> npt.NDArray[np.uint32]:
            number = ended // max(1, at_once)
            starts: npt.NDArray[np.uint32] = inverted[1:][number[1:] != number[:-1]]
            return starts

        total = int(counts.sum())
        for table in self._sorted(self._between(names, mask), total, buckets_of, num_rows, has_ties=True):
            found = np.arange(rank + 1, rank + 1 + table.num_rows, dtype=np.uint32)
            rank += table.num_rows
            if _IS_LEFT in table.column_names:
                flags = table.column(_IS_LEFT)
                table, found = table.filter(flags), found[flags.to_numpy()]
            if left <= 0:
                return
            yield table.slice(0, left), found[:left]
            left -= table.num_rows

    def _placed(self, names: list[str], order: Rows) -> Iterator[pa.Table]:
        """The named columns of rows, piece by piece in the order of the set, with the place of each in `order`."""
        by_row, places = ordering.places_of(order)
        chosen = Chosen(by_row)

        def take(first: int, table: pa.Table) -> pa.Table:
            flags = np.zeros(table.num_rows, np.bool_)
            flags[chosen.inside(first, table.num_rows)] = True
            return self._taken(first, table, names, flags, places[chosen.within(first, first + table.num_rows)])

        return self._reader.map(names, take, wanted=chosen.any, on_rows=self._tell, encoded=self._encoded)

    def _between(self, names: list[str], mask: RangeMask) -> Iterator[pa.Table]:
        """The same of the rows in the range of a mask; the place is the inverted key."""
        read = list(dict.fromkeys([self._sample, *mask.columns, *(name for name in names if name != _ROW)]))
        if mask.size_column is not None:
            mask.cut_ties()

        def take(first: int, table: pa.Table) -> pa.Table:
            keys = mask.keys_of(first, table)
            flags = mask.between(keys)
            found = self._taken(first, table, [self._sample, *names], flags, ~keys[flags])
            if mask.size_column is not None:
                found = found.append_column(_IS_LEFT, pa.array(mask.left_in(first, table)[flags]))
            return found

        return self._reader.map(read, take, on_rows=self._tell, encoded=self._encoded)

    def _tell(self, count: int) -> None:
        self._runner.rows.tell("rows for the result", count)

    def _taken(self, first: int, table: pa.Table, names: list[str], flags: npt.NDArray[np.bool_], places: Rows) -> pa.Table:
        """The flagged rows of a piece, as lists have them, with their places."""
        if _ROW in names:
            table = table.append_column(_ROW, pa.array(np.arange(first, first + len(flags), dtype=np.uint32)))
        if self._sample in names and table.column(self._sample).null_count:  # called after their places in the set
            at = table.column_names.index(self._sample)
            table = table.set_column(at, self._sample, self._scores.names_in(table.column(at), first))
        if not flags.all():
            table = table.filter(pa.array(flags))
        found = {}
        for name in dict.fromkeys(names):
            if name == self._sample:
                found[name] = self._scores.names_in(table.column(name), first)
            elif name in self._scores.score_columns:
                found[name] = self._score_in(table, name)
            elif name == _ROW:
                found[name] = table.column(name)
            else:
                found[name] = in_type(table.column(name), self._reader.schema.field(name).type)
        return pa.table(found).combine_chunks().append_column(_PLACE, pa.array(places))

    def _score_in(self, table: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
        """A score column: that which decided without what is no score."""
        is_clean = name == self._runner.score and self._runner.knows_scores
        if is_clean and self._scores.schema.field(name).type == pa.float32():
            return pa.array(ordering.scores_of(keys_in(self._reader, table, name)), from_pandas=True)
        return in_type(table.column(name), score_type(self._scores, name))

    def _sorted(
        self,
        pieces: Iterator[pa.Table],
        total: int,
        buckets: Callable[[int], npt.NDArray[np.uint32]],
        num_rows: int,
        *,
        has_ties: bool,
    ) -> Iterator[pa.Table]:
        """Pieces put in order by their places, at most `num_rows` at a time.

        Args:
            pieces: in the order of the set.
            total: about how many rows they have.
            buckets: the places at which buckets of about so many rows begin, without the first.
            num_rows: most rows of a table.
            has_ties: whether equal places are put in order by name.
        """

        def ordered(table: pa.Table) -> Iterator[pa.Table]:
            table = table.combine_chunks()
            places = table.column(_PLACE).to_numpy()
            if has_ties:
                order = order_of(places, whole(table.column(self._sample)), self._runner.rules.threads)
            else:
                _, order = ordering.places_of(places)
            table = table.drop_columns(_PLACE)
            for start in range(0, len(order), num_rows):
                yield table.take(pa.array(order[start : start + num_rows]))

        waiting: list[pa.Table] = []
        num_bytes = 0
        for table in pieces:
            waiting.append(table)
            num_bytes += table.nbytes
            if num_bytes > self.budget:
                break
        if num_bytes <= self.budget:
            if waiting:
                yield from ordered(pa.concat_tables(waiting))
            return
        at_once = max(num_rows, sum(map(len, waiting)) * self.budget // num_bytes, -(-total // _MOST_BUCKETS))
        folder = self._runner.rows.scratch / "buckets"
        folder.mkdir(exist_ok=True)
        for path in _scattered(waiting, pieces, buckets(at_once), folder):
            with pa.OSFile(str(path)) as source:
                table = pa.ipc.open_stream(source).read_all()
            path.unlink()
            yield from ordered(table)

    def decisions(
        self, ranks: Rows, dropped: npt.NDArray[np.uint8], groups: pa.Table | None, *, only_dropped: bool
    ) -> Iterator[pa.Table]:
        """Tables of `decision_schema` in the order of the set.

        groups: of near-duplicates (`groups.GROUPS_SCHEMA`), from which it is told what a dropped row is near to.
        """
        near = _NearTo(groups) if self._is_compared and groups is not None else None

        def decide(first: int, table: pa.Table) -> pa.Table:
            part = slice(first, first + table.num_rows)
            ready = [
                self._scores.names_in(table.column(self._sample), first),
                *(self._score_in(table, name) for name in self._scores.score_columns),
                *decided(ranks[part], dropped[part]),
                *(near.columns(first, table.num_rows) if near is not None else ()),
            ]
            found = pa.table(ready, schema=self.decision_schema)
            return found.filter(pa.array(dropped[part] != 0)) if only_dropped else found

        wanted = [self._sample, *self._scores.score_columns]
        return self._reader.map(wanted, decide, on_rows=lambda count: self._runner.rows.tell("decisions", count))


def _even_buckets(num_places: int) -> Callable[[int], npt.NDArray[np.uint32]]:
    return lambda at_once: np.arange(at_once, num_places, at_once, dtype=np.uint32)


def _scattered(first: list[pa.Table], rest: Iterator[pa.Table], starts: npt.NDArray[np.uint32], folder: Path) -> list[Path]:
    """Write rows to a file for each bucket of places; the files in the order of places. `first` is emptied."""
    files: dict[int, tuple[pa.ipc.RecordBatchStreamWriter, Path]] = {}

    def put(table: pa.Table) -> None:
        buckets = np.searchsorted(starts, table.column(_PLACE).to_numpy(), side="right")
        table = table.take(pa.array(np.argsort(buckets, kind="stable"))).combine_chunks()
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
    return [files[bucket][1] for bucket in sorted(files)]


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


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, each made while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item
