"""Near-duplicates among the rows of a score set, best first, and their groups; also of a reference set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.columns import SAMPLE
from beholder.curate.duplicates.exact import (
    AllKept,
    Kept,
    Search,
    choose_basis,
    keep_best,
    keep_best_of_small_groups,
    rows_at_once,
)
from beholder.curate.options import DedupMethod, SelectRules
from beholder.kernels.similarity import NONE
from beholder.scoreset.score_set import ScoreSet
from beholder.scoreset.vectors import Progress, Rows, Vectors, load_vectors, samples_of

MOST_EXACT_ROWS = 1_000_000
"""`auto` compares every pair up to so many rows. A million made rows like CLIP's took 300 seconds of one core, by the index 120
(benchmarks/duplicates.py); the time grows with the square. The border is a number of rows and no time, so that the result is
the same on every machine."""

INDEX_PAIR_COST = 200_000.0
"""For the index, as in `choose_basis`: the pairs that it meets are neighbours, so the bound leaves far more of them."""
_INDEX_BLOCK_ROWS = 4096
_SMALL_GROUP_ROWS, _GROUPED_ROWS = 512, 100_000
"""Pairs of smaller groups are all compared in float64: looking for axes that tell them apart would take longer. So many rows of
them are gone through at once."""
FIRST_WALK_ROWS, _WALK_ROWS_PER_STAY, _WALK_GROWTH = 65_536, 8, 8
"""Where only so many rows are to stay: rows whose embeddings are read first, at least and for each of those that are to stay;
and how many times as many are read where that was not enough. So many rows or fewer are soon compared, one and all."""

GROUPS_SCHEMA = pa.schema(
    [
        ("group", pa.int64()),
        (SAMPLE, pa.large_string()),
        ("similarity", pa.float32()),
        ("kept", pa.bool_()),
        ("row", pa.int64()),
        ("reference", pa.large_string()),
    ]
)
"""Groups of near-duplicates: those of the first picture first, in each the one that stays and then the others in their order.
`similarity` is to the one that stays (1 for itself), `row` the row of the score set. Behind them come rows that are near to a
picture of a reference set: a group for each of these pictures, `reference` its name (else null), `similarity` that to it, and
none of the group stays."""

StageProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much it is in all."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What became of each of M rows, given best first.

    Attributes:
        keeper: (M,) int64: position of the row that stays and is most similar to this one, among those before it (of equally
            similar ones the best); its own position for a row that stays; -1 for one that was left undecided.
        similarity: (M,) float32 to that row; 1 for a row that stays, NaN for one without an embedding (it stays).
        method: "exact" or "approximate".
    """

    keeper: Rows
    similarity: npt.NDArray[np.float32]
    method: str

    @property
    def stays(self) -> npt.NDArray[np.bool_]:
        """(M,) whether each row stays."""
        return np.equal(self.keeper, np.arange(len(self.keeper)))


@dataclass(frozen=True, kw_only=True)
class DuplicateRule:
    """What near-duplicate removal takes out of a score set.

    Attributes:
        dropped: rows of the score set that are near-duplicates of one before them, in their order.
        near_reference: rows that are near to a picture of a reference set, in their order; none of them is in `dropped`.
        groups: GROUPS_SCHEMA: every group of at least two pictures, and of those near to a reference every one.
        num_without_embedding: rows that stay because they have no embedding.
        num_looked_at: rows that were decided; those behind them were not needed, and are neither dropped nor said to stay.
        num_near_that_stay: rows that always stay, near to a picture of a reference set.
        num_references: rows of the reference sets that could be compared; num_references_left_out: those that have no
            embedding.
        method: "exact" or "approximate".
    """

    dropped: Rows
    near_reference: Rows
    groups: pa.Table
    num_without_embedding: int
    num_looked_at: int
    num_near_that_stay: int
    num_references: int
    num_references_left_out: int
    method: str


