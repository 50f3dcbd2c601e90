"""What read ratings are, whatever file they came from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.errors import number_of
from beholder.io import locations
from beholder.train.ratings.findings import Finding
from beholder.train.ratings.options import Kind
from beholder.train.ratings.reliability import Reliability

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

KEEP, DROP = 1.0, 0.0
"""The values of decisions."""


@dataclass(frozen=True, kw_only=True)
class Votes:
    """Single votes, where the file has them.

    Attributes:
        raters: names of those who voted, each once.
        rater: (V,) int64, place in `raters`.
        sample: (V,) int64, place in `Ratings.samples`.
        value: (V,) float64, in units of the ratings; centred or standardised where that was asked for.
    """

    raters: tuple[str, ...]
    rater: Numbers
    sample: Numbers
    value: Floats


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Comparisons. Equal ones are one row with their votes added up; both directions of a contradiction stay.

    Attributes:
        better: (P,) int64, place in `Ratings.samples` of the better picture; of a tie of either.
        worse: (P,) int64, the same of the other one; never equal to `better`.
        is_tie: (P,) bool, whether neither is better.
        votes: (P,) float64, above 0: how many votes, or how strong the preference.
    """

    better: Numbers
    worse: Numbers
    is_tie: npt.NDArray[np.bool_]
    votes: Floats


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Ratings of N pictures, each named once.

    Attributes:
        kind: `mean` one number a picture; `raters` a row per rater; `histogram` votes by stars; `pairs` comparisons;
            `decisions` keep (1.0) and drop (0.0).
        source: where they are from, for messages.
        layout: how they were understood, in words: "a row per rater, column 'worker'".
        samples: (N,) large strings, names of pictures as the file has them, in the order of their first appearance. Of ratings
            by place (`is_by_row`) they are the row's number, from 0.
        values: (N,) float64, finite: the mean rating of each picture, in the file's units; of pairs the share of its
            comparisons that it won, ties as halves.
        counts: (N,) float64, above 0: votes behind each value, or None where nothing says so.
        deviations: (N,) float64: standard deviation of a picture's single votes (divisor n - 1), NaN where it is unknown; None
            where it is unknown for all.
        histogram: (N, K) float64, at least 0: votes, or shares of them, for each of `levels`; None for other kinds.
        levels: (K,) float64, ascending: the rating that each column of the histogram stands for; None for other kinds.
        votes: single votes, or None.
        pairs: comparisons, or None.
        reliability: of the values, where single votes say it, else None.
        is_by_row: whether ratings belong to rows of a set by their place and not by a name.
        has_public_name: whether the last part of `source` is the name of a file of ratings, and not of somebody's folder, or
            made of one, as that of marks is.
        findings: remarks, in the order in which they were made.
    """

    kind: Kind
    source: str
    layout: str
    samples: pa.LargeStringArray
    values: Floats
    counts: Floats | None = None
    deviations: Floats | None = None
    histogram: Floats | None = None
    levels: Floats | None = None
    votes: Votes | None = None
    pairs: Pairs | None = None
    reliability: Reliability | None = None
    is_by_row: bool = False
    has_public_name: bool = True
    findings: tuple[Finding, ...] = field(default=())

    @property
    def num_samples(self) -> int:
        """Pictures that are named."""
        return len(self.samples)

    @property
    def public_name(self) -> str | None:
        """The file's name without its folders and what an address asks for; None where it would tell of somebody's folder."""
        return PurePosixPath(locations.without_query(self.source)).name if self.has_public_name else None

    @property
    def scale(self) -> str:
        """From where to where the ratings go, in words."""
        if self.kind == "pairs":
            return "which of two is better"
        if self.kind == "decisions":
            return "keep (1) or drop (0)"
        whole = self.votes.value if self.votes is not None else self.levels if self.levels is not None else self.values
        steps = "whole numbers" if np.array_equal(whole, np.round(whole)) else "with fractions"
        lowest, highest = (float(whole.min()), float(whole.max())) if whole.size else (math.nan, math.nan)
        return f"{lowest:g} to {highest:g}, {steps}"

    def lines(self, *, with_names: bool = True) -> list[str]:
        """What a summary says: what the ratings are, how far they can be trusted, and each finding; in full sentences.

        Without names nothing tells of folders, pictures and people: as is right where the world may read it.
        """
        things = f"{number_of(len(self.pairs.votes), 'pair')} of " if self.pairs is not None else ""
        source = self.source if with_names else self.public_name
        holds = "The ratings are of" if source is None else f"{source} holds"
        found = [f"{holds} {things}{number_of(self.num_samples, 'picture')}: {self.layout}; {self.scale}."]
        if self.kind == "decisions":
            found.append(f"{int(self.values.sum()):,} are kept and {int((self.values == DROP).sum()):,} dropped.")
        elif self.kind != "pairs":
            found.append(
                f"The mean is {self.values.mean():.3g}, the standard deviation between pictures {self.values.std():.3g}."
            )
        if self.reliability is not None:
            known = self.reliability
            found.append(
                f"With {known.votes_each:.3g} votes a picture the means have a reliability of {known.of_mean:.3f} (of a single "
                f"vote {known.of_one:.3f}): the standard deviation of votes for one picture is {math.sqrt(known.within):.3g}."
            )
        return [*found, *(one.line(with_names=with_names) for one in self.findings)]
