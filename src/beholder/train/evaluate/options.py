"""Options of `beholder evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from beholder.errors import InputError
from beholder.options import check_threads, option, threads_option
from beholder.train.ratings.options import RatingsOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(RatingsOptions):
    """What `beholder evaluate` takes; `sources` are sets or tables of scores, embeddings, or both."""

    PANEL: ClassVar[str] = "Evaluation"

    sources: tuple[str, ...]
    ratings: str | None = option(
        None,
        "People's ratings: a table, votes, pairs, marks of browse, a folder with liked and disliked pictures, stars in XMP "
        "(docs/train.md lists them).",
        shown="needed",
    )
    out: str | None = option(None, "The page, ending in .html.", flag=("--out", "-o"), shown="SCORES.evaluation.html")
    head: tuple[str, ...] = option(
        (), "A head that scores the embeddings; may be repeated.", shown="of embeddings alone the public ones of their tower"
    )
    score_column: tuple[str, ...] = option(
        (), "The column with scores; may be repeated.", shown="all that the set names, else a known name"
    )
    sample_column: str | None = option(None, "The column of the scores that names pictures.", shown="found by its usual names")
    by: tuple[str, ...] = option(
        (), "Measures of each group of a column of the ratings, or of each folder, as well; may be repeated."
    )
    split_by: str | None = option(
        None,
        "Pictures that belong together: of one folder (folder), or equal in this column of the ratings. They are resampled, "
        "and left out of a fit, together.",
        shown="near-duplicates alone",
    )
    near_duplicates: float = option(
        0.95, "Cosine from which pictures belong together as near-duplicates, where there are embeddings; 0: not looked for."
    )
    weigh_by: Literal["votes", "pictures"] = option(
        "votes",
        "Whether a picture counts by its votes, as in train, or all pictures the same, as published figures have it.",
        choices=("votes", "pictures"),
    )
    good_from: float | None = option(None, "Ratings from here up count as good, where that is measured.", shown="the median")
    seed: int = option(0, "Draws folds and resamples; the same data and seed give the same figures.", least=0)
    title: str | None = option(None, "The page's title.", shown="the name of the ratings")
    offline: bool | None = option(None, "Never use the network.", shown="as the environment says")
    overwrite: bool = option(False, "Replace a page of this command where it exists.")
    num_threads: int | None = threads_option()

    def check(self) -> None:
        """Raise InputError for values that mean nothing, and ratings that nobody named."""
        super().check()
        check_threads(self.num_threads)
        if not self.sources:
            raise InputError("name what is evaluated: a set or table of scores, or embeddings")
        if self.ratings is None:
            raise InputError("--ratings is needed: a file with ratings, or a folder of rated pictures (docs/train.md)")
        if not 0 <= self.near_duplicates <= 1:
            raise InputError(f"--near-duplicates {self.near_duplicates:g}: give a cosine from 0 to 1")
        for flag, values in (("--head", self.head), ("--score-column", self.score_column), ("--by", self.by)):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise InputError(f"{flag} {twice} is given twice; name it once")