def find_near_duplicates(
    vectors: Vectors,
    order: Rows,
    threshold: float,
    *,
    method: DedupMethod = "auto",
    num_threads: int = 1,
    num_always: int = 0,
    groups: Rows | None = None,
    most_stays: int | None = None,
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
        num_threads: threads to use.
        num_always: so many rows at the head of `order` stay whatever they are near to; they take others out.
        groups: (M,) the group of each row of `order`, any whole numbers: only rows of one group are compared. None: all are.
        most_stays: the first so many rows that stay are wanted, and rows after these may be left undecided: a row is decided by
            those before it alone, so what is decided is what it would be anyway. None: all rows are decided.
        on_progress: told the number of rows that are decided, and of all.

    Raises:
        InputError: faiss is needed and not installed.
    """
    has = np.flatnonzero(vectors.place[order] >= 0)
    rows = vectors.place[order[has]]
    is_exact = _is_exact(method, len(rows), most_stays)
    keeper = np.arange(len(order))
    similarity = np.full(len(order), np.nan, np.float32)
    if len(rows) and groups is not None:
        always = has < num_always
        own, own_similarity, is_exact = _keep_best_of_groups(
            vectors, rows, np.asarray(groups)[has], threshold, always, method, num_threads, on_progress
        )
        keeper[has], similarity[has] = has[own], own_similarity
    elif len(rows):
        how = {"num_always": int(np.searchsorted(has, num_always)), "most_stays": most_stays, "on_progress": on_progress}
        own, own_similarity = _keep_best(vectors, rows, threshold, is_exact=is_exact, num_threads=num_threads, **how)
        keeper[has], similarity[has] = np.where(own >= 0, has[own], -1), own_similarity
    return Duplicates(keeper=keeper, similarity=similarity, method="exact" if is_exact else "approximate")


def _is_exact(method: DedupMethod, num_rows: int, most_stays: int | None = None) -> bool:
    """Whether so many rows are all compared; of rows of which few are to stay, each is compared with those few only."""
    is_little = num_rows <= MOST_EXACT_ROWS or (most_stays is not None and num_rows * most_stays <= MOST_EXACT_ROWS**2)
    return method == "exact" or (method == "auto" and is_little)


def _keep_best(
    vectors: Vectors, rows: Rows, threshold: float, *, is_exact: bool, num_threads: int, **how: Any
) -> tuple[Rows, npt.NDArray[np.float64]]:
    """`keep_best` with every row compared, or those of near cells only. `how`: further arguments of `keep_best`."""
    if is_exact:
        basis = choose_basis(vectors.matrix, rows, threshold)
        return keep_best(vectors, rows, threshold, num_threads=num_threads, basis=basis, **how)
    from beholder.curate.duplicates.ann import IndexedKept, load_faiss_for, threads

    faiss = load_faiss_for(len(rows))
    basis = choose_basis(vectors.matrix, rows, threshold, pair_cost=INDEX_PAIR_COST)

    def make_kept(search: Search, capacity: int) -> Kept:
        return IndexedKept(search, rows)

    how |= {"basis": basis, "make_kept": make_kept, "block_rows": _INDEX_BLOCK_ROWS}
    with threads(faiss, num_threads):
        return keep_best(vectors, rows, threshold, num_threads=num_threads, **how)


def _keep_best_of_groups(
    vectors: Vectors,
    rows: Rows,
    groups: Rows,
    threshold: float,
    always: npt.NDArray[np.bool_],
    method: DedupMethod,
    num_threads: int,
    on_progress: Progress | None,
) -> tuple[Rows, npt.NDArray[np.float64], bool]:
    """`keep_best` inside each group; and whether all of it was exact."""
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    codes = codes.reshape(-1)
    small = np.flatnonzero(counts <= _SMALL_GROUP_ROWS)
    by_group = np.lexsort((codes, counts[codes] > _SMALL_GROUP_ROWS))  # group after group, the small ones first
    keeper, similarity = np.arange(len(rows)), np.ones(len(rows))
    is_exact, done = True, 0

    def tell(num_rows: int) -> None:
        if on_progress is not None:
            on_progress(done + num_rows, len(rows))

    ends = np.cumsum(counts[small])
    for some in np.split(small, np.flatnonzero(np.diff(ends // _GROUPED_ROWS)) + 1) if len(small) else ():
        edges = np.concatenate([[0], np.cumsum(counts[some])])
        places = by_group[done : done + edges[-1]]
        own, own_similarity = keep_best_of_small_groups(vectors, rows[places], edges, always[places], threshold, num_threads)
        keeper[places], similarity[places] = places[own], own_similarity
        tell(len(places))
        done += len(places)
    for count in counts[counts > _SMALL_GROUP_ROWS].tolist():
        places = by_group[done : done + count]
        exact = _is_exact(method, count)
        how = {"num_always": int(always[places].sum()), "on_progress": lambda number, _: tell(number)}
        own, own_similarity = _keep_best(vectors, rows[places], threshold, is_exact=exact, num_threads=num_threads, **how)
        keeper[places], similarity[places] = places[own], own_similarity
        done += count
        is_exact = is_exact and exact
    return keeper, similarity, is_exact


def drop_near_duplicates(
    scores: ScoreSet,
    embeddings: str,
    rows_best_first: Rows,
    rules: SelectRules,
    scratch: Path,
    on_progress: StageProgress,
    *,
    num_always: int = 0,
    groups: Rows | None = None,
    most_stays: int | None = None,
    first_rows: int = FIRST_WALK_ROWS,
) -> DuplicateRule:
    """Near-duplicates among some rows of a score set: of each group the first stays. What is near to a reference goes first.

    Args:
        scores: the score set.
        embeddings: where the embeddings of its pictures are: `scores.embeddings`, or any set that `beholder score` reads.
        rows_best_first: (M,) int64 rows of the score set.
        rules: what is compared, from which similarity on, and how: the rules of `dedup` and `dedup_against`.
        scratch: a folder for the matrix of embeddings (`load_vectors`).
        on_progress: told "embeddings read" and "rows compared" with numbers, and the same of reference sets.
        num_always: as in `find_near_duplicates`.
        groups: as there, for each of `rows_best_first`.
        most_stays: the first so many rows that stay are wanted. Embeddings are then read and rows decided only as far as that
            takes, and all that is told is about those rows. None: all rows are decided.
        first_rows: with `most_stays`, about so many rows' embeddings are read first.

    Raises:
        InputError: the embeddings cannot be read or matched, those of a reference set are of another model, or as in
            `find_near_duplicates`.
        OutputError: no room in `scratch`.
    """

    def telling(stage: str) -> Progress:
        return lambda done, total: on_progress(stage, done, total)

    count = len(rows_best_first)
    if most_stays is not None:
        count = max(first_rows, num_always, _WALK_ROWS_PER_STAY * most_stays)
    while True:
        if 2 * count >= len(rows_best_first):
            count = len(rows_best_first)
        rows = rows_best_first[:count]
        vectors = load_vectors(
            scores,
            embeddings,
            scratch=scratch,
            rows=rows,
            references=rules.dedup_against,
            on_progress=telling("embeddings read"),
            on_reference=telling("reference embeddings read"),
        )
        found = _decided(vectors, rows, rules, telling, num_always=num_always, groups=groups, most_stays=most_stays)
        staying = np.flatnonzero((found.keeper == np.arange(len(rows))) & (found.reference < 0))
        if most_stays is not None and len(staying) >= most_stays:  # what is undecided comes behind these
            count = int(staying[most_stays - 1]) + 1
            break
        if count == len(rows_best_first):
            break
        count *= _WALK_GROWTH
    return _rule(scores, vectors, rows[:count], found)


@dataclass(frozen=True, kw_only=True)
class _Decided:
    """What became of M rows, best first; places count among them.

    Attributes:
        keeper: (M,) int64: the place of the row that stays in its stead, or its own; -1: undecided.
        reference: (M,) int64: the row of a reference set that it is near to; -1: none.
        similarity: (M,) float32 to that, or to the one that stays.
        num_near_that_stay: rows that always stay though a reference is near.
        is_exact: whether all pairs that could be near were compared.
    """

    keeper: Rows
    reference: Rows
    similarity: npt.NDArray[np.float32]
    num_near_that_stay: int
    is_exact: bool


def _decided(
    vectors: Vectors,
    rows: Rows,
    rules: SelectRules,
    telling: Callable[[str], Progress],
    *,
    num_always: int,
    groups: Rows | None,
    most_stays: int | None,
) -> _Decided:
    """Compare rows with reference sets, then what is left with each other; only what is asked for."""
    is_exact = True
    reference, similarity = np.full(len(rows), -1, np.int64), np.ones(len(rows), np.float32)
    if rules.reference_similarity is not None:
        is_exact = _is_exact(rules.dedup_method, len(rows), vectors.num_references)
        reference, reference_similarity = near_references(
            vectors,
            rows,
            rules.reference_similarity,
            is_exact=is_exact,
            num_threads=rules.threads,
            on_progress=telling("rows compared with the reference"),
        )
        similarity = np.where(reference >= 0, reference_similarity, similarity)
    num_near_that_stay = int((reference[:num_always] >= 0).sum())
    reference[:num_always], similarity[:num_always] = -1, 1
    left = np.flatnonzero(reference < 0)
    keeper = np.arange(len(rows))
    if rules.similarity is not None:
        found = find_near_duplicates(
            vectors,
            rows[left],
            rules.similarity,
            method=rules.dedup_method,
            num_threads=rules.threads,
            num_always=min(num_always, len(left)),
            groups=None if groups is None else groups[left],
            most_stays=most_stays,
            on_progress=telling("rows compared"),
        )
        keeper[left] = np.where(found.keeper >= 0, left[found.keeper], -1)
        similarity[left] = found.similarity
        is_exact = is_exact and found.method == "exact"
    return _Decided(
        keeper=keeper,
        reference=reference,
        similarity=similarity,
        num_near_that_stay=num_near_that_stay,
        is_exact=is_exact,
    )


def _rule(scores: ScoreSet, vectors: Vectors, rows: Rows, found: _Decided) -> DuplicateRule:
    """What is told of the first of the rows that were decided, all of which are decided."""
    count = len(rows)
    keeper, reference, similarity = found.keeper[:count], found.reference[:count], found.similarity[:count]
    near = np.flatnonzero(reference >= 0)
    own = groups_table(scores, rows, keeper, similarity)
    if len(near):
        assert vectors.reference_names is not None
        names = vectors.reference_names.take(reference[near])
        own = joined_groups(own, _reference_groups(scores, rows[near], reference[near], similarity[near], names))
    return DuplicateRule(
        dropped=rows[(keeper != np.arange(count)) & (reference < 0)],
        near_reference=rows[near],
        groups=own,
        num_without_embedding=int((vectors.place[rows] < 0).sum()),
        num_looked_at=count,
        num_near_that_stay=found.num_near_that_stay,
        num_references=vectors.num_references,
        num_references_left_out=vectors.num_references_left_out,
        method="exact" if found.is_exact else "approximate",
    )


def groups_table(scores: ScoreSet, rows: Rows, keeper: Rows, similarity: npt.NDArray[np.float32]) -> pa.Table:
    """The groups of M rows of a score set, of which `keeper` and `similarity` tell as in `Duplicates`, as GROUPS_SCHEMA."""
    stays = np.equal(keeper, np.arange(len(keeper)))
    dropped = np.flatnonzero(~stays)
    keepers = np.unique(keeper[dropped])
    members = np.concatenate([keepers, dropped])
    group = np.searchsorted(keepers, keeper[members])
    order = np.lexsort((members, ~stays[members], group))
    members = members[order]
    columns = [group[order], samples_of(scores, rows[members]), similarity[members], stays[members], rows[members]]
    reference = pa.nulls(len(members), pa.large_string())
    return pa.table([*(pa.array(column) for column in columns), reference], schema=GROUPS_SCHEMA)


def joined_groups(first: pa.Table, then: pa.Table) -> pa.Table:
    """Two tables of GROUPS_SCHEMA, each numbered from 0, as one: the numbers of `then` go on after those of `first`."""
    count = int(first.column("group").to_numpy().max(initial=-1)) + 1
    moved = pa.array(then.column("group").to_numpy() + count)
    return pa.concat_tables([first, then.set_column(0, GROUPS_SCHEMA.field("group"), moved)])


def _reference_groups(
    scores: ScoreSet, rows: Rows, reference: Rows, similarity: npt.NDArray[np.float32], names: pa.LargeStringArray
) -> pa.Table:
    """GROUPS_SCHEMA of rows that are near to a reference, numbered from 0 in the order of their first rows.

    reference, similarity, names: (K,) which picture of the reference sets each is near to, how near, and that one's name.
    """
    _, first_at, group = np.unique(reference, return_index=True, return_inverse=True)
    number = np.empty(len(first_at), np.int64)
    number[np.argsort(first_at, kind="stable")] = np.arange(len(first_at))
    number = number[group.reshape(-1)]
    order = np.argsort(number, kind="stable")
    columns = [
        number[order],
        samples_of(scores, rows[order]),
        similarity[order],
        np.zeros(len(rows), np.bool_),
        rows[order],
        names.take(pa.array(order)),
    ]
    return pa.table([pa.array(column) for column in columns], schema=GROUPS_SCHEMA)


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
        search = Search(vectors.matrix, threshold, choose_basis(vectors.matrix, given, threshold), pool, num_threads)
        kept: Kept
        if is_exact:
            kept = AllKept(search, len(reference))
        else:
            from beholder.curate.duplicates.ann import IndexedKept, load_faiss_for, threads

            opened.enter_context(threads(load_faiss_for(len(given)), num_threads))
            kept = IndexedKept(search, reference)
        step = rows_at_once(num_threads)
        for at in range(0, len(reference), step):
            part = reference[at : at + step]
            kept.add(search.turned(part), np.arange(len(part)), part, search.square_sums(part))
        for at in range(0, len(given), step):
            part = given[at : at + step]
            best, best_at = np.full(len(part), NONE), np.full(len(part), -1, np.int64)
            kept.find(search.turned(part), part, search.square_sums(part), best, best_at)
            near[has[at : at + step]] = best_at
            near_from[has[at : at + step]] = np.where(best_at >= 0, best, np.nan)
            if on_progress is not None:
                on_progress(min(at + step, len(given)), len(given))
    return near, near_from
