"""Keys of rows and which of them are left in, those to keep out: rows above a cut, the best so many, what fits.

Keys are those of `ordering`. A row is left while its byte in `dropped` is 0; dropping writes the rule's number there. Rows
whose byte in `pinned` is not 0 are never looked at (`pinned` may be empty: there are none).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from beholder.kernels.compiled import compiled
from beholder.kernels.ordering import Bytes, Keys, Rows, in_stretches

NOBODY: Bytes = np.empty(0, np.uint8)


@compiled
def _rows_of(values, least, start, stop, out, at):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        if values[i] >= least:
            out[at] = i
            at += 1
    return at


@compiled
def _count_of(values, least, start, stop):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(start, stop):
        count += 1 if values[i] >= least else 0
    return count


def rows_at_least(values: Keys, least: int, num_threads: int = 1) -> Rows:
    """Rows, ascending, whose key is at least `least`."""
    counts = in_stretches(len(values), num_threads, lambda start, stop: (start, stop, _count_of(values, least, start, stop)))
    out = np.empty(sum(count for _, _, count in counts), np.uint32)
    at = 0
    for start, stop, count in counts:
        _rows_of(values, least, start, stop, out, at)
        at += count
    return out


def count_at_least(values: Keys, least: int, num_threads: int = 1) -> int:
    """How many keys are at least `least`."""
    return sum(in_stretches(len(values), num_threads, lambda start, stop: _count_of(values, least, start, stop)))


@compiled
def _survey(keys, dropped, start, stop):  # type: ignore[no-untyped-def]
    """Of the rows left: how many have a key, how many have none, the smallest key."""
    with_key = 0
    without = 0
    least = np.int64(0xFFFFFFFF)
    for i in range(start, stop):
        if dropped[i] == 0:
            key = np.int64(keys[i])
            if key == 0:
                without += 1
            else:
                with_key += 1
                least = min(least, key)
    return with_key, without, least


def survey(keys: Keys, dropped: Bytes, num_threads: int = 1) -> tuple[int, int, int]:
    """Of the rows left: how many have a key, how many have none, and the smallest key (2**32 - 1 where there is none)."""
    found = in_stretches(len(keys), num_threads, lambda start, stop: _survey(keys, dropped, start, stop))
    return sum(f[0] for f in found), sum(f[1] for f in found), min((int(f[2]) for f in found), default=0xFFFFFFFF)


@compiled
def _left_rows(keys, dropped, pinned, which, out):  # type: ignore[no-untyped-def]
    """Rows left: which 0: any, 1: with a key, 2: without. Counts where `out` is empty."""
    at = 0
    fill = len(out) > 0
    has_pinned = len(pinned) > 0
    for i in range(len(dropped)):
        is_left = dropped[i] == 0 and (not has_pinned or pinned[i] == 0)
        if is_left and (which == 0 or (keys[i] > 0) == (which == 1)):
            if fill:
                out[at] = i
            at += 1
    return at


def left_rows(keys: Keys, dropped: Bytes, *, pinned: Bytes = NOBODY, with_key: bool | None = None) -> Rows:
    """Rows left, ascending; those with or without a key, or (None) all."""
    which = 0 if with_key is None else 1 if with_key else 2
    out = np.empty(_left_rows(keys, dropped, pinned, which, np.empty(0, np.uint32)), np.uint32)
    if len(out):
        _left_rows(keys, dropped, pinned, which, out)
    return out


@compiled
def _drop_outside(keys, dropped, pinned, least, most, word, start, stop):  # type: ignore[no-untyped-def]
    count = 0
    has_pinned = len(pinned) > 0
    for i in range(start, stop):
        if dropped[i] == 0 and (not has_pinned or pinned[i] == 0):
            key = np.int64(keys[i])
            if key < least or key > most:
                dropped[i] = word
                count += 1
    return count


def drop_outside(
    keys: Keys,
    dropped: Bytes,
    word: int,
    *,
    least: int = 1,
    most: int = 0xFFFFFFFF,
    pinned: Bytes = NOBODY,
    num_threads: int = 1,
) -> int:
    """Drop what is left and has a key outside [least, most] (with the defaults: no key). Returns how many rows that were."""

    def work(start: int, stop: int) -> int:
        return int(_drop_outside(keys, dropped, pinned, least, most, word, start, stop))

    return sum(in_stretches(len(keys), num_threads, work))


@compiled
def _drop_unmarked(mask, dropped, pinned, word):  # type: ignore[no-untyped-def]
    count = 0
    has_pinned = len(pinned) > 0
    for i in range(len(dropped)):
        if dropped[i] == 0 and mask[i] == 0 and (not has_pinned or pinned[i] == 0):
            dropped[i] = word
            count += 1
    return count


def drop_unmarked(
    mask: npt.NDArray[np.uint8] | npt.NDArray[np.bool_], dropped: Bytes, word: int, pinned: Bytes = NOBODY
) -> int:
    """Drop what is left and has mask == 0. Returns how many rows that were."""
    return int(_drop_unmarked(mask.view(np.uint8), dropped, pinned, word))


@compiled
def _upper_counts(keys, dropped, pinned, start, stop, out):  # type: ignore[no-untyped-def]
    has_pinned = len(pinned) > 0
    for i in range(start, stop):
        if dropped[i] == 0 and keys[i] > 0 and (not has_pinned or pinned[i] == 0):
            out[np.int64(keys[i]) >> 16] += 1


@compiled
def _lower_counts(keys, dropped, pinned, upper, start, stop, out):  # type: ignore[no-untyped-def]
    has_pinned = len(pinned) > 0
    for i in range(start, stop):
        key = np.int64(keys[i])
        if (key >> 16) == upper and dropped[i] == 0 and key > 0 and (not has_pinned or pinned[i] == 0):
            out[key & 0xFFFF] += 1


def _counted(kernel: object, num_threads: int, keys: Keys, *args: object) -> npt.NDArray[np.int64]:
    """The sum over threads of a kernel's 65,536 counts."""

    def work(start: int, stop: int) -> npt.NDArray[np.int64]:
        out = np.zeros(1 << 16, np.int64)
        kernel(keys, *args, start, stop, out)  # type: ignore[operator]
        return out

    total: npt.NDArray[np.int64] = np.sum(in_stretches(len(keys), num_threads, work), axis=0)
    return total


