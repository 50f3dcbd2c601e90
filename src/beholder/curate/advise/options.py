"""Every option of `beholder advise`, with its default: the dataclass that the command line makes its flags of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from beholder.options import join_option, option, repeated_option, where_option


@dataclass(frozen=True, kw_only=True)
class AdviseOptions:
    """What to advise on, and how scores are read."""

    PANEL: ClassVar[str] = "Advice"

    scores: str
    min_score: str | None = option(
        None,
        "The threshold in question: a number, or a landmark (sd-v1, laion-5plus, ...); which groups it drops most is shown.",
        shown="the one that keeps most nearly 25 %",
        old=("--at",),
        old_names=("at",),
    )
    grid: tuple[float, ...] = option(
        (),
        "A threshold of the table (repeatable).",
        shown="half and quarter points around the scores",
        old=("--threshold",),
        old_names=("thresholds",),
    )
    group_by: tuple[str, ...] = option(
        (),
        "A metadata column whose groups are compared (repeatable).",
        shown="all that can be grouped",
        old=("--column",),
        old_names=("columns",),
    )
    price: bool = option(True, "Compare groups, or only read the scores.", flag=("--price/--no-price",))
    groups_shown: int = option(4, "Groups of a column to show from each end.", least=1, old=("--groups",))
    where: tuple[str, ...] = where_option()
    join: tuple[str, ...] = join_option()
    score: str | None = option(None, "The score to go by, where there are several: a column or its head's name.")
    head: str | None = option(None, "The head that made the scores, where the set does not say, e.g. laion-v2.")
    repeated: str = repeated_option()
    score_column: str | None = option(None, "Which column holds scores, in other tools' tables.", shown="found by its name")
    sample_column: str | None = option(None, "Which column names the rows.", shown="found by its name")
    memory: int = option(2_000_000_000, "About how much memory may be taken.", read="bytes", shown="2GB")
    num_threads: int | None = option(None, "Threads.", flag=("--threads",), shown="all cores", least=1)
