"""Options of `beholder evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from beholder.errors import InputError
from beholder.options import option
from beholder.train.options import JudgedOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(JudgedOptions):
    """What `beholder evaluate` takes; `sources` are sets or tables of scores, embeddings, or both."""

    PANEL: ClassVar[str] = "Evaluation"

    sources: tuple[str, ...]
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
    weigh_by: Literal["votes", "pictures"] = option(
        "votes",
        "Whether a picture counts by its votes, as in train, or all pictures the same, as published figures have it.",
        choices=("votes", "pictures"),
    )
    title: str | None = option(None, "The page's title.", shown="the name of the ratings")

    def check(self) -> None:
        """Raise InputError for values that mean nothing, and ratings that nobody named."""
        super().check()
        if not self.sources:
            raise InputError("name what is evaluated: a set or table of scores, or embeddings")
        for flag, values in (("--head", self.head), ("--score-column", self.score_column), ("--by", self.by)):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise InputError(f"{flag} {twice} is given twice; name it once")
