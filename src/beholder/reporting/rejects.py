"""How many rows of a score set were rejected for each reason, with examples, and how many were read."""

from __future__ import annotations

from beholder import columns
from beholder.scoreset.rejects import RejectReason, count_reasons
from beholder.scoreset.score_set import ScoreSet

__all__ = ["RejectReason", "num_read", "read_rejects"]

_MOST_REASONS = 50
"""Beholder's own tables have far fewer."""


def read_rejects(scores: ScoreSet, num_examples: int) -> list[RejectReason]:
    """Reasons, most frequent first; [] for none. Raises InputError."""
    return count_reasons(scores.rejects, num_examples)[:_MOST_REASONS]


def num_read(scores: ScoreSet, num_rejected: int) -> int:
    """Rows that were read when the set was scored: scored and rejected ones."""
    result = scores.record.get("result")
    if isinstance(result, dict) and isinstance(result.get("num_read"), int):
        return int(result["num_read"])
    if columns.STATUS in scores.schema.names:  # a CSV keeps rejected rows in their place
        return scores.num_rows
    return scores.num_rows + num_rejected
