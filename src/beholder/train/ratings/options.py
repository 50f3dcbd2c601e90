"""How ratings are read: what `read_ratings` takes beside where they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from beholder.errors import InputError
from beholder.options import check_choices, option

Kind = Literal["mean", "raters", "histogram", "pairs", "decisions"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""One number a picture; a row a rater; how many gave each number of stars; which of two is better; keep or drop."""

RATING_COLUMN, SAMPLE_COLUMN, PAIR_COLUMNS = "--rating-column", "--ratings-sample-column", "--pair-columns"
"""Flags that messages name."""


@dataclass(frozen=True, kw_only=True)
class RatingsOptions:
    """What can be said about ratings where it is not found out by itself, and how raters and stars count."""

    PANEL: ClassVar[str] = "Ratings"

    ratings_kind: Literal["auto"] | Kind = option(
        "auto",
        "What the ratings are: one mean a picture, a row per rater (raters), a histogram of votes, pairs, or keep and drop "
        "(decisions).",
        choices=("auto", *KINDS),
        shown="found out",
    )
    rating_column: str | None = option(None, "Column with the ratings.", flag=(RATING_COLUMN,), shown="found by its name")
    ratings_sample_column: str | None = option(
        None, "Column of the ratings that names the pictures.", flag=(SAMPLE_COLUMN,), shown="found by its name"
    )
    rater_column: str | None = option(None, "Column that says who rated.", shown="found by its name")
    count_column: str | None = option(None, "Column with how many votes a mean is of.", shown="found by its name")
    deviation_column: str | None = option(
        None, "Column with the standard deviation of a picture's votes.", shown="found by its name"
    )
    pair_columns: str | None = option(
        None, "The two columns that name the pictures of a pair, the better one first: BETTER,WORSE.", shown="found by name"
    )
    zero_means: Literal["ask", "tie", "second"] = option(
        "ask",
        "Pairs whose targets are only 0 and 1: whether 0 is a tie, or says that the second is better.",
        choices=("ask", "tie", "second"),
    )
    per_rater: Literal["as-is", "centre", "standardise"] = option(
        "as-is",
        "A row per rater: centre moves each rater's mean to that of all, standardise gives each rater the same spread, too.",
        choices=("as-is", "centre", "standardise"),
    )
    lowest: float | None = option(
        None, "The lowest rating that the scale has; rows below are left out.", flag=("--lowest-rating",), shown="any"
    )
    highest: float | None = option(
        None, "The highest rating that the scale has; rows above are left out.", flag=("--highest-rating",), shown="any"
    )
    rejected_as: float = option(0.0, "What a picture that is rejected (-1 in XMP) counts as; nan leaves it out.")
    disliked: str | None = option(None, "Folder of disliked pictures, where the ratings are a folder of liked ones.")

    def check(self) -> None:
        """Raise InputError for values that mean nothing."""
        check_choices(self)
        if self.lowest is not None and self.highest is not None and not self.lowest < self.highest:
            raise InputError(f"--lowest-rating {self.lowest:g} is not below --highest-rating {self.highest:g}")
        if math.isinf(self.rejected_as):
            raise InputError(f"--rejected-as {self.rejected_as:g}: give a number, or nan to leave rejected pictures out")
        if self.pair_columns is not None and len(self.pair_names) != 2:
            raise InputError(f"{PAIR_COLUMNS} {self.pair_columns}: give two columns, BETTER,WORSE")

    @property
    def pair_names(self) -> tuple[str, ...]:
        """The columns of `pair_columns`; () where none are given."""
        return () if self.pair_columns is None else tuple(name.strip() for name in self.pair_columns.split(",") if name.strip())
