"""Options that `beholder train`, `evaluate` and `calibrate` share: what belongs together, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from beholder.errors import InputError
from beholder.options import check_threads, option, threads_option
from beholder.train.ratings.options import RatingsOptions

NEAR = 0.95
"""Cosine similarity from which two pictures count as the same one."""


@dataclass(frozen=True, kw_only=True)
class MeasuredOptions(RatingsOptions):
    """What is never on both sides of a split, nor resampled apart, and what draws splits and resamples."""

    PANEL: ClassVar[str] = "Measuring"

    split_by: str | None = option(
        None,
        "Pictures that belong together, never on both sides of a split: of one folder (folder), or equal in this column of the "
        "ratings (calibrate: else of the scores).",
        shown="near-duplicates alone",
    )
    near_duplicates: float = option(
        NEAR,
        "Cosine from which pictures belong together as near-duplicates, where there are embeddings; 0: not looked for.",
    )
    seed: int = option(0, "Draws splits and resamples; the same data and seed give the same figures.", least=0)
    overwrite: bool = option(False, "Replace what this command wrote before.")
    num_threads: int | None = threads_option()

    def check(self) -> None:
        """Raise InputError for values that mean nothing."""
        super().check()
        check_threads(self.num_threads)
        if not 0 <= self.near_duplicates <= 1:
            raise InputError(f"--near-duplicates {self.near_duplicates:g}: give a cosine from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class JudgedOptions(MeasuredOptions):
    """What `beholder train` and `evaluate` share: ratings that heads are measured by."""

    PANEL: ClassVar[str] = "Measuring"

    ratings: str | None = option(
        None,
        "People's ratings: a table, votes, pairs, marks of browse, a folder with liked and disliked pictures, stars in XMP "
        "(docs/train.md lists them).",
        shown="needed",
    )
    good_from: float | None = option(None, "Ratings from here up count as good, where that is measured.", shown="the median")
    offline: bool | None = option(None, "Never use the network.", shown="as the environment says")

    def check(self) -> None:
        """Raise InputError for values that mean nothing, and ratings that nobody named."""
        super().check()
        if self.ratings is None:
            raise InputError("--ratings is needed: a file with ratings, or a folder of rated pictures (docs/train.md)")
