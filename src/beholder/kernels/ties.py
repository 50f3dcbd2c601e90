"""Compiled code for rows whose keys are equal, where they are many: which they are, and their order by name.

`ordering` calls it; of fewer rows it does the same with numpy and Arrow, which are there at once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.kernels import texts
from beholder.kernels.compiled import compiled

Keys = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]


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
    """As `ordering.mark_ties`, with no memory but the flags."""
    flags = np.empty(len(keys), np.uint8)
    return flags, int(_mark_ties(keys, order, np.empty(0, np.uint8) if dropped is None else dropped, flags))


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


def sort_by_names(ids: Rows, flags: Bytes, names: pa.LargeStringArray, num_threads: int = 1) -> None:
    """Sort the runs of `flags` by the names of the ids, then by id, in place; ids of a run ascend. names: by id.

    7 bytes of each name are compared at a time, as numbers.
    """
    offsets, data = texts.text_buffers(names)
    if not len(names):
        return
    scan = texts.scan_names(offsets, data)
    if scan.ascending:
        return
    windows = np.empty(len(names), np.uint64)
    skip = len(scan.common)
    while True:
        texts.fill_windows(offsets, data, skip, windows)
        if not sort_runs(ids, flags, windows, num_threads):
            return
        skip += texts.WINDOW_BYTES
