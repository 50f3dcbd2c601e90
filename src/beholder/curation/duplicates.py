"""Rows of a score set best first and their embeddings in, which are near-duplicates of a better one, and their groups, out."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.columns import SAMPLE
from beholder.curation.duplicates_bound import choose_basis
from beholder.curation.duplicates_exact import AllKept, Kept, Search, keep_best
from beholder.curation.vectors import Progress, Rows, Vectors, load_vectors, samples_of
from beholder.errors import InputError
from beholder.scores.score_set import ScoreSet

DuplicateMethod = Literal["auto", "exact", "approximate"]
DUPLICATE_METHODS: tuple[DuplicateMethod, ...] = get_args(DuplicateMethod)

MOST_EXACT_ROWS = 1_000_000
"""`auto` compares every pair up to so many rows. A million made rows like CLIP's took 300 seconds of one core, by the index 120
(benchmarks/duplicates.py); the time grows with the square. The border is a number of rows and no time, so that the result is
the same on every machine."""

_INDEX_PAIR_COST = 200_000.0
"""For the index, as in `choose_basis`: the pairs that it meets are neighbours, so the bound leaves far more of them."""
_INDEX_BLOCK_ROWS = 4096

GROUPS_SCHEMA = pa.schema(
    [
        ("group", pa.int64()),
        (SAMPLE, pa.large_string()),
        ("similarity", pa.float32()),
        ("kept", pa.bool_()),
        ("row", pa.int64()),
    ]
)
"""Groups of near-duplicates: those of the best picture first, in each the one that stays and then the others best first.
`similarity` is to the one that stays (1 for itself), `row` the row of the score set."""

StageProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much it is in all."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What became of each of M rows, given best first.

    Attributes:
        keeper: (M,) int64: position of the row that stays and is most similar to this one, among those before it (of equally
            similar ones the best); its own position for a row that stays.
        similarity: (M,) float32 to that row; 1 for a row that stays, NaN for one without an embedding (it stays).
        method: "exact" or "approximate".
        num_without_embedding: rows that could not be compared.
        num_axes: coordinates that the bound was made of.
        seconds: what it took.
    """

    keeper: Rows
    similarity: npt.NDArray[np.float32]
    method: str
    num_without_embedding: int
    num_axes: int
    seconds: float

    @property
    def stays(self) -> npt.NDArray[np.bool_]:
        """(M,) whether each row stays."""
        return np.equal(self.keeper, np.arange(len(self.keeper)))


@dataclass(frozen=True, kw_only=True)
class DuplicateRule:
    """What near-duplicate removal takes out of a score set.

    Attributes:
        dropped: rows of the score set that are near-duplicates of a better one, best first.
        groups: GROUPS_SCHEMA: every group of at least two pictures.
        num_without_embedding: rows that stay because they have no embedding.
        method: "exact" or "approximate".
        seconds: what it took, reading included.
    """

    dropped: Rows
    groups: pa.Table
    num_without_embedding: int
    method: str
    seconds: float


def find_near_duplicates(
    vectors: Vectors,
    order: Rows,
    threshold: float,
    *,
    method: DuplicateMethod = "auto",
    num_threads: int | None = None,
    num_always: int = 0,
    on_progress: Progress | None = None,
) -> Duplicates:
    """Go through rows best first: one stays unless a row that stays before it is as similar as the threshold, or more.

    So everything that is dropped has a better, at least that similar row that stays, and no two rows that stay are near.
    Similarity is the cosine, in float64, of the rows as stored (`beholder.kernels.similarity`). "exact" sees every near pair;
    "approximate" looks with faiss among rows in neighbouring cells, and misses a few: then two rows stay that are near. What it
    drops is near a row that stays all the same.

    Args:
        vectors: embeddings of a score set's N rows.
        order: (M,) rows of the score set, best first, each at most once.
        threshold: least cosine similarity of near-duplicates, -1 to 1.
        method: "auto" is exact for up to `MOST_EXACT_ROWS` rows.
        num_threads: threads to use; None: all cores of this process.
        num_always: so many rows at the head of `order` stay whatever they are near to; they take others out.
        on_progress: told the number of rows that are decided, and of all.

    Raises:
        InputError: the threshold is no cosine, or faiss is needed and not installed.
    """
    started = time.perf_counter()
    if not -1.0 <= threshold <= 1.0:  # NaN, too
        raise InputError(f"the similarity of near-duplicates is between -1 and 1, usually 0.9 to 0.99; not {threshold:g}")
    if method not in DUPLICATE_METHODS:
        raise InputError(f"unknown method {method!r} for near-duplicates; choose {', '.join(DUPLICATE_METHODS)}")
    num_threads = num_threads or len(os.sched_getaffinity(0))
    order = np.asarray(order, np.int64)
    has = np.flatnonzero(vectors.place[order] >= 0)
    rows = vectors.place[order[has]]
    is_exact = method == "exact" or (method == "auto" and len(rows) <= MOST_EXACT_ROWS)
    keeper = np.arange(len(order))
    similarity = np.full(len(order), np.nan, np.float32)
    num_axes = 0
    if len(rows):
        found = _keep_best if is_exact else _keep_best_by_index
        always = int(np.searchsorted(has, num_always))
        own, own_similarity, num_axes = found(vectors, rows, threshold, always, num_threads, on_progress)
        keeper[has], similarity[has] = has[own], own_similarity
    return Duplicates(
        keeper=keeper,
        similarity=similarity,
        method="exact" if is_exact else "approximate",
        num_without_embedding=len(order) - len(has),
        num_axes=num_axes,
        seconds=time.perf_counter() - started,
    )


