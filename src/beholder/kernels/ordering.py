"""Keys of rows in, their order out: a stable radix sort, ties put in order by the names of rows, the best of each group.

A key is a uint32, the larger the better; 0 is a row without a value. Float scores become keys in the same order
(`ordered_keys`), so sorting, cutting and comparing are done on integers. Rows are numbered with uint32.

The radix sort is the usual one from the least significant digit (Knuth, The Art of Computer Programming 3, 5.2.5), 11 bits at a
time, each thread counting and placing a stretch of its own; it is stable, so equal keys stay in row order.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.kernels.compiled import compiled

Keys = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]

MOST_ROWS = (1 << 32) - 2
_DIGIT_BITS, _DIGITS = 11, 1 << 11
_FLIP = 0xFFFFFFFF
_SMALL = 20
"""Shorter stretches are sorted by insertion."""


def in_stretches(num_rows: int, num_threads: int, work: Callable[[int, int], Any]) -> list[Any]:
    """Do `work(start, stop)` on about equal stretches of the rows, each in a thread; results in order."""
    count = max(1, min(num_threads, num_rows >> 16))
    edges = [num_rows * i // count for i in range(count + 1)]
    if count == 1:
        return [work(0, num_rows)]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, edges[:-1], edges[1:]))


@compiled
def _keys_of(bits, keys, start, stop):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        b = np.int64(bits[i])
        if (b & 0x7FFFFFFF) > 0x7F800000:
            k = np.int64(0)
        elif b == 0x80000000:
            k = np.int64(0x80000000)
        elif b & 0x80000000:
            k = b ^ 0xFFFFFFFF
        else:
            k = b | 0x80000000
        keys[i] = k


def ordered_keys(scores: npt.NDArray[np.float32], num_threads: int = 1) -> Keys:
    """(N,) float32 -> (N,) uint32 in the same order; NaN is 0, -0.0 is 0.0. The result may stand in the scores' memory."""
    scores = np.ascontiguousarray(scores, np.float32)
    keys: Keys = scores.view(np.uint32)
    if not keys.flags.writeable:
        keys = keys.copy()
    in_stretches(len(keys), num_threads, lambda start, stop: _keys_of(keys, keys, start, stop))
    return keys


def scores_of(keys: Keys) -> npt.NDArray[np.float32]:
    """The scores behind `ordered_keys`, NaN for 0."""
    bits = np.where(keys >> 31, keys & np.uint32(0x7FFFFFFF), ~keys)
    scores: npt.NDArray[np.float32] = bits.view(np.float32)
    scores[keys == 0] = np.nan
    return scores


def key_of(score: float) -> int:
    """The key of one score, rounded to float32."""
    return int(ordered_keys(np.array([score], np.float32))[0])


@compiled
def _count_digits(keys, flip, shift, start, stop, counts):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        counts[((np.int64(keys[i]) ^ flip) >> shift) & 2047] += 1


@compiled
def _place_digits(keys, index, flip, shift, start, stop, places, keys_out, index_out):  # type: ignore[no-untyped-def]
    has_index = len(index) > 0
    for i in range(start, stop):
        key = np.int64(keys[i]) ^ flip
        digit = (key >> shift) & 2047
        at = places[digit]
        places[digit] = at + 1
        keys_out[at] = key
        index_out[at] = index[i] if has_index else i


def _in_threads(count: int) -> tuple[Callable[..., Any], Callable[[], None]]:
    """A `map` that works in so many threads (in this one for 1), and what ends them."""
    if count == 1:
        return map, lambda: None
    pool = ThreadPoolExecutor(count)
    return pool.map, pool.shutdown


