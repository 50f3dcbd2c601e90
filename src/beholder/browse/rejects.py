"""Rejects tables of a score set in; pages of them by reason out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import REASON, SAMPLE, reason_text
from beholder.scoreset.rejects import NAMES, reject_batches

MOST_REJECTS = 2_000_000
"""So many are kept at hand; the tables have the others."""


class Rejects:
    """The rejected rows of a set.

    Attributes:
        num_all: how many there are.
        reasons: `reason`, `count`, `text` of each, commonest first.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        pieces, self.num_all = [], 0
        for lines in reject_batches(paths):
            if self.num_all < MOST_REJECTS:
                pieces.append(lines)
            self.num_all += lines.num_rows
        empty = pa.table([pa.array([], pa.large_string())] * len(NAMES), names=list(NAMES))
        self._table = pa.concat_tables(pieces or [empty]).slice(0, MOST_REJECTS).combine_chunks()
        counts = self._table.group_by(REASON).aggregate([(SAMPLE, "count")]).to_pylist()
        self.reasons = [
            {"reason": item[REASON] or "", "count": item[f"{SAMPLE}_count"], "text": reason_text(item[REASON] or "")}
            for item in sorted(counts, key=lambda item: (-item[f"{SAMPLE}_count"], item[REASON] or ""))
        ]
        self._by_reason = {str(item["reason"]): self._of(str(item["reason"])) for item in self.reasons}

    def _of(self, reason: str) -> pa.Table:
        column = pc.fill_null(self._table.column(REASON), "")
        return self._table.filter(pc.equal(column, reason))

    def page(self, reason: str, start: int, count: int) -> tuple[int, list[dict[str, Any]]]:
        """How many have this reason ("": all), and rows [start, start + count) of them."""
        table = self._table if not reason else self._by_reason.get(reason, self._table.slice(0, 0))
        return table.num_rows, table.slice(start, count).to_pylist()
