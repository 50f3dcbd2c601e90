"""A score set and the options in; which column is the score, and one key per row for ranking, out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.curate.select.expression import Expression, known_names, parse_expression
from beholder.curate.select.options import SelectRules
from beholder.errors import InputError
from beholder.kernels import ordering
from beholder.models import catalog
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import ScoreSet

Keys = npt.NDArray[np.uint32]
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Values:
    """What rows are compared by.

    Attributes:
        score: the column that thresholds go by, or None.
        score_keys: (N,) its keys (`ordering.ordered_keys`); None when there is no such column or nothing needs it.
        rank_keys: (N,) keys of the ranking value; the same array when that is the score and every row counts.
        expression: what the ranking value is made of, or None: the score.
        levels: (L,) float64, ascending: the ranking values behind rank_keys 1 ... L, where there is an expression.
    """

    score: str | None
    score_keys: Keys | None
    rank_keys: Keys
    expression: Expression | None = None
    levels: npt.NDArray[np.float64] | None = None

    def rank_values(self, rows: slice | npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
        """Ranking values of rows in float64, NaN for none."""
        keys = self.rank_keys[rows]
        if self.levels is None:
            return ordering.scores_of(keys).astype(np.float64)
        return np.where(keys > 0, self.levels[np.maximum(keys, 1).astype(np.int64) - 1] if len(self.levels) else np.nan, np.nan)


def aliases_of(scores: ScoreSet) -> dict[str, str]:
    """Further names of score columns: the heads' names and aliases, when they mean one column."""
    found: dict[str, str] = {}
    doubtful: set[str] = set()
    for column in scores.score_columns:
        head = scores.head_names.get(column) or column
        entry = catalog.find(head)
        for name in {head, *((entry.name, *entry.aliases) if entry is not None else ())}:
            if name in found:
                doubtful.add(name)
            found[name] = column
    return {name: column for name, column in found.items() if name not in doubtful}


def find_score(scores: ScoreSet, name: str) -> str:
    """The score column that a name or a head's alias means. Raises InputError."""
    if name in scores.score_columns:
        return name
    aliases = aliases_of(scores)
    if name in aliases:
        return aliases[name]
    entry = catalog.find(name)
    if entry is not None and entry.name in aliases:
        return aliases[entry.name]
    if name in scores.schema.names and (name in scores.untyped or _is_number(scores.schema.field(name).type)):
        return name
    raise InputError(f"--score {name}: there is no such score; there are {', '.join(scores.score_columns)}")


def choose_columns(scores: ScoreSet, reader: RowReader, rules: SelectRules) -> tuple[str | None, Expression | None]:
    """The column that thresholds go by, and the expression to rank by. Raises InputError where that is not clear."""
    score = find_score(scores, rules.score) if rules.score is not None else None
    if score is None and len(scores.score_columns) == 1:
        score = scores.score_columns[0]
    expression = None
    if rules.rank_by is not None:
        numbers = [name for name in reader.schema.names if reader.holds_numbers(name)]
        expression = parse_expression(rules.rank_by, known_names(numbers, aliases_of(scores)))
    several = ", ".join(scores.score_columns)
    if score is None and expression is None:
        raise InputError(
            f"{scores.source} has several scores ({several}); choose one with --score, or combine them with --rank-by"
        )
    if score is None:
        used = next(
            (
                f"--{name.replace('_', '-')}"
                for name in ("min_score", "max_score", "quantile")
                if getattr(rules, name) is not None
            ),
            None,
        )
        if used is not None:
            raise InputError(f"{used} goes by one score, and --rank-by combines several ({several}); say which with --score")
    return score, expression


def read_values(
    scores: ScoreSet, reader: RowReader, rules: SelectRules, without: npt.NDArray[np.uint32] | None = None
) -> Values:
    """Read what rows are compared by; the rows `without` get no ranking value and count in none. Raises InputError."""
    without = np.empty(0, np.uint32) if without is None else without
    score, expression = choose_columns(scores, reader, rules)
    keys: Keys | None = None
    if expression is None:
        assert score is not None
        keys = ordering.ordered_keys(reader.floats(score), rules.threads)
        return Values(score, keys, _without(keys, without))
    by_score = (rules.min_score, rules.max_score, rules.quantile)
    buckets = "score_bucket" in (rules.per, rules.balance)
    rank_keys, levels = _combined(expression, reader, rules.threads, without)
    if score is not None and (buckets or any(value is not None for value in by_score)):
        keys = ordering.ordered_keys(reader.floats(score), rules.threads)
    return Values(score, keys, rank_keys, expression, levels)


def _without(keys: Keys, rows: npt.NDArray[np.uint32]) -> Keys:
    """The keys, those of these rows 0; the same array where there are none."""
    if not len(rows):
        return keys
    found = keys.copy()
    found[rows] = 0
    return found