def sort_best_first(keys: Keys, rows: Rows | None = None, *, num_threads: int = 1) -> tuple[Keys, Rows]:
    """Rows by descending key, equal keys in the order given: (inverted keys, ~key, in that order; rows in that order).

    keys: (N,), of the rows given, or of rows 0 ... N - 1. Memory besides: four arrays of N uint32, two of them the result.
    """
    num = len(keys)
    count = max(1, min(num_threads, num >> 16))
    edges = [num * i // count for i in range(count + 1)]
    index: Rows = np.empty(0, np.uint32) if rows is None else rows
    flip = _FLIP
    spare: list[npt.NDArray[np.uint32]] = []
    do, end = _in_threads(count)
    try:
        for shift in range(0, 32, _DIGIT_BITS):
            counts = np.zeros((count, _DIGITS), np.int64)
            list(do(_count_digits, [keys] * count, [flip] * count, [shift] * count, edges[:-1], edges[1:], counts))
            totals = counts.sum(axis=0)
            if totals.max(initial=0) == num:
                continue
            places = np.zeros_like(counts)
            places[0] = np.cumsum(totals) - totals
            np.cumsum(counts[:-1], axis=0, out=places[1:])
            places[1:] += places[0]
            keys_out, index_out = spare or [np.empty(num, np.uint32), np.empty(num, np.uint32)]

            def place(start, stop, mine, given=(keys, index, flip, shift), out=(keys_out, index_out)):  # type: ignore[no-untyped-def]
                _place_digits(*given, start, stop, mine, *out)

            list(do(place, edges[:-1], edges[1:], places))
            spare = [] if flip else [keys, index]
            keys, index, flip = keys_out, index_out, 0
    finally:
        end()
    if flip:
        return ~keys, (np.arange(num, dtype=np.uint32) if rows is None else rows.copy())
    return keys, index


def places_of(by_row: Rows, order: Rows, num_rows: int) -> Rows:
    """Where each of some rows, given ascending, stands in `order`, which holds the same rows, all below `num_rows`."""
    places = np.empty(len(order), np.uint32)
    if len(order) * 64 < num_rows:
        places[np.searchsorted(by_row, order)] = np.arange(len(order), dtype=np.uint32)
        return places
    by_number = np.empty(num_rows, np.uint32)
    _number(order, 0, by_number)
    _take(by_number, by_row, places)
    return places


@compiled
def _number(order, first, out):  # type: ignore[no-untyped-def]
    for i in range(len(order)):
        out[order[i]] = first + i


def numbered(order: Rows, num_rows: int) -> Rows:
    """(N,) the place of each row in `order`, from 1; 0 for rows that are not in it."""
    found = np.zeros(num_rows, np.uint32)
    _number(order, 1, found)
    return found


@compiled
def _ids(order, numbers, rows, ids):  # type: ignore[no-untyped-def]
    for i in range(len(order)):
        numbers[order[i]] = 1
    at = 0
    for row in range(len(numbers)):
        if numbers[row] != 0:
            rows[at] = row
            numbers[row] = at
            at += 1
    for i in range(len(order)):
        ids[i] = numbers[order[i]]


def rows_and_ids(order: Rows, num_rows: int) -> tuple[Rows, Rows]:
    """The rows of `order`, which holds each once, ascending; and for each of `order` its place among those."""
    if len(order) * 64 < num_rows:
        rows = np.sort(order)
        return rows, np.searchsorted(rows, order).astype(np.uint32)
    rows, ids = np.empty(len(order), np.uint32), np.empty(len(order), np.uint32)
    _ids(order, np.zeros(num_rows, np.uint32), rows, ids)
    return rows, ids


@compiled
def _double_ranks(order, is_new, out):  # type: ignore[no-untyped-def]
    num = len(order)
    start = 0
    while start < num:
        stop = start + 1
        while stop < num and not is_new[stop]:
            stop += 1
        for i in range(start, stop):
            out[order[i]] = 2 * num + 1 - start - stop
        start = stop


def double_ranks(order: Rows, is_new: npt.NDArray[np.bool_], num_rows: int) -> Rows:
    """(N,) twice the average rank of each row, the last of `order` having rank 1; 0 for rows that are not in it.

    is_new: where the value differs from that of the row before it in `order`.
    """
    found = np.zeros(num_rows, np.uint32)
    _double_ranks(order, is_new, found)
    return found


@compiled
def _levels(order, is_new, count, out):  # type: ignore[no-untyped-def]
    level = count + 1
    for i in range(len(order)):
        if is_new[i]:
            level -= 1
        out[order[i]] = level


def levels_of(order: Rows, is_new: npt.NDArray[np.bool_], num_rows: int) -> Keys:
    """(N,) keys that count the different values, 1 for the smallest; 0 for rows that are not in `order`."""
    found = np.zeros(num_rows, np.uint32)
    _levels(order, is_new, int(np.count_nonzero(is_new)), found)
    return found


@compiled
def _take(values, rows, out):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        out[i] = values[rows[i]]


@compiled
def _mark_ties(keys, order, dropped, flags):  # type: ignore[no-untyped-def]
    """flags[i] = 1 where key i equals key i - 1, in runs that hold a row with dropped == 0 (all, where that is empty)."""
    num = len(keys)
    any_run = len(dropped) == 0
    total = 0
    start = 0
    while start < num:
        stop = start + 1
        while stop < num and keys[stop] == keys[start]:
            stop += 1
        flags[start] = 0
        if stop - start > 1:
            wanted = any_run
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


@compiled
def _in_runs(flags, places):  # type: ignore[no-untyped-def]
    num = len(flags)
    at = 0
    for i in range(num):
        if flags[i] == 1 or (i + 1 < num and flags[i + 1] == 1):
            places[at] = i
            at += 1
    return at


def places_in_runs(flags: Bytes, count: int) -> npt.NDArray[np.int64]:
    """Where the `count` rows of `mark_ties`'s runs stand."""
    places = np.empty(count, np.int64)
    found = _in_runs(flags, places)
    assert found == count
    return places


@compiled
def _less(keys, ids, base, i, key, number):  # type: ignore[no-untyped-def]
    return keys[i] < key or (keys[i] == key and ids[base + i] < number)


@compiled
def _sort_pairs(keys, ids, base, num, stack):  # type: ignore[no-untyped-def]
    """Sort keys[0:num] and with them ids[base : base + num] by (key, id), in place. All ids differ."""
    depth = 1
    stack[0, 0] = 0
    stack[0, 1] = num
    while depth > 0:
        depth -= 1
        low = stack[depth, 0]
        high = stack[depth, 1]
        while high - low > _SMALL:
            middle = (low + high) >> 1
            a, b, c = low, middle, high - 1  # the median of three to the middle
            if _less(keys, ids, base, b, keys[a], ids[base + a]):
                a, b = b, a
            if _less(keys, ids, base, c, keys[b], ids[base + b]):
                b = c
                if _less(keys, ids, base, b, keys[a], ids[base + a]):
                    b = a
            pivot = keys[b]
            number = ids[base + b]
            i = low - 1
            j = high
            while True:
                i += 1
                while keys[i] < pivot or (keys[i] == pivot and ids[base + i] < number):
                    i += 1
                j -= 1
                while keys[j] > pivot or (keys[j] == pivot and ids[base + j] > number):
                    j -= 1
                if i >= j:
                    break
                keys[i], keys[j] = keys[j], keys[i]
                ids[base + i], ids[base + j] = ids[base + j], ids[base + i]
            cut = j + 1
            if cut - low < high - cut:  # the longer part waits, so the stack stays short
                stack[depth, 0] = cut
                stack[depth, 1] = high
                depth += 1
                high = cut
            else:
                stack[depth, 0] = low
                stack[depth, 1] = cut
                depth += 1
                low = cut
        for i in range(low + 1, high):
            key = keys[i]
            number = ids[base + i]
            j = i - 1
            while j >= low and (keys[j] > key or (keys[j] == key and ids[base + j] > number)):
                keys[j + 1] = keys[j]
                ids[base + j + 1] = ids[base + j]
                j -= 1
            keys[j + 1] = key
            ids[base + j + 1] = number


@compiled
def _sort_runs(ids, flags, windows, buffer, start, end):  # type: ignore[no-untyped-def]
    stack = np.empty((128, 2), np.int64)
    still = 0
    while start < end:
        stop = start + 1
        while stop < end and flags[stop] == 1:
            stop += 1
        num = stop - start
        if num > 1:
            if num > len(buffer):
                buffer = np.empty(num, np.uint64)
            for i in range(num):
                buffer[i] = windows[ids[start + i]]
            _sort_pairs(buffer, ids, start, num, stack)
            for i in range(1, num):
                more = buffer[i] == buffer[i - 1] and (buffer[i] & np.uint64(255)) == np.uint64(8)
                flags[start + i] = 1 if more else 0
                still += 1 if more else 0
        start = stop
    return still


def sort_runs(ids: Rows, flags: Bytes, windows: npt.NDArray[np.uint64], num_threads: int = 1) -> int:
    """Sort each run of `flags` by (window of the id, id), in place; then only undecided runs stay marked.

    windows: by id; see `texts.fill_windows`. Undecided are equal windows of names that go on. Returns how many rows tie with
    the one before them.
    """
    count = max(1, min(num_threads, len(ids) >> 16))
    edges = [0]
    for i in range(1, count):
        edge = max(edges[-1], len(ids) * i // count)
        while edge < len(ids) and flags[edge]:
            edge += 1
        edges.append(edge)
    edges.append(len(ids))

    def work(start: int, stop: int) -> int:
        return int(_sort_runs(ids, flags, windows, np.empty(1024, np.uint64), start, stop))

    do, end = _in_threads(count)
    try:
        return sum(do(work, edges[:-1], edges[1:]))
    finally:
        end()
