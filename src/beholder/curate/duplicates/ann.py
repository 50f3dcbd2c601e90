"""Near rows and clusters by faiss: an inverted file that looks at few cells only, and spherical k-means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.curate.duplicates.exact import Doubles, Floats, Search
from beholder.errors import InputError
from beholder.kernels import similarity
from beholder.scoreset.vectors import Rows, Vectors, unit_rows

MOST_CELLS = 65_536
_ROWS_PER_SAMPLED_CELL = 40
_ROUNDS = 8
_PROBES = 32
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

    A `Kept` for `exact.keep_best`. Coordinates are those of the exact way, whose products are never less than the
    similarity: within the cells looked at, nothing near is missed; what the products let pass is checked in float64.

    Where the threshold is low, the products let nearly everything pass. So as few rows are looked up at once as hold
    `bound` or so candidates, judged by those before them.

    Attributes:
        num_rows: rows that stay.
        most_candidates: the largest number that was held at once.
    """

    def __init__(
        self,
        search: Search,
        rows: Rows,
        *,
        bound: int = MOST_CANDIDATES,
    ) -> None:
        """`rows`: all rows in question; a sample of them decides where the cells are. bound: of candidates held at once."""
        faiss = load_faiss("finding near-duplicates among so many rows")
        self._search = search
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
        self._index.nprobe = min(_PROBES, num_cells)
        self._rows, self._squares = np.empty(len(rows), np.int64), np.empty(len(rows), np.float64)
        self.num_rows = self.most_candidates = 0
        self._at_once, self._bound = _FIRST_QUERIES, bound

    def find(self, coordinates: Floats, rows: Rows, squares: Doubles, best: Doubles, best_at: Rows) -> None:
        """See `Kept`."""
        at = 0
        while self.num_rows and at < len(rows):
            part = slice(at, min(len(rows), at + self._at_once))
            found = self._find_some(coordinates[part], rows[part], squares[part], best[part], best_at[part])
            at = part.stop
            self.most_candidates = max(self.most_candidates, found)
            fitting = int(self._bound * (part.stop - part.start) / max(found, 1))
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

        search.share_out(len(rows), check)
        return len(places)

    def add(self, coordinates: Floats, chosen: Rows, rows: Rows, squares: Doubles) -> None:
        """See `Kept`."""
        self._index.add(np.ascontiguousarray(coordinates[chosen]))
        self._rows[self.num_rows : self.num_rows + len(rows)] = rows
        self._squares[self.num_rows : self.num_rows + len(rows)] = squares
        self.num_rows += len(rows)


_MOST_ROWS_PER_CLUSTER = 256
_KMEANS_ROUNDS = 20
_TRIES, _FEW_CLUSTERS = 4, 100
"""So many starts, the best of which counts, for up to so many clusters: one start often puts two centres into one group."""
_BLOCK_ROWS = 16_384


def cluster_rows(vectors: Vectors, num_clusters: int, seed: int = 0, num_threads: int = 1) -> npt.NDArray[np.int32]:
    """Put rows into clusters by direction.

    Args:
        vectors: embeddings of a score set's N rows.
        num_clusters: at least 1; with fewer rows that have an embedding there are as many clusters as those.
        seed: the same one gives the same clusters on the same machine.
        num_threads: threads that faiss may use.

    Returns:
        (N,) int32 cluster of each row, from 0; -1 for rows without an embedding. A cluster may be empty.

    Raises:
        InputError: faiss is not installed.
    """
    faiss = load_faiss("making clusters")
    labels = np.full(len(vectors.place), -1, np.int32)
    has = np.flatnonzero(vectors.place >= 0)
    if not len(has):
        return labels
    rows = vectors.place[has]
    num_clusters = min(num_clusters, len(rows))
    chosen = rows
    if len(rows) > num_clusters * _MOST_ROWS_PER_CLUSTER:
        chosen = np.sort(np.random.default_rng(seed).choice(rows, num_clusters * _MOST_ROWS_PER_CLUSTER, replace=False))
    with threads(faiss, num_threads):
        means = faiss.Kmeans(
            vectors.matrix.shape[1],
            num_clusters,
            niter=_KMEANS_ROUNDS,
            nredo=_TRIES if num_clusters <= _FEW_CLUSTERS else 1,
            seed=seed,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=_MOST_ROWS_PER_CLUSTER,
        )
        means.train(_unit(vectors, chosen))
        for low in range(0, len(rows), _BLOCK_ROWS):
            part = slice(low, low + _BLOCK_ROWS)
            labels[has[part]] = means.index.search(_unit(vectors, rows[part]), 1)[1][:, 0]
    return labels


def _unit(vectors: Vectors, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Rows of the matrix as float32 of length 1."""
    out = np.empty((len(rows), vectors.matrix.shape[1]), np.float32)
    for low in range(0, len(rows), _BLOCK_ROWS):
        part = slice(low, low + _BLOCK_ROWS)
        unit_rows(vectors.matrix[rows[part]], out[part])
    return out
