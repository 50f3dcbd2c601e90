"""Rows left and their bytes in, the longest run of best rows that fits a budget kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.curate.act.messages import bytes_text
from beholder.curate.select.sieve import NUMBER, Sieve
from beholder.errors import InputError
from beholder.kernels import choosing
from beholder.scoreset.row_reader import Chosen, RowReader

Sizes = npt.NDArray[np.int64]
_MOST = 1 << 60


def keep_within(sieve: Sieve, reader: RowReader, budget: int, size_column: str | None) -> None:
    """Drop rows without a known size, then all behind the longest best-first run of rows whose bytes sum to at most `budget`.

    Rows that stay in any case come first and count, however large they are. Sizes below 0, NULL and NaN are unknown.

    Raises:
        InputError: no column of sizes.
    """
    column = _column(reader, size_column)
    cap = min(budget + 1, _MOST)  # one row of this size is too much, so no sum needs to tell more
    keys, dropped, pinned = sieve.ranking.keys, sieve.dropped, sieve.pinned

    def survey(first: int, table: pa.Table) -> tuple[int, int, Sizes]:
        bins = np.zeros(1 << 16, np.int64)
        unknown, held = choosing.bytes_by_upper(
            keys, dropped, pinned, sizes_of(reader, table), first, NUMBER["no_size"], cap, bins
        )
        return unknown, held, bins

    uppers, unknown, held = np.zeros(1 << 16, np.int64), 0, 0
    for piece_unknown, piece_held, bins in reader.map([column], survey):
        unknown += piece_unknown
        held = min(held + piece_held, cap)
        uppers = np.minimum(uppers + bins, cap)
    sieve.note("no_size", f"a known size in column {column}", unknown)
    before = sieve.left
    text, counts = f"at most {bytes_text(budget)}", {"budget_bytes": budget}
    if held > budget:  # the rows that stay in any case took more than all
        sieve.drop_outside("budget", keys, least=1 << 32)
        note = "what is marked keep takes more than that"
    else:
        upper, used = _bin_over(uppers, held, budget)
        more = "nothing was too much"
        if upper >= 0:
            used, size = _cut_inside(sieve, reader, column, budget, upper, used)
            more = f"the next picture, of {bytes_text(size)}, would not fit"
            if size > budget:
                more = "the next picture alone is larger than that"
        note = f"{bytes_text(used)} used; {more}"
        counts["used_bytes"] = used
    left = sum(choosing.survey(keys, dropped, sieve.num_threads)[:2])
    sieve.note("budget", text, before - left, sieve.lowest_value(), note, **counts)


def _cut_inside(sieve: Sieve, reader: RowReader, column: str, budget: int, upper: int, used: int) -> tuple[int, int]:
    """Cut where the sum passes the budget: somewhere among the keys with these upper 16 bits.

    Returns the bytes of all that is left, and of the first row that is not (at most `budget` + 1).
    """
    keys, dropped, pinned = sieve.ranking.keys, sieve.dropped, sieve.pinned
    cap = min(budget + 1, _MOST)

    def survey(first: int, table: pa.Table) -> tuple[Sizes, Sizes]:
        sums, counts = np.zeros(1 << 16, np.int64), np.zeros(1 << 16, np.int64)
        choosing.bytes_by_lower(keys, dropped, pinned, sizes_of(reader, table), first, upper, cap, sums, counts)
        return sums, counts

    sums, counts = np.zeros(1 << 16, np.int64), np.zeros(1 << 16, np.int64)
    for piece_sums, piece_counts in reader.map([column], survey):
        sums = np.minimum(sums + piece_sums, cap)
        counts += piece_counts
    lower, used = _bin_over(sums, used, budget)
    key = (upper << 16) | lower
    sieve.drop_outside("budget", keys, least=key)
    tied = choosing.rows_with(keys, dropped, key, int(counts[lower]), pinned)
    order = sieve.ranking.best_first(tied)
    sizes = np.minimum(_sizes_at(reader, column, tied)[np.searchsorted(tied, order)], cap)
    fitting = int(np.argmax(used + np.cumsum(sizes) > budget))  # the first: later sums may be larger than int64 holds
    dropped[order[fitting:]] = NUMBER["budget"]
    return used + int(sizes[:fitting].sum()), int(sizes[fitting])


def _bin_over(sums: Sizes, used: int, budget: int) -> tuple[int, int]:
    """The first bin from the top whose bytes pass the budget, -1 if none does; and the bytes before it."""
    for number in np.flatnonzero(sums)[::-1].tolist():
        if used + int(sums[number]) > budget:
            return number, used
        used += int(sums[number])
    return -1, used


def _column(reader: RowReader, size_column: str | None) -> str:
    name = size_column or columns.NUM_BYTES
    if name in reader.schema.names:
        if reader.holds_numbers(name):
            return name
        raise InputError(
            f"--budget: column {name!r} holds {reader.schema.field(name).type}, not numbers of bytes; "
            "name another with --size-column"
        )
    has = ", ".join(reader.metadata_columns[:20]) or "no metadata"
    raise InputError(
        f"--budget needs a column with each picture's bytes, and {name!r} is not there ({has}); use --size-column or --join"
    )


def sizes_of(reader: RowReader, table: pa.Table) -> Sizes:
    """A column of bytes as int64, -1 where unknown; fractions count as a whole byte."""
    column = reader.numbers_in(table, table.column_names[0])
    if not pa.types.is_integer(column.type):
        floats = pc.ceil(column.cast(pa.float64()))
        column = pc.if_else(pc.is_finite(floats), pc.min_element_wise(floats, float(_MOST)), None).cast(pa.int64())
    elif pa.types.is_uint64(column.type):
        column = pc.min_element_wise(column, pa.scalar(_MOST, pa.uint64()))
    found = pc.fill_null(column.cast(pa.int64()), -1).combine_chunks().to_numpy(zero_copy_only=False)
    sizes: Sizes = np.ascontiguousarray(found, np.int64)
    return sizes


def _sizes_at(reader: RowReader, column: str, rows: npt.NDArray[np.uint32]) -> Sizes:
    """Sizes of ascending rows."""
    chosen = Chosen(rows)

    def take(first: int, table: pa.Table) -> Sizes:
        inside = chosen.within(first, first + table.num_rows)
        return sizes_of(reader, table)[rows[inside].astype(np.int64) - first]

    return np.concatenate([np.zeros(0, np.int64), *reader.map([column], take, wanted=chosen.any)])
