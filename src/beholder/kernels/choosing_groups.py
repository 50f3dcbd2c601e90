"""Keys, groups and which rows are left in, the best rows of each group out. Words as in `choosing`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from beholder.kernels.choosing import NOBODY, left_rows
from beholder.kernels.compiled import compiled
from beholder.kernels.ordering import Bytes, Keys, Rows, in_stretches

_CELLS = 1 << 22
"""Bins of all groups together: 32 MiB of counts a thread."""
MOST_GROUPS = _CELLS // 16


@compiled
def _group_sizes(codes, dropped, pinned, which, out):  # type: ignore[no-untyped-def]
    has_pinned = len(pinned) > 0
    for i in range(len(codes)):
        if dropped[i] == 0:
            is_pinned = has_pinned and pinned[i] != 0
            if which == 2 or is_pinned == (which == 1):
                out[codes[i]] += 1


def group_sizes(
    codes: npt.NDArray[np.int32], dropped: Bytes, num_groups: int, *, pinned: Bytes = NOBODY, which: str = "all"
) -> npt.NDArray[np.int64]:
    """(G,) rows left of each group: "all", only "pinned" ones, or only the "others"."""
    out = np.zeros(num_groups, np.int64)
    _group_sizes(codes, dropped, pinned, {"others": 0, "pinned": 1, "all": 2}[which], out)
    return out


@compiled
def _count_bins(keys, codes, dropped, pinned, low, shift, start, stop, counts):  # type: ignore[no-untyped-def]
    has_pinned = len(pinned) > 0
    for i in range(start, stop):
        if dropped[i] == 0 and not (has_pinned and pinned[i] != 0):
            counts[codes[i], max(np.int64(keys[i]) - low, 0) >> shift] += 1


@compiled
def _edges(counts, quotas, below, undecided, rest):  # type: ignore[no-untyped-def]
    total = 0
    for group in range(len(quotas)):
        below[group] = 0
        undecided[group] = -1
        left = quotas[group]
        for number in range(counts.shape[1] - 1, -1, -1):
            count = counts[group, number]
            if count <= left:
                left -= count
                continue
            below[group] = number + 1
            if left > 0:
                below[group] = number
                undecided[group] = number
                rest[group] = left
                total += count
            break
    return total


@compiled
def _drop_below(keys, codes, dropped, pinned, low, shift, below, undecided, word, out):  # type: ignore[no-untyped-def]
    has_pinned = len(pinned) > 0
    at = 0
    for i in range(len(keys)):
        if dropped[i] == 0 and not (has_pinned and pinned[i] != 0):
            number = max(np.int64(keys[i]) - low, 0) >> shift
            group = codes[i]
            if number < below[group]:
                dropped[i] = word
            elif number == undecided[group]:
                out[at] = i
                at += 1


def drop_below_edges(
    keys: Keys,
    codes: npt.NDArray[np.int32],
    dropped: Bytes,
    quotas: npt.NDArray[np.int64],
    word: int,
    *,
    pinned: Bytes = NOBODY,
    least: int = 1,
    num_threads: int = 1,
) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Drop what is surely not among the best of its group, without sorting: by counts of coarse bins of keys.

    Nothing is dropped where groups are more than MOST_GROUPS: they are small then, and bins would take too much memory.
    least: no row that is left has a smaller key.

    Returns:
        the rows that are undecided yet, ascending, and (G,) how many of those each group may keep.
    """
    num_groups = len(quotas)
    if num_groups > MOST_GROUPS:
        return left_rows(keys, dropped, pinned=pinned), quotas
    high = int(keys.max(initial=least))
    num_bins = _CELLS // max(1, num_groups)
    shift = 0
    while (high - least) >> shift >= num_bins:
        shift += 1
    num_bins = ((high - least) >> shift) + 1

    def work(start: int, stop: int) -> npt.NDArray[np.int64]:
        counts = np.zeros((num_groups, num_bins), np.int64)
        _count_bins(keys, codes, dropped, pinned, least, shift, start, stop, counts)
        return counts

    stretches = in_stretches(len(keys), num_threads, work)
    counts = sum(stretches[1:], stretches[0])
    below, undecided, rest = np.zeros(num_groups, np.int64), np.zeros(num_groups, np.int64), np.zeros(num_groups, np.int64)
    out = np.empty(_edges(counts, quotas, below, undecided, rest), np.uint32)
    _drop_below(keys, codes, dropped, pinned, least, shift, below, undecided, word, out)
    return out, rest


