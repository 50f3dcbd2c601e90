"""The order of rows by a key, and of rows with equal keys by their names.

A key is a uint32, the larger the better; 0 is a row without a value. Scores become keys in the same order (`ordered_keys`), so
sorting, cutting and comparing are done on integers. Rows are numbered with uint32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.kernels.bits import floats_of, ordered_bits

Keys = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]

MOST_ROWS = (1 << 32) - 2
MOST_KEY = (1 << 32) - 1
MANY_ROWS = 1 << 22
"""Of more rows, ties are found by compiled code, which needs no memory but the flags."""
MANY_TIES = 500_000
"""Of more rows that tie, names are compared by compiled code: four times as fast as Arrow, after a second to load numba."""


class Chosen:
    """Ascending rows, (K,) uint32: which of them lie in a stretch of rows."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def within(self, start: int, stop: int) -> slice:
        """Where those from `start` to before `stop` stand."""
        edges = np.array([start, stop], np.uint32)  # of another type, numpy would convert all rows at each call
        low, high = np.searchsorted(self.rows, edges)
        return slice(int(low), int(high))

    def any(self, start: int, stop: int) -> bool:
        """Whether there are any."""
        found = self.within(start, stop)
        return bool(found.start < found.stop)

    def inside(self, first: int, num_rows: int) -> Rows:
        """Those among `num_rows` rows from `first` on, counted from that."""
        return self.rows[self.within(first, first + num_rows)] - np.uint32(first)


def ordered_keys(scores: npt.NDArray[np.float32]) -> Keys:
    """(N,) float32 -> (N,) uint32 in the same order; NaN is 0, -0.0 is 0.0."""
    keys: Keys = np.where(np.isnan(scores), np.uint32(0), ordered_bits(scores))
    return keys


def scores_of(keys: Keys) -> npt.NDArray[np.float32]:
    """The scores behind `ordered_keys`, NaN for 0."""
    return np.where(keys == 0, np.float32(np.nan), floats_of(keys))


def key_of(score: float) -> int:
    """The key of one score, rounded to float32."""
    with np.errstate(over="ignore"):
        return int(ordered_keys(np.array([score]).astype(np.float32))[0])


def score_of(key: int) -> float:
    """The score that has a key."""
    return float(scores_of(np.array([key], np.uint32))[0])


def sort_best_first(keys: Keys, rows: Rows | None = None) -> tuple[Keys, Rows]:
    """Rows by descending key, equal keys in row order: (inverted keys, ~key, in that order; rows in that order).

    keys: (N,), of the rows given, which ascend, or of rows 0 ... N - 1.
    """
    pairs = np.left_shift(~keys, np.uint64(32), dtype=np.uint64)
    pairs |= np.arange(len(keys), dtype=np.uint32) if rows is None else rows
    pairs.sort()
    return (pairs >> np.uint64(32)).astype(np.uint32), pairs.astype(np.uint32)


def places_of(order: Rows) -> tuple[Rows, Rows]:
    """Different rows -> the same rows ascending, and where in `order` each of these stands."""
    inverted, places = sort_best_first(~order)
    return inverted, places


def mark_ties(keys: Keys, order: Rows, dropped: Bytes | None = None) -> tuple[Bytes, int]:
    """Flags (N,) uint8, 1 where a row ties with the one before it, and how many rows are in such runs.

    keys: (N,) sorted; order: (N,) their rows. With `dropped`, by row, only runs in which a row was not dropped count.
    """
    if len(keys) > MANY_ROWS:
        from beholder.kernels import ties

        return ties.mark_ties(keys, order, dropped)
    flags = np.zeros(len(keys), np.uint8)
    np.equal(keys[1:], keys[:-1], out=flags[1:].view(np.bool_))
    places = in_runs(flags)
    if dropped is not None and len(places):
        is_first = flags[places] == 0
        starts = np.flatnonzero(is_first)
        is_wanted = np.logical_or.reduceat(dropped[order[places]] == 0, starts)[np.cumsum(is_first) - 1]
        flags[places[~is_wanted]] = 0
        return flags, int(np.count_nonzero(is_wanted))
    return flags, len(places)


def in_runs(flags: Bytes) -> npt.NDArray[np.int64]:
    """Where the rows of `mark_ties`'s runs stand."""
    return np.flatnonzero(flags | np.append(flags[1:], np.uint8(0)))


def sort_by_names(ids: Rows, flags: Bytes, names: pa.LargeStringArray, num_threads: int = 1) -> None:
    """Sort the runs of `flags` by the names of the ids, then by id, in place; ids of a run ascend. names: by id."""
    places = in_runs(flags)
    if len(places) > MANY_TIES:
        from beholder.kernels import ties

        ties.sort_by_names(ids, flags, names, num_threads)
        return
    tied = ids[places]
    runs = np.cumsum(flags[places] == 0)
    table = pa.table({"run": runs, "name": names.take(pa.array(tied))})
    ids[places] = tied[pc.sort_indices(table, [("run", "ascending"), ("name", "ascending")]).to_numpy()]


def numbered(order: npt.NDArray[np.integer[Any]], num_rows: int) -> Rows:
    """(N,) the place of each row in `order`, from 1; 0 for rows that are not in it."""
    found = np.zeros(num_rows, np.uint32)
    found[order] = np.arange(1, len(order) + 1, dtype=np.uint32)
    return found


def double_ranks(order: Rows, is_new: npt.NDArray[np.bool_], num_rows: int) -> Rows:
    """(N,) twice the average rank of each row, the last of `order` having rank 1; 0 for rows that are not in it.

    is_new: where the value differs from that of the row before it in `order`.
    """
    starts = np.flatnonzero(is_new)
    stops = np.append(starts[1:], len(order))
    found = np.zeros(num_rows, np.uint32)
    found[order] = np.repeat((2 * len(order) + 1 - starts - stops).astype(np.uint32), stops - starts)
    return found


def levels_of(order: Rows, is_new: npt.NDArray[np.bool_], num_rows: int) -> Keys:
    """(N,) keys that count the different values, 1 for the smallest; 0 for rows that are not in `order`."""
    found = np.zeros(num_rows, np.uint32)
    found[order] = int(np.count_nonzero(is_new)) + 1 - np.cumsum(is_new, dtype=np.uint32)
    return found
