"""The order of rows by a key, and of rows with equal keys by their names.

A key is a uint32, the larger the better; 0 is a row without a value. Scores become keys in the same order (`ordered_keys`), so
sorting, cutting and comparing are done on integers. Rows are numbered with uint32.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from beholder.kernels import texts
from beholder.kernels.bits import floats_of, ordered_bits
from beholder.kernels.compiled import compiled

Keys = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]

MOST_ROWS = (1 << 32) - 2
MOST_KEY = (1 << 32) - 1


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


@compiled
def _mark_ties(keys, order, dropped, flags):  # type: ignore[no-untyped-def]
    num = len(keys)
    total = 0
    start = 0
    while start < num:
        stop = start + 1
        while stop < num and keys[stop] == keys[start]:
            stop += 1
        flags[start] = 0
        if stop - start > 1:
            wanted = len(dropped) == 0
            at = start
            while not wanted and at < stop:
                wanted = dropped[order[at]] == 0
                at += 1
            for i in range(start + 1, stop):
                flags[i] = 1 if wanted else 0
            if wanted:
                total += stop - start
        start = stop
    return total


def mark_ties(keys: Keys, order: Rows, dropped: Bytes | None = None) -> tuple[Bytes, int]:
    """Flags (N,) uint8, 1 where a row ties with the one before it, and how many rows are in such runs.

    keys: (N,) sorted; order: (N,) their rows. With `dropped`, by row, only runs in which a row was not dropped count.
    """
    flags = np.empty(len(keys), np.uint8)
    return flags, int(_mark_ties(keys, order, np.empty(0, np.uint8) if dropped is None else dropped, flags))


def in_runs(flags: Bytes) -> npt.NDArray[np.int64]:
    """Where the rows of `mark_ties`'s runs stand."""
    return np.flatnonzero(flags | np.append(flags[1:], np.uint8(0)))


@compiled
def _sort_runs(ids, flags, windows, start, end):  # type: ignore[no-untyped-def]
    still = 0
    while start < end:
        stop = start + 1
        while stop < end and flags[stop] == 1:
            stop += 1
        num = stop - start
        if num > 20:
            run = ids[start:stop].copy()
            by = np.argsort(windows[run], kind="mergesort")
            for i in range(num):
                ids[start + i] = run[by[i]]
        else:
            for i in range(start + 1, stop):
                number = ids[i]
                window = windows[number]
                j = i - 1
                while j >= start and windows[ids[j]] > window:
                    ids[j + 1] = ids[j]
                    j -= 1
                ids[j + 1] = number
        for i in range(start + 1, stop):
            window = windows[ids[i]]
            more = window == windows[ids[i - 1]] and (window & np.uint64(255)) == np.uint64(8)
            flags[i] = 1 if more else 0
            still += 1 if more else 0
        start = stop
    return still


def sort_runs(ids: Rows, flags: Bytes, windows: npt.NDArray[np.uint64], num_threads: int = 1) -> int:
    """Sort each run of `flags`, whose ids ascend, by the window of the id, in place; then only undecided runs stay marked.

    windows: by id; see `texts.fill_windows`. Equal windows stay in the order of ids; of names that go on they are undecided.
    Returns how many rows tie with the one before them.
    """
    count = max(1, min(num_threads, len(ids) >> 16))
    edges = [0]
    for i in range(1, count):
        edge = max(edges[-1], len(ids) * i // count)
        while edge < len(ids) and flags[edge]:
            edge += 1
        edges.append(edge)
    edges.append(len(ids))
    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(lambda start, stop: int(_sort_runs(ids, flags, windows, start, stop)), edges[:-1], edges[1:]))


def sort_by_names(ids: Rows, flags: Bytes, offsets: texts.Offsets, data: texts.Data, num_threads: int = 1) -> None:
    """Sort the runs of `flags` by the names of the ids, then by id, in place; ids of a run ascend.

    offsets, data: the names, by id; 7 bytes of each are compared at a time, as numbers.
    """
    if len(offsets) < 2:
        return
    scan = texts.scan_names(offsets, data)
    if scan.ascending:
        return
    windows = np.empty(len(offsets) - 1, np.uint64)
    skip = len(scan.common)
    while True:
        texts.fill_windows(offsets, data, skip, windows)
        if not sort_runs(ids, flags, windows, num_threads):
            return
        skip += texts.WINDOW_BYTES


def numbered(order: Rows, num_rows: int) -> Rows:
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
