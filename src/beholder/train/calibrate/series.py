"""The two series of numbers that a map is fitted to: scores, and scores by another head or ratings, of the same pictures."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.curate.select.values import aliases_of, find_score
from beholder.errors import InputError
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import ScoreSet
from beholder.train.folds import joined_groups
from beholder.train.rated import FOLDER

Doubles = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
FEWEST = 20
"""Pictures from which a map is fitted, and its error measured."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Numbers on two scales.

    Attributes:
        scores: (N,) float64, finite: on the scale that is mapped, of pictures that have both.
        truth: (N,) float64, finite: of the same pictures on the other scale.
        weights: (N,) float64, above 0: votes behind each of `truth`.
        samples: names of these pictures.
        groups: (N,) int64 from 0: what is never on both sides of a split.
        all_scores, all_truth: (A,) and (B,) float64, finite: of all pictures that have the one or the other.
    """

    scores: Doubles
    truth: Doubles
    weights: Doubles
    samples: Sequence[str]
    groups: Numbers
    all_scores: Doubles
    all_truth: Doubles

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


def check_varied(numbers: Doubles, what: str) -> None:
    """Raise InputError for numbers that are all the same, or that are none."""
    if not numbers.size:
        raise InputError(f"{what} hold no number that could be mapped")
    if np.ptp(numbers) == 0:
        raise InputError(f"{what} are all {numbers[0]:g}; a map needs numbers that differ")


def names_of(scores: ScoreSet) -> pa.ChunkedArray:
    """Names of all rows, in order."""
    chunks = [chunk for piece in scores.samples() for chunk in piece.chunks]
    return pa.chunked_array(chunks, pa.large_string())


def series_of(
    scores: ScoreSet,
    numbers: Doubles,
    rows: Numbers,
    truth: Doubles,
    *,
    all_truth: Doubles | None = None,
    weights: Doubles | None = None,
    split_by: str | None = None,
) -> Series:
    """Numbers on both scales.

    Args:
        scores: the set.
        numbers: (A,) its scores, NaN where a row has none.
        rows: (M,) rows of the set that have a number on the other scale, ascending.
        truth: (M,) these numbers, NaN where there is none after all.
        all_truth: (B,) all numbers on the other scale; None: these.
        weights: (M,) votes behind them; None: 1 each.
        split_by: as the option of that name.
    """
    has_both = np.isfinite(numbers[rows]) & np.isfinite(truth)
    chosen = rows[has_both]
    samples = names_of(scores).take(pa.array(chosen)).to_pylist()
    given = truth if all_truth is None else all_truth
    return Series(
        scores=numbers[chosen],
        truth=truth[has_both],
        weights=np.ones(len(chosen)) if weights is None else weights[has_both],
        samples=samples,
        groups=_groups(scores, chosen, samples, split_by),
        all_scores=numbers[np.isfinite(numbers)],
        all_truth=given[np.isfinite(given)],
    )


def _groups(scores: ScoreSet, rows: Numbers, samples: Sequence[str], split_by: str | None) -> Numbers:
    """(M,) what belongs together. Raises InputError for a column that is not there."""
    if split_by is None:
        return np.arange(len(rows))
    if split_by == FOLDER:
        return joined_groups(len(rows), [np.array([posixpath.dirname(name) for name in samples], dtype=object)])
    if split_by not in scores.schema.names:
        raise InputError(f"{scores.source} has no column {split_by!r}; it has {', '.join(scores.schema.names[:20])}")
    column = pa.chunked_array([chunk for table in scores.batches([split_by]) for chunk in table.column(0).chunks])
    return joined_groups(len(rows), [np.array(column.take(pa.array(rows)).to_pylist(), dtype=object)])


def joined_rows(scores: ScoreSet, other: ScoreSet) -> tuple[Numbers, Numbers]:
    """Rows of the same pictures (by sample) in two sets that name each once: (M,) of the first, ascending, and of the other."""
    mine, theirs = names_of(scores), names_of(other)
    found = pc.index_in(mine, value_set=theirs.combine_chunks())
    places = pc.fill_null(found, -1).combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.flatnonzero(places >= 0).astype(np.int64)
    return rows, places[rows]
