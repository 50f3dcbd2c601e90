"""Rows of a score set and reference embeddings in, which of the reference each row is near to, and how near, out."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from beholder.curate.duplicates.bound import choose_basis
from beholder.curate.duplicates.exact import AllKept, Kept, Search, rows_at_once, square_sums, turned
from beholder.kernels.similarity import NONE
from beholder.scoreset.vectors import Progress, Rows, Vectors


def near_references(
    vectors: Vectors,
    rows: Rows,
    threshold: float,
    *,
    is_exact: bool,
    num_threads: int,
    on_progress: Progress | None = None,
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Which rows are at least as similar as the threshold to any row of the reference.

    Args:
        vectors: embeddings of a score set's N rows, with those of the reference (`Vectors.num_references`).
        rows: (M,) rows of the score set.
        threshold: least cosine similarity, -1 to 1.
        is_exact: compare with all of the reference; else through an index, which misses a few.
        num_threads: threads to use.
        on_progress: told the number of rows that are decided, and of all.

    Returns:
        (M,) int64: the row of the reference that each is most similar to, of equally similar ones the first, -1 where none is
        near enough or there is no embedding; (M,) float32: how similar it is to that, NaN for none.

    Raises:
        InputError: faiss is needed and not installed.
    """
    near, near_from = np.full(len(rows), -1, np.int64), np.full(len(rows), np.nan, np.float32)
    has = np.flatnonzero(vectors.place[rows] >= 0)
    given, reference = vectors.place[rows[has]], np.arange(vectors.num_references)
    if not len(given) or not len(reference):
        return near, near_from
    with contextlib.ExitStack() as opened:
        pool = opened.enter_context(ThreadPoolExecutor(max_workers=num_threads))
        search = Search(vectors.matrix, threshold, choose_basis(vectors.matrix, given, threshold), num_threads)
        kept: Kept
        if is_exact:
            kept = AllKept(search, len(reference), pool)
        else:
            from beholder.curate.duplicates.ann import IndexedKept, load_faiss_for, threads

            opened.enter_context(threads(load_faiss_for(len(given)), num_threads))
            kept = IndexedKept(search, pool, reference)
        step = rows_at_once(num_threads)
        for at in range(0, len(reference), step):
            part = reference[at : at + step]
            kept.add(turned(search, pool, part), np.arange(len(part)), part, square_sums(search, pool, part))
        for at in range(0, len(given), step):
            part = given[at : at + step]
            best, best_at = np.full(len(part), NONE), np.full(len(part), -1, np.int64)
            kept.find(turned(search, pool, part), part, square_sums(search, pool, part), best, best_at)
            near[has[at : at + step]] = best_at
            near_from[has[at : at + step]] = np.where(best_at >= 0, best, np.nan)
            if on_progress is not None:
                on_progress(min(at + step, len(given)), len(given))
    return near, near_from
