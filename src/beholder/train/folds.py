"""Splits that tell the truth: rows of one photographer, folder, or near-duplicate picture are never on both sides.

Which side a group goes to depends on the seed and on what its rows are (their sample names, or their directions), not on the
rows' order. The list of samples of a test part has a SHA-256, so that two results can be seen to be of the same rows.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.curate.duplicates.exact import choose_basis
from beholder.errors import InputError
from beholder.scoreset.vectors import Vectors
from beholder.train.options import NEAR as NEAR
from beholder.train.rows import Doubles, Matrix, Rows, renumbered, unit_rows
from beholder.train.threads import in_order

MANY_ROWS = 10_000
"""With fewer rows predictions are made out of fold, by repeated folds; with more, a part is held out."""

_PAIR_ROWS, _PAIR_COLUMNS = 1024, 8192
FEW_GROUPS = 20
"""Intervals from resampling fewer groups are not to be relied on."""
_FEW_ROWS = 1024
"""Of so many rows all products take less time than finding axes."""
_KEY_ROWS = 1 << 14


def row_keys(seed: int, matrix: Matrix, rows: Rows, samples: Sequence[str] | None = None) -> npt.NDArray[np.uint64]:
    """(n,) seeded hashes of rows of a matrix: of their sample names (of all rows), or of their directions as float32.

    Rows with the same name, or the same direction, have the same key.
    """
    if samples is not None:
        return name_keys(seed, [samples[row] for row in rows.tolist()])
    keys, salt = np.empty(len(rows), np.uint64), _salt(seed)
    for start in range(0, len(rows), _KEY_ROWS):
        block = matrix[rows[start : start + _KEY_ROWS]].astype(np.float64)
        block /= np.abs(block).max(axis=1, keepdims=True)
        for position, row in enumerate(block.astype(np.float32) + np.float32(0.0), start):
            keys[position] = _hashed(row.data, salt)
    return keys


def name_keys(seed: int, names: Sequence[str]) -> npt.NDArray[np.uint64]:
    """(n,) seeded hashes of the names of rows."""
    salt = _salt(seed)
    return np.array([_hashed(name.encode("utf-8", "surrogatepass"), salt) for name in names], np.uint64)


def _salt(seed: int) -> bytes:
    return hashlib.blake2b(str(seed).encode(), digest_size=16).digest()


def _hashed(data: Any, salt: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, salt=salt).digest(), "little")


def joined_groups(
    num_rows: int, labels: Iterable[npt.ArrayLike] = (), pairs: npt.NDArray[np.integer[Any]] | None = None
) -> Rows:
    """Group of each row, (N,) from 0 in the order of first rows: rows that share a label, or are a pair, and all that follows.

    Args:
        num_rows: N.
        labels: (N,) arrays of any values (photographers, folders); a row whose label is None, NaN or "" shares none.
        pairs: (P, 2) row numbers that belong together.
    """
    parent = np.arange(num_rows)
    edges = [np.empty((0, 2), np.int64) if pairs is None else np.asarray(pairs, np.int64).reshape(-1, 2)]
    for label in labels:
        series = np.asarray(label)
        if series.shape != (num_rows,):
            raise InputError(f"labels of shape {series.shape} do not fit {num_rows} rows")
        edges.append(_edges_of(series))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    for one, other in np.concatenate(edges).tolist():
        first, second = root(one), root(other)
        if first != second:
            parent[max(first, second)] = min(first, second)
    while (parent[parent] != parent).any():
        parent = parent[parent]
    return renumbered(parent)


def _edges_of(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(P, 2): each row with a label beside the first row that has it."""
    seen: dict[Any, int] = {}
    edges = []
    for row, label in enumerate(labels.tolist()):
        if label is None or label == "" or label != label:
            continue
        first = seen.setdefault(label, row)
        if first != row:
            edges.append((first, row))
    return np.array(edges, np.int64).reshape(-1, 2)


