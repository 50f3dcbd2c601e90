"""What a user gave in (scores of any kind, names of columns, heads and landmarks); what it stands for out."""

from __future__ import annotations

import math

from beholder.errors import InputError
from beholder.models.published import canonical_head
from beholder.scoreset.score_set import ScoreSet


def choose_score(scores: ScoreSet, name: str | None) -> str:
    """The score column with this name, or by the head of this name. Raises InputError."""
    listed = ", ".join(scores.score_columns)
    if name is None:
        if len(scores.score_columns) > 1:
            raise InputError(f"{scores.source} has scores of several heads: {listed}; name one with --score")
        return scores.score_columns[0]
    if name in scores.score_columns:
        return name
    wanted = canonical_head(name)
    found = [column for column in scores.score_columns if wanted and canonical_head(scores.head_names.get(column)) == wanted]
    if len(found) != 1:
        raise InputError(f"{scores.source} has no scores named {name!r}; it has {listed}")
    return found[0]


def head_of(scores: ScoreSet, column: str, told: str | None) -> str | None:
    """The head behind a column: its registry name where it is known. Raises InputError where the user says otherwise."""
    recorded = scores.head_names.get(column)
    recorded = canonical_head(recorded) or recorded
    if told is None:
        return recorded
    named = canonical_head(told) or told
    if recorded is not None and recorded != named:
        raise InputError(f"{scores.source}: the scores {column} are by {recorded}, as the set itself says; leave --head out")
    return named


def finite(value: float, flag: str) -> float:
    """A threshold that is a number. Raises InputError for NaN and infinity."""
    if not math.isfinite(value):
        raise InputError(f"{flag} {value} is no threshold; give a number such as 5.0")
    return value
