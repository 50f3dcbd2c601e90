"""The exact search for near-duplicates: which rows stay, best first, and the nearest that stays of each other one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from beholder.kernels import similarity
from beholder.kernels.similarity import NONE, PANEL, ROWS
from beholder.scoreset.vectors import Progress, Rows, Vectors, place_of, unit_rows

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_BLOCK_ROWS, _BLOCK_ROWS_PER_THREAD, _MOST_BLOCK_ROWS = 1024, 256, 16_384
"""Rows looked up at once. Each pass reads all rows that stay, so it has to be shared by many; their coordinates fit a cache."""
_PIECE_ROWS = 512
"""Rows of a block that are settled among themselves at once: all pairs of them may be near."""


@dataclass
class Search:
    """What rows of a matrix are looked up with: the threshold, the axes they are compared along first, and threads."""

    vectors: npt.NDArray[Any]
    threshold: float
    basis: Basis
    pool: ThreadPoolExecutor
    num_threads: int

    def __post_init__(self) -> None:
        self.limit = self.basis.limit(self.threshold)
        self.where = place_of(self.vectors)

    def share_out(self, num_rows: int, work: Callable[[int, int], None]) -> None:
        """Do `work(low, high)` for all of [0, num_rows) in parts, one or more a thread; parts begin at multiples of 4."""
        step = max(64, -(-num_rows // (self.num_threads * ROWS)) * ROWS) if num_rows else 1
        for task in [self.pool.submit(work, low, min(num_rows, low + step)) for low in range(0, num_rows, step)]:
            task.result()

    def turned(self, rows: Rows) -> Floats:
        """Coordinates of rows of the matrix, (n, d) float32; n is their number rounded up to a multiple of 4."""
        coordinates = np.zeros((-(-len(rows) // ROWS) * ROWS, self.basis.dim), np.float32)

        def turn(low: int, high: int) -> None:
            found = self.basis.coordinates(self.vectors[rows[low:high]])
            coordinates[low : low + len(found)] = found

        self.share_out(len(rows), turn)
        return coordinates

    def square_sums(self, rows: Rows) -> Doubles:
        """The product of each of these rows of the matrix with itself, (n,) float64."""
        found = np.empty(len(rows))
        self.share_out(len(rows), lambda low, high: similarity.square_sums(*self.where, rows[low:high], found[low:high]))
        return found


class Kept(Protocol):
    """The rows that stay so far."""

    def find(self, coordinates: Floats, rows: Rows, squares: Doubles, best: Doubles, best_at: Rows) -> None:
        """Write the most similar row that stays (its place in order of `add`) and the similarity, where it is near enough."""
        ...

    def add(self, coordinates: Floats, chosen: Rows, rows: Rows, squares: Doubles) -> None:
        """Rows `rows` of the matrix stay; theirs are rows `chosen` of `coordinates`."""
        ...


class AllKept:
    """The rows that stay, looked at one and all: panels of their coordinates."""

    def __init__(self, search: Search, capacity: int) -> None:
        self._search = search
        self._panels = np.zeros((-(-capacity // PANEL), search.basis.dim, PANEL), np.float32)
        self._rows, self._squares = np.empty(capacity, np.int64), np.empty(capacity, np.float64)
        self.num_rows = 0

    def find(self, coordinates: Floats, rows: Rows, squares: Doubles, best: Doubles, best_at: Rows) -> None:
        """See `Kept`. Each thread has some of the queries."""
        search = self._search

        def look_up(low: int, high: int) -> None:
            similarity.search(
                *search.where,
                coordinates[low : -(-high // ROWS) * ROWS],
                rows[low:high],
                squares[low:high],
                self._panels,
                self.num_rows,
                self._rows,
                self._squares,
                search.limit,
                search.threshold,
                best[low:high],
                best_at[low:high],
            )

        search.share_out(len(rows), look_up)

    def add(self, coordinates: Floats, chosen: Rows, rows: Rows, squares: Doubles) -> None:
        """See `Kept`."""
        similarity.add_to_panels(coordinates, chosen, self.num_rows, self._panels)
        self._rows[self.num_rows : self.num_rows + len(rows)] = rows
        self._squares[self.num_rows : self.num_rows + len(rows)] = squares
        self.num_rows += len(rows)


def rows_at_once(num_threads: int) -> int:
    """How many rows are best looked up together."""
    return min(_MOST_BLOCK_ROWS, max(_BLOCK_ROWS, _BLOCK_ROWS_PER_THREAD * num_threads))


def keep_best(
    vectors: Vectors,
    rows: Rows,
    threshold: float,
    *,
    num_always: int,
    num_threads: int,
    basis: Basis,
    make_kept: Callable[[Search, int], Kept] = AllKept,
    block_rows: int | None = None,
    most_stays: int | None = None,
    on_progress: Progress | None = None,
) -> tuple[Rows, Doubles]:
    """Go through rows best first; one stays unless a row that stays before it is at least `threshold` similar.

    Args:
        vectors: the embeddings; only `matrix` is used.
        rows: (M,) rows of the matrix, best first, each once.
        threshold: least similarity of near-duplicates.
        num_always: the first so many stay whatever is similar to them.
        num_threads: threads to use.
        basis: from `choose_basis`.
        make_kept: how rows that stay are looked up.
        block_rows: rows that are looked up at once; it changes the time only.
        most_stays: once so many rows stay, those that come then are left undecided; None: all are decided.
        on_progress: told the number of rows decided, and of all.

    Returns:
        keeper: (M,) int64: position in `rows` of the most similar row that stays and comes before (of equally similar ones the
            first); its own position for a row that stays; -1 for one left undecided. similarity: (M,) float64 to it; 1 for a
            row that stays.
    """
    block_rows = block_rows or rows_at_once(num_threads)
    with ThreadPoolExecutor(max_workers=num_threads) as pool:
        search = Search(vectors.matrix, threshold, basis, pool, num_threads)
        greedy = _Greedy(search, rows, num_always, make_kept(search, len(rows)))
        end = 0
        while end < len(rows) and (most_stays is None or greedy.num_stays < most_stays):
            at, end = end, min(len(rows), end + block_rows)
            greedy.settle(at, end)
            if on_progress is not None:
                on_progress(end, len(rows))
    greedy.keeper[end:] = -1
    return greedy.keeper, greedy.found


def keep_best_of_small_groups(
    vectors: Vectors, rows: Rows, edges: Rows, always: npt.NDArray[np.bool_], threshold: float, num_threads: int
) -> tuple[Rows, Doubles]:
    """`keep_best` inside each of many small groups: all their pairs are looked at in float64.

    Args:
        vectors: the embeddings; only `matrix` is used.
        rows: (M,) rows of the matrix, group after group, best first in each.
        edges: (G + 1,) int64: group g has rows[edges[g]:edges[g + 1]].
        always: (M,) rows that stay whatever is similar to them.
        threshold: as in `keep_best`.
        num_threads: as there.

    Returns:
        As `keep_best`; keepers are places in `rows`.
    """
    where = place_of(vectors.matrix)
    keeper, found, squares = np.empty(len(rows), np.int64), np.empty(len(rows)), np.empty(len(rows))
    similarity.square_sums(*where, rows, squares)
    pairs = np.cumsum(np.diff(edges) ** 2)
    cuts = np.searchsorted(pairs, np.linspace(0, pairs[-1], num_threads + 1)[1:-1])
    cuts = np.unique(np.concatenate([[0], cuts, [len(edges) - 1]]))

    def settle(low: int, high: int) -> None:
        similarity.keep_best_of_groups(*where, rows, squares, edges[low : high + 1], always, threshold, keeper, found)

    with ThreadPoolExecutor(max_workers=num_threads) as pool:
        for task in [pool.submit(settle, int(low), int(high)) for low, high in pairwise(cuts)]:
            task.result()
    return keeper, found


class _Greedy:
    """Rows that are settled block by block: `keeper` and `found` are filled as far as that has come."""

    def __init__(self, search: Search, rows: Rows, num_always: int, kept: Kept) -> None:
        self._search, self._rows, self._num_always, self._kept = search, rows, num_always, kept
        self.keeper, self.found = np.arange(len(rows)), np.ones(len(rows))
        self._squares = search.square_sums(rows)
        self._first_same = first_of_the_same(search.vectors, rows, num_always)
        self._stays = np.zeros(len(rows), np.bool_)
        self._kept_positions = np.empty(len(rows), np.int64)
        self.num_stays = 0
        """Rows that stay among those that were decided."""

    def settle(self, at: int, end: int) -> None:
        """Decide about rows [at, end), all before them being decided."""
        block = np.arange(at, end)
        first = self._first_same[block]
        known = (first < at) & self._stays[first]
        self.keeper[block[known]] = first[known]
        block = block[~known]
        rows, squares = self._rows[block], self._squares[block]
        coordinates = self._search.turned(rows)
        best, best_at = np.full(len(block), NONE), np.full(len(block), -1, np.int64)
        self._kept.find(coordinates, rows, squares, best, best_at)
        self._found_near(block, best, self._kept_positions[best_at])
        inside = AllKept(self._search, len(block))  # those of this block that stay
        staying = np.empty(0, np.int64)
        for low in range(0, len(block), _PIECE_ROWS):
            piece = slice(low, low + _PIECE_ROWS)
            nearer, nearer_at = best[piece].copy(), np.full(len(block[piece]), -1, np.int64)
            padded = coordinates[low : low + -(-len(nearer) // ROWS) * ROWS]
            if len(staying):
                inside.find(padded, rows[piece], squares[piece], nearer, nearer_at)
                has = nearer_at >= 0
                self._found_near(block[piece][has], nearer[has], block[staying[nearer_at[has]]])
            new = self._settle_piece(padded, block[piece], nearer)
            inside.add(padded, new, rows[piece][new], squares[piece][new])
            staying = np.concatenate([staying, low + new])
        self._kept.add(coordinates, staying, rows[staying], squares[staying])
        self._kept_positions[self.num_stays : self.num_stays + len(staying)] = block[staying]
        self.num_stays += len(staying)
        self._stays[block[staying]] = True

    def _found_near(self, positions: Rows, best: Doubles, keepers: Rows) -> None:
        near = best >= self._search.threshold
        self.keeper[positions[near]], self.found[positions[near]] = keepers[near], best[near]

    def _settle_piece(self, coordinates: Floats, piece: Rows, best: Doubles) -> Rows:
        """Numbers of those of a piece that stay, `best` being the similarity to the nearest row before it that stays."""
        search = self._search
        always = piece < self._num_always
        members = np.flatnonzero((best < search.threshold) | always)
        panels = np.zeros((-(-len(members) // PANEL), coordinates.shape[1], PANEL), np.float32)
        similarity.add_to_panels(coordinates, members, 0, panels)
        near = np.full((len(piece), len(members)), NONE)
        rows, squares = self._rows[piece], self._squares[piece]

        def look_up(low: int, high: int) -> None:
            similarity.search_block(
                *search.where,
                coordinates,
                rows,
                squares,
                low,
                high,
                panels,
                members,
                search.limit,
                search.threshold,
                near,
            )

        search.share_out(len(piece), look_up)
        stays = np.zeros(len(piece), np.bool_)
        stays[members] = True
        for row in np.flatnonzero((near > NONE).any(axis=1) & ~always):
            before = np.where(stays[members], near[row], NONE)
            nearest = int(np.argmax(before))
            if before[nearest] < search.threshold:
                continue
            stays[row] = False
            if before[nearest] > best[row]:
                self.keeper[piece[row]], self.found[piece[row]] = piece[members[nearest]], before[nearest]
        staying = np.flatnonzero(stays)
        self.keeper[piece[staying]], self.found[piece[staying]] = piece[staying], 1.0
        return staying


def first_of_the_same(matrix: npt.NDArray[Any], rows: Rows, num_always: int) -> Rows:
    """(M,) for each of `rows` the position of the first one with the same bytes; its own for the first `num_always`."""
    words = matrix.view(np.uint64) if len(matrix) else np.empty((0, 1), np.uint64)
    hashes = np.empty(len(rows), np.uint64)
    similarity.hash_rows(words, rows, hashes)
    hashes = hashes[num_always:]
    order = np.argsort(hashes, kind="stable")
    is_same = np.zeros(len(order), np.bool_)
    is_same[1:] = hashes[order][1:] == hashes[order][:-1]
    starts = np.maximum.accumulate(np.where(is_same, 0, np.arange(len(order))))
    first = np.arange(len(rows))
    mine, theirs = order[is_same] + num_always, order[starts[is_same]] + num_always
    equal = np.empty(len(mine), np.bool_)
    similarity.equal_rows(words, rows[mine], rows[theirs], equal)
    first[mine[equal]] = theirs[equal]
    return first


_UNIT = 2.0**-24
"""Half a unit in the last place of float32 numbers near 1."""
_SAMPLE_ROWS = 4096
_PAIR_ROWS = 1024
_PAIR_COST = 30_000.0
"""What a similarity in float64 costs, in multiply-adds of the bound: 500 ns (768 float16 from memory) and 60 a nanosecond were
measured. Only the time depends on it, and not much."""
_TILE_COST = 8.0
"""The same for comparing one product with the limit."""


@dataclass(frozen=True)
class Basis:
    """How rows are turned so that few coordinates tell most: the axes along which a sample of them is longest, in order.

    Attributes:
        panels: (panels, P, 32) float32: the first `num_axes` axes, 32 side by side, zeros beyond.
        num_axes: coordinates kept; one more holds the length of what is left.
        error: how far a row's computed coordinates are at most from the true ones (Euclidean length).
    """

    panels: Floats
    num_axes: int
    error: float

    @property
    def dim(self) -> int:
        """Coordinates of a row."""
        return self.num_axes + 1

    def limit(self, threshold: float) -> np.float32:
        """The bound of any pair whose similarity is at least `threshold`, as computed in float32, is at least this.

        Coordinates are off by `error` at most, so products of two rows by 2 * error + error**2; a float32 sum of d products
        of numbers whose squares sum to at most 1 + 2.1 * error is off by 1.1 * d * 2**-24 at most, in any order.
        """
        rounding = 2.0 * self.error + self.error**2 + 1.1 * (self.dim + 2) * _UNIT
        limit = threshold - rounding - 1e-9
        return np.float32(np.nextafter(np.float32(limit), np.float32(-4.0)))

    def coordinates(self, rows: npt.NDArray[Any]) -> Floats:
        """(n, P) rows -> (4 * ceil(n / 4), dim) float32; zeros beyond row n."""
        padded = -(-len(rows) // ROWS) * ROWS
        unit = np.zeros((padded, rows.shape[1]), np.float32)
        unit_rows(rows, unit[: len(rows)])
        turned = np.empty((padded, len(self.panels) * PANEL), np.float32)
        similarity.turn(unit, self.panels, turned)
        out = np.zeros((padded, self.dim), np.float32)
        out[: len(rows), :-1] = turned[: len(rows), : self.num_axes]
        told = np.einsum("ij,ij->i", out, out, dtype=np.float64)[: len(rows)]
        left = np.sqrt(np.maximum(0.0, 1.0 - told) + 2.1 * self.error).astype(np.float32)
        out[: len(rows), -1] = np.nextafter(left, np.float32(2.0))
        return out


def choose_basis(matrix: npt.NDArray[Any], rows: Rows, threshold: float, *, pair_cost: float = _PAIR_COST) -> Basis:
    """Axes from a sample of the rows, and how many of them: those that make a search cheapest.

    Few make the bound cheap, more make it exclude more pairs; the sample tells how many it leaves. Rows whose directions are
    all equally likely leave most pairs, and then all coordinates are used: that is the plain product.

    Args:
        matrix: see `Vectors.matrix`.
        rows: its rows in question, at least one.
        threshold: similarity from which rows are near-duplicates.
        pair_cost: what one pair that is left costs, in multiply-adds.
    """
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE_ROWS)).astype(np.int64))]
    sample = matrix[chosen].astype(np.float64)
    sample /= np.abs(sample).max(axis=1, keepdims=True)
    sample /= np.sqrt(np.einsum("ij,ij->i", sample, sample))[:, None]
    width = sample.shape[1]
    axes = np.linalg.eigh(sample.T @ sample)[1][:, ::-1]
    turned = sample @ axes
    some = np.random.default_rng(0).permutation(len(turned))  # neighbours in rank or file would tell of themselves only
    one, other = turned[some[:_PAIR_ROWS]], turned[some[-_PAIR_ROWS:]]
    costs: dict[int, float] = {}
    for num_axes in sorted({min(width, count) for count in (15, 23, 31, 47, 63, 79, 95, 127, 159, 191, 255, 383, 511, width)}):
        share = _near_share(one, other, num_axes, threshold - 3 * error_of(width, num_axes))
        costs[num_axes] = num_axes + 1 + _TILE_COST + share * pair_cost
    num_axes = min(costs, key=costs.__getitem__)
    panels = np.zeros((-(-num_axes // PANEL), width, PANEL), np.float32)
    for panel in range(len(panels)):
        some_axes = axes[:, panel * PANEL : min(num_axes, (panel + 1) * PANEL)]
        panels[panel, :, : some_axes.shape[1]] = some_axes
    return Basis(panels, num_axes, error_of(width, num_axes))


def _near_share(one: Doubles, other: Doubles, num_axes: int, limit: float) -> float:
    left = [np.sqrt(np.maximum(0.0, 1.0 - (rows[:, :num_axes] ** 2).sum(axis=1))) for rows in (one, other)]
    bounds = one[:, :num_axes] @ other[:, :num_axes].T + np.outer(*left)
    return float((bounds >= limit).mean())


def error_of(width: int, num_axes: int) -> float:
    """Most that float32 can make coordinates wrong by, as the length of the difference.

    A sum of `width` products in float32, in any order, is off by at most about width * 2**-24 times the sum of the products'
    magnitudes, which is at most 1 for each axis; rounding the row and the axes to float32 adds two such units.
    """
    return 1.01 * (width + 3) * _UNIT * float(np.sqrt(num_axes))
