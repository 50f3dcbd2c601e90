"""Embeddings in, the number of the cluster of each row out: spherical k-means by faiss."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from beholder.curate.duplicates.ann import load_faiss, threads
from beholder.errors import InputError
from beholder.kernels import mlp
from beholder.scoreset.vectors import Vectors, like

_MOST_ROWS_PER_CLUSTER = 256
_ROUNDS = 20
_TRIES, _FEW_CLUSTERS = 4, 100
"""So many starts, the best of which counts, for up to so many clusters: one start often puts two centres into one group."""
_BLOCK_ROWS = 16_384


def cluster_rows(vectors: Vectors, num_clusters: int, seed: int = 0, num_threads: int | None = None) -> npt.NDArray[np.int32]:
    """Put rows into clusters by direction.

    Args:
        vectors: embeddings of a score set's N rows.
        num_clusters: at least 1; with fewer rows that have an embedding there are as many clusters as those.
        seed: the same one gives the same clusters on the same machine.
        num_threads: threads that faiss may use; None: all cores of this process.

    Returns:
        (N,) int32 cluster of each row, from 0; -1 for rows without an embedding. A cluster may be empty.

    Raises:
        InputError: faiss is not installed, or `num_clusters` is below 1.
    """
    if num_clusters < 1:
        raise InputError(f"{num_clusters} clusters were asked for; it takes at least 1")
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
    with threads(faiss, num_threads or len(os.sched_getaffinity(0))):
        means = faiss.Kmeans(
            vectors.matrix.shape[1],
            num_clusters,
            niter=_ROUNDS,
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
        some = np.ascontiguousarray(vectors.matrix[rows[low : low + _BLOCK_ROWS]])
        address, row_bytes = some.__array_interface__["data"][0], some.strides[0]
        mlp.normalise_row_major(like(some.dtype), address, row_bytes, out[low : low + _BLOCK_ROWS])
    return out