@compiled
def _best_of_groups(inverted, order, codes, dropped, pinned, quotas, word, counts, edges, extra):  # type: ignore[no-untyped-def]
    """Go through rows best first; keep each group's first ones, and for the time being what ties with the last of them."""
    has_pinned = len(pinned) > 0
    num_dropped = 0
    for i in range(len(order)):
        row = order[i]
        if dropped[row] != 0 or (has_pinned and pinned[row] != 0):
            continue
        group = codes[row]
        if counts[group] < quotas[group]:
            counts[group] += 1
            edges[group] = inverted[i]
        elif quotas[group] > 0 and edges[group] == inverted[i]:
            extra[group] += 1
        else:
            dropped[row] = word
            num_dropped += 1
    return num_dropped


@compiled
def _tied_at_edges(inverted, order, codes, dropped, pinned, edges, extra, out):  # type: ignore[no-untyped-def]
    has_pinned = len(pinned) > 0
    at = 0
    for i in range(len(order)):
        row = order[i]
        if dropped[row] == 0 and not (has_pinned and pinned[row] != 0):
            group = codes[row]
            if extra[group] > 0 and edges[group] == inverted[i]:
                if len(out):
                    out[at] = row
                at += 1
    return at


@compiled
def _drop_extra(tied, codes, extra, dropped, word):  # type: ignore[no-untyped-def]
    for i in range(len(tied) - 1, -1, -1):
        group = codes[tied[i]]
        if extra[group] > 0:
            extra[group] -= 1
            dropped[tied[i]] = word


class GroupCut:
    """The best rows of each group are kept, in two steps: first by key, then ties at the groups' edges by their order.

    Args:
        inverted, order: as `ordering.sort_best_first` gives them; order may hold rows that are not left.
        codes: (N,) the group of each row; quotas: (G,) how many rows to keep.
    """

    def __init__(self, inverted: Keys, order: Rows, codes: npt.NDArray[np.int32], quotas: npt.NDArray[np.int64]) -> None:
        self._inverted, self._order, self._codes, self._quotas = inverted, order, codes, quotas
        self._edges = np.zeros(len(quotas), np.uint32)
        self._extra = np.zeros(len(quotas), np.int64)

    def cut(self, dropped: Bytes, word: int, pinned: Bytes = NOBODY) -> int:
        """Drop what is below the edges; returns how many rows tie at an edge with one too many, `tied_rows`."""
        counts = np.zeros(len(self._quotas), np.int64)
        _best_of_groups(
            self._inverted, self._order, self._codes, dropped, pinned, self._quotas, word, counts, self._edges, self._extra
        )
        return self._tied(dropped, pinned, np.empty(0, np.uint32)) if self._extra.any() else 0

    def _tied(self, dropped: Bytes, pinned: Bytes, out: Rows) -> int:
        return int(_tied_at_edges(self._inverted, self._order, self._codes, dropped, pinned, self._edges, self._extra, out))

    def tied_rows(self, count: int, dropped: Bytes, pinned: Bytes = NOBODY) -> Rows:
        """The rows that tie at edges, ascending."""
        out = np.empty(count, np.uint32)
        self._tied(dropped, pinned, out)
        out.sort()
        return out

    def drop_extra(self, tied: Rows, dropped: Bytes, word: int) -> None:
        """Drop the last of the tied rows of each group. tied: best first."""
        _drop_extra(tied, self._codes, self._extra, dropped, word)


@compiled
def _best_rows(inverted, order, codes, dropped, wanted, best, out):  # type: ignore[no-untyped-def]
    at = 0
    fill = len(out) > 0
    for i in range(len(order)):
        row = order[i]
        group = codes[row]
        if dropped[row] != 0 or wanted[group] == 0:
            continue
        if best[group] < 0:
            best[group] = np.int64(inverted[i])
        if best[group] == np.int64(inverted[i]):
            if fill:
                out[at] = row
            at += 1
    return at


def best_rows(inverted: Keys, order: Rows, codes: npt.NDArray[np.int32], dropped: Bytes, groups: npt.NDArray[np.int64]) -> Rows:
    """Of the rows left of the named groups, those with the best key of their group; ascending."""
    num_groups = int(groups.max(initial=-1)) + 1
    num_codes = max(num_groups, int(codes.max(initial=-1)) + 1)
    wanted = np.zeros(num_codes, np.uint8)
    wanted[groups] = 1
    out = np.empty(0, np.uint32)
    count = _best_rows(inverted, order, codes, dropped, wanted, np.full(num_codes, -1, np.int64), out)
    if count:
        out = np.empty(count, np.uint32)
        _best_rows(inverted, order, codes, dropped, wanted, np.full(num_codes, -1, np.int64), out)
        out.sort()
    return out
