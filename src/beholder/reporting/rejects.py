"""The rejects of a score set in; how many there are for each reason, with examples, out."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns, storage
from beholder.scores.score_set import ScoreSet

_BATCH = 1 << 16
_NAMES = (columns.SAMPLE, columns.STAGE, columns.REASON, columns.MESSAGE)
_MOST_CHARACTERS = 300
_MOST_REASONS = 50
"""Beholder's own tables have far fewer."""


@dataclass
class RejectReason:
    """One reason.

    Attributes:
        word: of the rejects table.
        text: what it means.
        count: rows.
        examples: (sample, stage, message) of the first few.
    """

    word: str
    text: str
    count: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)


def read_rejects(scores: ScoreSet, num_examples: int) -> list[RejectReason]:
    """Reasons, most frequent first; [] for none. Raises InputError."""
    found: dict[str, RejectReason] = {}
    for path in scores.rejects:
        with storage.open_parquet(path) as file, storage.remote_errors(path):
            present = [name for name in _NAMES if name in file.schema_arrow.names]
            if columns.REASON not in present:
                continue
            for batch in file.iter_batches(batch_size=_BATCH, columns=present):
                _count(pa.table(batch), found, num_examples)
    return sorted(found.values(), key=lambda reason: (-reason.count, reason.word))[:_MOST_REASONS]


def _count(lines: pa.Table, found: dict[str, RejectReason], num_examples: int) -> None:
    """Add lines of a rejects table to the counts, and the first few of each reason to its examples."""
    words = pc.fill_null(lines.column(columns.REASON).cast(pa.string()), "unknown")
    for item in pc.value_counts(words).to_pylist():
        word = item["values"]
        reason = found.setdefault(word, RejectReason(word, columns.reason_text(word)))
        reason.count += item["counts"]
        wanted = num_examples - len(reason.examples)
        for line in lines.filter(pc.equal(words, word)).slice(0, wanted).to_pylist() if wanted else ():
            sample, stage, message = (
                str(line.get(name) or "")[:_MOST_CHARACTERS] for name in (columns.SAMPLE, columns.STAGE, columns.MESSAGE)
            )
            reason.examples.append((sample, stage, message))


def num_read(scores: ScoreSet, num_rejected: int) -> int:
    """Rows that were read when the set was scored: scored and rejected ones."""
    result = scores.record.get("result")
    if isinstance(result, dict) and isinstance(result.get("num_read"), int):
        return int(result["num_read"])
    if columns.STATUS in scores.schema.names:  # a CSV keeps rejected rows in their place
        return scores.num_rows
    return scores.num_rows + num_rejected