def nth_best(keys: Keys, dropped: Bytes, place: int, *, pinned: Bytes = NOBODY, num_threads: int = 1) -> tuple[int, int, int]:
    """The key at `place` (from 1, the best) among the rows left that have one: (key, rows with a better one, rows with it).

    There must be at least `place` such rows.
    """
    upper = _counted(_upper_counts, num_threads, keys, dropped, pinned)
    high, above = _bin_of_place(upper, place, 0)
    lower = _counted(_lower_counts, num_threads, keys, dropped, pinned, high)
    low, above = _bin_of_place(lower, place, above)
    return (high << 16) | low, above, int(lower[low])


def _bin_of_place(counts: npt.NDArray[np.int64], place: int, above: int) -> tuple[int, int]:
    """The bin that holds the place, counted from the last bin down, and how many places are above that bin."""
    reached = above + np.cumsum(counts[::-1])
    number = int(np.searchsorted(reached, place))
    assert number < len(counts), "fewer rows than the place asked for"
    return len(counts) - 1 - number, int(reached[number - 1]) if number else above


@compiled
def _rows_with(keys, dropped, pinned, key, out):  # type: ignore[no-untyped-def]
    at = 0
    has_pinned = len(pinned) > 0
    for i in range(len(keys)):
        if keys[i] == key and dropped[i] == 0 and (not has_pinned or pinned[i] == 0):
            out[at] = i
            at += 1
    return at


def rows_with(keys: Keys, dropped: Bytes, key: int, count: int, pinned: Bytes = NOBODY) -> Rows:
    """The `count` rows left that have this key, ascending."""
    out = np.empty(count, np.uint32)
    found = _rows_with(keys, dropped, pinned, np.uint32(key), out)
    assert found == count
    return out


@compiled
def _left_in_order(order, dropped, rows, places):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(len(order)):
        if dropped[order[i]] == 0:
            rows[at] = order[i]
            places[at] = i + 1
            at += 1
    return at


def left_in_order(order: Rows, dropped: Bytes, count: int) -> tuple[Rows, Rows]:
    """The `count` rows of `order` that are left, and the place of each, from 1."""
    rows, places = np.empty(count, np.uint32), np.empty(count, np.uint32)
    found = _left_in_order(order, dropped, rows, places)
    assert found == count
    return rows, places


@compiled
def bytes_by_upper(keys, dropped, pinned, sizes, first, word, cap, bins):  # type: ignore[no-untyped-def]
    """Bytes of the rows left from row `first` on, by the upper 16 bits of their key; rows with a size below 0 are dropped.

    sizes: (M,) int64; word: the rule's number; bins: (65536,) int64, added to, none above `cap`. Returns how many rows were
    dropped, and the bytes of the pinned rows that are left, at most `cap`.
    """
    unknown = 0
    held = np.int64(0)
    has_pinned = len(pinned) > 0
    for i in range(len(sizes)):
        row = first + i
        if dropped[row] != 0:
            continue
        size = min(sizes[i], cap)
        if has_pinned and pinned[row] != 0:
            held = min(held + max(size, 0), cap)
        elif size < 0:
            dropped[row] = word
            unknown += 1
        else:
            at = np.int64(keys[row]) >> 16
            bins[at] = min(bins[at] + size, cap)
    return unknown, held


@compiled
def bytes_by_lower(keys, dropped, pinned, sizes, first, upper, cap, sums, counts):  # type: ignore[no-untyped-def]
    """The same for keys with the upper half `upper`, by their lower half, with how many rows there are; nothing is dropped."""
    has_pinned = len(pinned) > 0
    for i in range(len(sizes)):
        row = first + i
        key = np.int64(keys[row])
        if (key >> 16) == upper and dropped[row] == 0 and not (has_pinned and pinned[row] != 0):
            at = key & 0xFFFF
            sums[at] = min(sums[at] + min(sizes[i], cap), cap)
            counts[at] += 1
