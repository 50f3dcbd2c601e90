"""Rows that stay in, those of them that are near a row out: by an inverted file of faiss, which looks at few cells only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from beholder.curate.duplicates.bound import Doubles, Floats
from beholder.curate.duplicates.exact import Search, share_out
from beholder.errors import InputError
from beholder.kernels import similarity
from beholder.scoreset.vectors import Rows

MOST_CELLS = 65_536
_ROWS_PER_SAMPLED_CELL = 40
_ROUNDS = 8
DEFAULT_PROBES = 32
"""Cells looked at for each row; benchmarks/duplicates.py measures what is missed."""
MOST_CANDIDATES = 1 << 23
"""So many candidates are aimed at in one look-up; each takes some 20 bytes in faiss and here."""
_FIRST_QUERIES = 64
_GROWTH = 4


def load_faiss(purpose: str) -> Any:
    """faiss, or an InputError that says how to install it."""
    try:
        import faiss
    except ImportError:
        raise InputError(f"{purpose} needs faiss, which is not installed: pip install 'beholder[dedup]'") from None
    return faiss


def load_faiss_for(num_rows: int) -> Any:
    """Faiss for near-duplicates among so many rows, or an InputError that says what to do without it."""
    try:
        return load_faiss("faiss")
    except InputError:
        raise InputError(
            f"near-duplicates among {num_rows:,} rows are looked for with faiss, which is not installed: "
            "pip install 'beholder[dedup]', or choose the exact method, which needs no library and more time"
        ) from None


@contextlib.contextmanager
def threads(faiss: Any, num_threads: int) -> Iterator[None]:
    """Faiss works in so many threads meanwhile."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(num_threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class IndexedKept:
    """The rows that stay, in cells around centres: a row is compared with those of the cells next to it only.

    A `Kept` for `duplicates_exact.keep_best`. Coordinates are those of the exact way, whose products are never less than the
    similarity: within the cells looked at, nothing near is missed; what the products let pass is checked in float64.

    Where the threshold is low, the products let nearly everything pass. So as few rows are looked up at once as hold
    MOST_CANDIDATES or so, judged by those before them.

    Attributes:
        num_rows: rows that stay.
        most_candidates: the largest number that was held at once.
    """

    def __init__(self, search: Search, pool: ThreadPoolExecutor, rows: Rows, *, num_probes: int = DEFAULT_PROBES) -> None:
        """`rows`: all rows in question; a sample of them decides where the cells are."""
        faiss = load_faiss("finding near-duplicates among so many rows")
        self._search, self._pool = search, pool
        dim = search.basis.dim
        num_cells = max(1, min(MOST_CELLS, int(4 * np.sqrt(len(rows))), len(rows) // _ROWS_PER_SAMPLED_CELL))
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), num_cells * _ROWS_PER_SAMPLED_CELL)).astype(np.int64))
        sample = np.concatenate(
            [
                search.basis.coordinates(search.vectors[rows[part]])[: len(part)]
                for part in np.array_split(chosen, -(-len(chosen) // 8192))
            ]
        )
        means = faiss.Kmeans(
            dim, num_cells, niter=_ROUNDS, seed=1, min_points_per_centroid=1, max_points_per_centroid=_ROWS_PER_SAMPLED_CELL
        )
        means.train(sample)
        self._centres = faiss.IndexFlatL2(dim)
        self._centres.add(means.centroids)
        self._index = faiss.IndexIVFFlat(self._centres, dim, num_cells, faiss.METRIC_INNER_PRODUCT)
        self._index.train(sample[:1])
        self._index.nprobe = min(num_probes, num_cells)
        self._rows, self._squares = np.empty(len(rows), np.int64), np.empty(len(rows), np.float64)
        self.num_rows = self.most_candidates = 0
        self._at_once = _FIRST_QUERIES

    def find(self, coordinates: Floats, rows: Rows, squares: Doubles, best: Doubles, best_at: Rows) -> None:
        """See `duplicates_exact.Kept`."""
        at = 0
        while self.num_rows and at < len(rows):
            part = slice(at, min(len(rows), at + self._at_once))
            found = self._find_some(coordinates[part], rows[part], squares[part], best[part], best_at[part])
            at = part.stop
            self.most_candidates = max(self.most_candidates, found)
            fitting = int(MOST_CANDIDATES * (part.stop - part.start) / max(found, 1))
            self._at_once = max(1, min(fitting, _GROWTH * self._at_once, len(coordinates)))

    def _find_some(self, coordinates: Floats, rows: Rows, squares: Doubles, best: Doubles, best_at: Rows) -> int:
        """The same for rows that are looked up at once; returns how many candidates there were."""
        search = self._search
        below = float(np.nextafter(search.limit, np.float32(-4.0)))  # faiss wants more than, not at least
        starts, _, places = self._index.range_search(coordinates, below)
        starts = starts.astype(np.int64)

        def check(low: int, high: int) -> None:
            similarity.check_pairs(
                *search.where,
                rows[low:high],
                squares[low:high],
                starts[low : high + 1],
                places,
                self._rows,
                self._squares,
                search.threshold,
                best[low:high],
                best_at[low:high],
            )

        share_out(self._pool, search.num_threads, len(rows), check)
        return len(places)

    def add(self, coordinates: Floats, chosen: Rows, rows: Rows, squares: Doubles) -> None:
        """See `duplicates_exact.Kept`."""
        self._index.add(np.ascontiguousarray(coordinates[chosen]))
        self._rows[self.num_rows : self.num_rows + len(rows)] = rows
        self._squares[self.num_rows : self.num_rows + len(rows)] = squares
        self.num_rows += len(rows)