def _combined(
    expression: Expression, reader: RowReader, num_threads: int, without: npt.NDArray[np.uint32]
) -> tuple[Keys, npt.NDArray[np.float64]]:
    """Keys of an expression over percentiles: 1 ... L, the place of the value among all L values; and those values."""
    doubled: dict[str, tuple[npt.NDArray[np.uint32], int]] = {}
    for name in expression.names:
        if reader.num_rows >= 1 << 31:
            raise InputError(f"--rank-by works for up to {1 << 31:,} rows")
        keys, wide = _double_keys(reader, name)
        doubled[name] = _doubled_ranks(_without(keys, without), wide, num_threads)
    value = np.empty(reader.num_rows, np.float64)
    for start in range(0, reader.num_rows, _BLOCK):
        part = slice(start, min(start + _BLOCK, reader.num_rows))
        value[part] = expression.values(_percentiles(doubled, part))
    del doubled
    value += 0.0  # no -0.0
    bits = value.view(np.uint64)
    for start in range(0, reader.num_rows, _BLOCK):  # to ordered integers, in place
        part = slice(start, start + _BLOCK)
        bits[part] = np.where(np.isfinite(value[part]), _ordered_bits(bits[part]), np.uint64(0))
    order, new_level = _sorted_wide(_upper_halves(bits), bits, num_threads)
    del value
    keys = ordering.levels_of(order, new_level, reader.num_rows)
    firsts = order[new_level][::-1]
    del order, new_level
    return keys, _from_ordered_bits(bits[firsts])


def _percentiles(
    doubled: dict[str, tuple[npt.NDArray[np.uint32], int]], part: slice
) -> Callable[[str], npt.NDArray[np.float64]]:
    def of(name: str) -> npt.NDArray[np.float64]:
        ranks, count = doubled[name]
        found = ranks[part].astype(np.float64)
        return np.where(found > 0, found / (2.0 * count) if count else np.nan, np.nan)

    return of


def _double_keys(reader: RowReader, name: str) -> tuple[Keys, npt.NDArray[np.uint64] | None]:
    """A column's keys; and all 64 bits where they are needed, of columns that are not float32. 0 for no value."""
    if reader.schema.field(name).type in (pa.float32(), pa.float16()) or name in reader.scores.score_columns:
        return ordering.ordered_keys(reader.floats(name)), None
    wide = np.zeros(reader.num_rows, np.uint64)

    def put(first: int, table: pa.Table) -> None:
        column = pc.fill_null(reader.numbers_in(table, name).cast(pa.float64(), safe=False), float("nan")).combine_chunks()
        values = column.to_numpy(zero_copy_only=False) + 0.0
        wide[first : first + len(values)] = np.where(np.isfinite(values), _ordered_bits(values.view(np.uint64)), np.uint64(0))

    for _ in reader.map([name], put):
        pass
    return _upper_halves(wide), wide


def _upper_halves(wide: npt.NDArray[np.uint64]) -> Keys:
    return wide.view(np.uint32)[sys.byteorder == "little" :: 2].copy()


def _ordered_bits(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """float64 bits -> uint64 in the order of the floats."""
    top = np.uint64(1 << 63)
    return np.where(bits >= top, ~bits, bits | top)


def _from_ordered_bits(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    top = np.uint64(1 << 63)
    return np.where(bits >= top, bits ^ top, ~bits).view(np.float64)


def _sorted_wide(
    keys: Keys, wide: npt.NDArray[np.uint64] | None, num_threads: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """Rows that have a value, by descending value; and where a value differs from the one before it.

    keys: the upper halves of `wide`, or all there is. A value is told from none by its upper half, which is never 0.
    """
    num_ranked = int(np.count_nonzero(keys))
    inverted, order = ordering.sort_best_first(keys, num_threads=num_threads)
    inverted, order = inverted[:num_ranked], order[:num_ranked]
    new_level = np.ones(num_ranked, np.bool_)
    if wide is None:
        np.not_equal(inverted[1:], inverted[:-1], out=new_level[1:])
        return order, new_level
    flags, count = ordering.mark_ties(inverted, order)
    del inverted
    if count:
        np.invert(wide, out=wide)
        ordering.sort_runs(order, flags, wide, num_threads)
        np.invert(wide, out=wide)
    for start in range(1, num_ranked, _BLOCK):
        stop = min(start + _BLOCK, num_ranked)
        found = wide[order[start - 1 : stop]]
        np.not_equal(found[1:], found[:-1], out=new_level[start:stop])
    return order, new_level


def _doubled_ranks(keys: Keys, wide: npt.NDArray[np.uint64] | None, num_threads: int) -> tuple[npt.NDArray[np.uint32], int]:
    """Twice the average rank of each row, 2 ... 2 n, the smallest value first, 0 for none; and n, how many have a value."""
    order, new_level = _sorted_wide(keys, wide, num_threads)
    return ordering.double_ranks(order, new_level, len(keys)), len(order)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))
