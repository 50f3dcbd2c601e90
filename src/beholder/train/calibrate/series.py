"""The two series of numbers that a map is fitted to: scores, and scores by another head or ratings, of the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.curate.select.values import aliases_of, find_score
from beholder.errors import InputError
from beholder.notices import doing
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import ScoreSet
from beholder.train.options import CalibrateOptions
from beholder.train.rated import FOLDER, Labels, folders_of, values_at
from beholder.train.ratings.ratings import Numbers
from beholder.train.rows import Doubles
from beholder.train.source import open_source
from beholder.train.together import Embedded, Near, embedded_among, together
from beholder.train.trained_on import Seen, not_near, share_in_words

FEWEST = 20
"""Pictures from which a map is fitted, and its error measured."""
MOST_PICTURES = 100_000
"""Pictures that an isotonic map is fitted to at most, drawn at random: its error is then known to about 1 in 300."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Numbers on two scales.

    Attributes:
        scores: (N,) float64, finite: on the scale that is mapped, of pictures that have both.
        truth: (N,) float64, finite: of the same pictures on the other scale.
        weights: (N,) float64, above 0: votes behind each of `truth`.
        samples: names of these pictures.
        groups: (N,) int64 from 0: what is never on both sides of a split.
        notes: what is to be said of them.
        trained_on_share: of these pictures the share that the head of the scores was trained on, as far as that is known.
        is_by_place: whether some of these are known by names alone that are places in a file.
        near_duplicates: the cosine from which near-duplicates are in one group; None: they were not looked for.
        all_scores, all_truth: (A,) and (B,) float64, finite: of all pictures that have the one or the other.
    """

    scores: Doubles
    truth: Doubles
    weights: Doubles
    samples: Sequence[str]
    groups: Numbers
    all_scores: Doubles
    all_truth: Doubles
    notes: tuple[str, ...] = ()
    trained_on_share: float = 0.0
    is_by_place: bool = False
    near_duplicates: float | None = None

    @property
    def num_pictures(self) -> int:
        """Pictures that have both."""
        return len(self.scores)


def score_column(scores: ScoreSet, name: str | None, flag: str = "--score") -> str:
    """The column of scores that is meant. Raises InputError where that is not clear."""
    if name is not None:
        return find_score(RowReader(scores), name)
    if len(scores.score_columns) > 1:
        raise InputError(f"{scores.source} has several scores ({', '.join(scores.score_columns)}); choose one with {flag}")
    return scores.score_columns[0]


def has_score(scores: ScoreSet, name: str) -> bool:
    """Whether a name is that of a score of the set, or of its head."""
    return name in scores.score_columns or name in aliases_of(scores)


def finite_scores(scores: ScoreSet, column: str) -> Doubles:
    """(N,) float64, one for each row, NaN where there is no finite score."""
    found = scores.scores(column).astype(np.float64)
    found[~np.isfinite(found)] = np.nan
    return found


def check_varied(numbers: npt.NDArray[np.floating[Any]], what: str) -> None:
    """Raise InputError for numbers that are all the same, or that are none."""
    if not numbers.size:
        raise InputError(f"{what} hold no number that could be mapped")
    if numbers.min() == numbers.max():
        raise InputError(f"{what} are all {numbers[0]:g}; a map needs numbers that differ")


def series_of(
    scores: ScoreSet,
    numbers: Doubles,
    rows: Numbers,
    truth: Doubles,
    options: CalibrateOptions,
    *,
    all_truth: Doubles | None = None,
    weights: Doubles | None = None,
    labels: Labels | None = None,
    embeddings: str | None = None,
    seen: Seen | None = None,
) -> Series:
    """Numbers on both scales, of at most `MOST_PICTURES` pictures that have both, drawn at random.

    Args:
        scores: the set.
        numbers: (A,) its scores, NaN where a row has none.
        rows: (M,) rows of the set that have a number on the other scale, ascending.
        truth: (M,) these numbers, NaN where there is none after all.
        options: of the job: what belongs together, the seed, the kind of the map.
        all_truth: (B,) all numbers on the other scale; None: these.
        weights: (M,) votes behind them; None: 1 each.
        labels: (M,) what belongs together; None: by `split_by`, a folder or a column of the set.
        embeddings: where embeddings of the pictures are; None: nowhere.
        seen: which of the (M,) pictures the head was trained on; these are left out where enough others are there.
    """
    some = np.flatnonzero(np.isfinite(numbers[rows]) & np.isfinite(truth))
    if len(some) > MOST_PICTURES:
        some = np.sort(np.random.default_rng(options.seed).choice(some, MOST_PICTURES, replace=False, shuffle=False))
    chosen = rows[some]
    samples = values_at(scores.samples(), chosen).to_pylist()
    given = truth if all_truth is None else all_truth
    is_paired = options.map_method != "quantile" and len(chosen) >= FEWEST
    found = Embedded()
    if is_paired and embeddings is not None and (options.near_duplicates or seen is not None):
        with doing("finding near-duplicates"):
            source = open_source([embeddings], lambda: embeddings)
            found = embedded_among(source, samples, options.near_duplicates)
    near = found.near
    own = _labels(scores, chosen, samples, options.split_by) if labels is None else labels[some]
    told: list[str] = []
    share, is_by_place = 0.0, False
    if seen is not None and is_paired:
        seen = seen.at(some).with_sketches(found.sketched)
        left, told, share = _not_seen(seen, near)
        is_by_place = bool(seen.known.by_place(seen.pictures.at(left)).any())
        chosen, some, samples = chosen[left], some[left], [samples[at] for at in left]
        near, own = None if near is None else near.among(left), None if own is None else own[left]
    groups, notes = together(
        len(chosen),
        near,
        own,
        options.split_by,
        wanted=is_paired and bool(options.near_duplicates),
        then="Those of a group are on one side of each split.",
        otherwise="errors and bounds are too small (--embeddings names embeddings of these pictures)",
    )
    return Series(
        scores=numbers[chosen],
        truth=truth[some],
        weights=np.ones(len(chosen)) if weights is None else weights[some],
        samples=samples,
        groups=groups,
        all_scores=numbers[np.isfinite(numbers)],
        all_truth=given[np.isfinite(given)],
        notes=(*told, *notes),
        trained_on_share=share,
        is_by_place=is_by_place,
        near_duplicates=None if near is None else options.near_duplicates,
    )


def _not_seen(seen: Seen, near: Near | None) -> tuple[Numbers, list[str], float]:
    """Which of the n chosen pictures are taken, what is to be said, and of which share of them the head was trained on.

    Args:
        seen: what is known of them.
        near: near-duplicates among these; what is one of a picture that the head was trained on is left out as well.
    """
    is_seen = seen.surely()
    count, left = len(is_seen), not_near(is_seen, None if near is None else near.pairs)
    doubts = seen.lines_by_place("name embeddings of them with --embeddings")
    if is_seen.any() and len(left) >= FEWEST:
        told = (
            f"Of {count:,} pictures {count - len(left):,} are left out, since {seen.name} was trained on them or on "
            f"near-duplicates of them; the map is fitted to the other {len(left):,}."
        )
        return left, [told, *doubts], 0.0
    share = seen.share()
    told = (
        f"WARNING: {seen.name} was trained on {share_in_words(share)} of these pictures, so its scores of them are nearer to "
        f"the ratings than those of others: the error is too small, and there are no bounds. Rate at least {FEWEST} others."
    )
    return np.arange(count), [told, *doubts] if share > 0 else [], share


def _labels(scores: ScoreSet, rows: Numbers, samples: Sequence[str], split_by: str | None) -> Labels | None:
    """(M,) what belongs together by the set itself. Raises InputError for a column that is not there."""
    if split_by is None:
        return None
    if split_by == FOLDER:
        return folders_of(samples)
    if split_by not in scores.schema.names:
        raise InputError(f"{scores.source} has no column {split_by!r}; it has {', '.join(scores.schema.names[:20])}")
    return np.array(values_at((table.column(0) for table in scores.batches([split_by])), rows).to_pylist(), dtype=object)


def joined_rows(scores: ScoreSet, other: ScoreSet) -> tuple[Numbers, Numbers]:
    """Rows of the same pictures (by sample) in two sets that name each once: (M,) of the first, ascending, and of the other."""
    theirs = pa.chunked_array(
        [chunk for piece in other.samples() for chunk in piece.chunks], pa.large_string()
    ).combine_chunks()
    places = [np.empty(0, np.int64)]
    for piece in scores.samples():
        for chunk in piece.chunks:
            found = pc.fill_null(pc.index_in(chunk.cast(pa.large_string()), value_set=theirs), -1)
            places.append(found.to_numpy(zero_copy_only=False).astype(np.int64))
    at = np.concatenate(places)
    rows = np.flatnonzero(at >= 0).astype(np.int64)
    return rows, at[rows]