def _keep_best(
    vectors: Vectors, rows: Rows, threshold: float, num_always: int, num_threads: int, on_progress: Progress | None
) -> tuple[Rows, npt.NDArray[np.float64], int]:
    basis = choose_basis(vectors.matrix, rows, threshold)
    keeper, similarity = keep_best(
        vectors,
        rows,
        threshold,
        num_always=num_always,
        num_threads=num_threads,
        basis=basis,
        make_kept=AllKept,
        on_progress=on_progress,
    )
    return keeper, similarity, basis.num_axes


def _keep_best_by_index(
    vectors: Vectors, rows: Rows, threshold: float, num_always: int, num_threads: int, on_progress: Progress | None
) -> tuple[Rows, npt.NDArray[np.float64], int]:
    from beholder.curation.duplicates_ann import IndexedKept, load_faiss, threads

    try:
        faiss = load_faiss("faiss")
    except InputError:
        raise InputError(
            f"near-duplicates among {len(rows):,} rows are looked for with faiss, which is not installed: "
            "pip install 'beholder[dedup]', or choose the exact method, which needs no library and more time"
        ) from None
    basis = choose_basis(vectors.matrix, rows, threshold, pair_cost=_INDEX_PAIR_COST)

    def make_kept(search: Search, capacity: int, pool: ThreadPoolExecutor) -> Kept:
        return IndexedKept(search, pool, rows)

    with threads(faiss, num_threads):
        keeper, similarity = keep_best(
            vectors,
            rows,
            threshold,
            num_always=num_always,
            num_threads=num_threads,
            basis=basis,
            make_kept=make_kept,
            block_rows=_INDEX_BLOCK_ROWS,
            on_progress=on_progress,
        )
    return keeper, similarity, basis.num_axes


def drop_near_duplicates(
    scores: ScoreSet,
    embeddings: str,
    rows_best_first: Rows,
    threshold: float,
    method: DuplicateMethod = "auto",
    num_threads: int | None = None,
    scratch: Path | None = None,
    on_progress: StageProgress | None = None,
    *,
    num_always: int = 0,
) -> DuplicateRule:
    """Near-duplicates among some rows of a score set: of each group the best stays.

    Args:
        scores: the score set.
        embeddings: where the embeddings of its pictures are: `scores.embeddings`, or any set that `beholder score` reads.
        rows_best_first: (M,) rows of the score set.
        threshold: as in `find_near_duplicates`.
        method: as there.
        num_threads: as there.
        num_always: as there.
        scratch: a folder for the matrix of embeddings (`load_vectors`); None: the system's for temporary files.
        on_progress: told "embeddings read" and "rows compared" with numbers.

    Raises:
        InputError: the embeddings cannot be read or matched, or as in `find_near_duplicates`.
        OutputError: no room in `scratch`.
    """
    started = time.perf_counter()
    rows_best_first = np.asarray(rows_best_first, np.int64)
    told = on_progress or (lambda stage, done, total: None)
    vectors = load_vectors(
        scores,
        embeddings,
        scratch=scratch or Path(tempfile.gettempdir()),
        rows=rows_best_first,
        on_progress=lambda done, total: told("embeddings read", done, total),
    )
    found = find_near_duplicates(
        vectors,
        rows_best_first,
        threshold,
        method=method,
        num_threads=num_threads,
        num_always=num_always,
        on_progress=lambda done, total: told("rows compared", done, total),
    )
    return DuplicateRule(
        dropped=rows_best_first[~found.stays],
        groups=groups_table(scores, rows_best_first, found),
        num_without_embedding=found.num_without_embedding,
        method=found.method,
        seconds=time.perf_counter() - started,
    )


def groups_table(scores: ScoreSet, rows_best_first: Rows, found: Duplicates) -> pa.Table:
    """The groups that `found` tells of, as GROUPS_SCHEMA."""
    dropped = np.flatnonzero(~found.stays)
    keepers = np.unique(found.keeper[dropped])
    members = np.concatenate([keepers, dropped])
    group = np.searchsorted(keepers, found.keeper[members])
    order = np.lexsort((members, ~found.stays[members], group))
    members = members[order]
    rows = rows_best_first[members]
    columns = [group[order], samples_of(scores, rows), found.similarity[members], found.stays[members], rows]
    return pa.table([pa.array(column) for column in columns], schema=GROUPS_SCHEMA)