def near_pairs(matrix: Matrix, threshold: float = NEAR) -> npt.NDArray[np.int64]:
    """(P, 2) rows whose cosine similarity is at least `threshold`, in float64; enough of them to join all that are near.

    A few coordinates along the axes where the rows differ most bound the similarity of most pairs (`curate.duplicates.exact`);
    the others are computed. It takes time with the square of the rows: seconds for 10,000, minutes for some 400,000.

    Args:
        matrix: (N, D) usable rows.
        threshold: in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise InputError(f"near-duplicates have a cosine from above 0 to 1, not {threshold}")
    num_rows = len(matrix)
    if num_rows < 2:
        return np.empty((0, 2), np.int64)
    if num_rows <= _FEW_ROWS:
        unit = unit_rows(matrix)
        return np.argwhere(np.triu(unit @ unit.T >= threshold - 1e-12, 1))
    vectors = Vectors.of(matrix).matrix
    basis = choose_basis(vectors, np.arange(num_rows), threshold)
    limit = basis.limit(threshold)
    coordinates = np.vstack(
        [
            basis.coordinates(vectors[at : at + _PAIR_COLUMNS])[: len(vectors[at : at + _PAIR_COLUMNS])]
            for at in range(0, num_rows, _PAIR_COLUMNS)
        ]
    )

    def pairs_of(start: int) -> npt.NDArray[np.int64]:
        stop = min(num_rows, start + _PAIR_ROWS)
        found = []
        for low in range(start, num_rows, _PAIR_COLUMNS):
            bound = coordinates[start:stop] @ coordinates[low : low + _PAIR_COLUMNS].T
            one, other = np.nonzero(bound >= limit)
            one, other = one + start, other + low
            later = other > one
            one, other = one[later], other[later]
            for at in range(0, len(one), _PAIR_ROWS * 4):
                some = slice(at, at + _PAIR_ROWS * 4)
                near = np.einsum("ij,ij->i", unit_rows(matrix, one[some]), unit_rows(matrix, other[some])) >= threshold - 1e-12
                found.append(np.stack([one[some][near], other[some][near]], axis=1))
        return np.concatenate(found) if found else np.empty((0, 2), np.int64)

    found = in_order(pairs_of, range(0, num_rows, _PAIR_ROWS), is_large=lambda _: num_rows > _PAIR_ROWS)
    return np.concatenate([pairs for _, pairs in found])


def grouped_folds(groups: Rows, keys: npt.NDArray[np.uint64], num_folds: int) -> npt.NDArray[np.int64]:
    """Fold of each row, (N,) from 0 to num_folds - 1; rows of a group in one fold, folds as equal in rows as that allows.

    Groups go, largest first and equal ones in the order of their keys, each to the fold with the fewest rows.

    Args:
        groups: (N,) group numbers from 0.
        keys: (N,) from `row_keys`; a group's key is its smallest.
        num_folds: at least 2. With fewer groups, as many folds as groups.

    Raises:
        InputError: all rows are one group.
    """
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    if num_groups < 2:
        raise too_few_groups(groups)
    sizes, order = np.bincount(groups, minlength=num_groups), _group_order(groups, keys, num_groups)
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = [(0, fold) for fold in range(min(num_folds, num_groups))]  # the fold with the fewest rows first
    chosen = []
    for size in sizes[order].tolist():
        num_rows, fold = filled[0]
        chosen.append(fold)
        heapq.heapreplace(filled, (num_rows + size, fold))
    fold_of = np.empty(num_groups, np.int64)
    fold_of[order] = chosen
    return fold_of[groups]


def too_few_groups(groups: Rows) -> InputError:
    """What to say of (N,) groups, numbers from 0, of which too few are there to fit on some and test on others."""
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    largest = f"s (the largest of {int(np.bincount(groups).max()):,})" if num_groups > 1 else ""
    return InputError(
        f"too few different rows to fit on some and test on others: the {len(groups):,} usable rows are {num_groups} group"
        f"{largest} of the same or near-duplicate pictures, photographer or folder; add others, or call fewer pictures "
        "near-duplicates (--near-duplicates 0.99, or 0 for none)"
    )


def _group_order(groups: Rows, keys: npt.NDArray[np.uint64], num_groups: int) -> Rows:
    smallest = np.full(num_groups, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, groups, keys)
    return np.argsort(smallest, kind="stable")


def held_out(groups: Rows, keys: npt.NDArray[np.uint64], num_test: int) -> npt.NDArray[np.bool_]:
    """(N,) which rows are held out: whole groups in the order of their keys, as long as no more than `num_test` rows are.

    A group that no longer fits is passed over; one that is larger than all that is wanted is never held out.

    Raises:
        InputError: no group fits.
    """
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    sizes = np.bincount(groups, minlength=num_groups)
    is_out, taken = np.zeros(num_groups, bool), 0
    for group in _group_order(groups, keys, num_groups).tolist():
        if taken + sizes[group] <= num_test:
            is_out[group], taken = True, taken + int(sizes[group])
    if not taken:
        raise InputError(
            f"cannot hold {num_test} rows out: every group of the same photographer, folder or near-duplicates is larger "
            f"(the smallest has {int(sizes.min()) if num_groups else 0}); group by something finer"
        )
    return is_out[groups]


@dataclass(frozen=True)
class FoldPlan:
    """How many folds, and how often they are drawn anew."""

    num_folds: int
    repeats: int


def fold_plan(num_rows: int) -> FoldPlan:
    """Folds for small sets: the fewer rows, the more folds and repetitions, since a single small test part says nothing."""
    if num_rows < 200:
        return FoldPlan(10, 5)
    if num_rows < 1000:
        return FoldPlan(10, 3)
    return FoldPlan(5, 2) if num_rows < 4000 else FoldPlan(5, 1)


def list_sha256(samples: Iterable[str]) -> str:
    """SHA-256, 64 hex digits, of sample names in sorted order, each followed by a line feed, as UTF-8."""
    text = hashlib.sha256()
    for sample in sorted(samples):
        text.update(sample.encode("utf-8", "surrogatepass") + b"\n")
    return text.hexdigest()


def fold_keys(seed: int, repeat: int, matrix: Matrix, rows: Rows, samples: Sequence[str] | None) -> npt.NDArray[np.uint64]:
    """Keys of one repetition."""
    return row_keys(_seed_of(seed, repeat), matrix, rows, samples)


def _seed_of(seed: int, repeat: int) -> int:
    return seed * 1_000_003 + repeat


def planned_folds(groups: Rows, samples: Sequence[str], seed: int) -> list[Rows]:
    """(N,) folds of each repetition of `fold_plan`, as training draws them, of rows that are known by their names.

    Raises InputError where all rows are one group.
    """
    plan = fold_plan(len(groups))
    keys = (name_keys(_seed_of(seed, repeat), samples) for repeat in range(plan.repeats))
    return [grouped_folds(groups, some, plan.num_folds) for some in keys]


Fitter = Callable[[Doubles, Doubles, Doubles], Callable[[Doubles], Doubles]]
"""Scores, truth, weights -> what predicts the truth of scores."""


def out_of_fold(folds: Sequence[Rows], fitter: Fitter, scores: Doubles, truth: Doubles, weights: Doubles) -> Doubles:
    """(R, N) what is predicted of the truth by fits to the other folds, of R repetitions (N,) of folds."""
    found = np.empty((len(folds), len(scores)))
    for repeat, fold in enumerate(folds):
        for number in range(int(fold.max()) + 1):
            test = fold == number
            found[repeat, test] = fitter(scores[~test], truth[~test], weights[~test])(scores[test])
    return found
