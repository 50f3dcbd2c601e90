"""Rejects tables of a score set in; pages of them by reason out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beholder import storage
from beholder.columns import MESSAGE, REASON, SAMPLE, STAGE, reason_text

MOST_REJECTS = 2_000_000
"""So many are kept at hand; the tables have the others."""
_COLUMNS = (SAMPLE, STAGE, REASON, MESSAGE)


class Rejects:
    """The rejected rows of a set.

    Attributes:
        num_all: how many there are.
        reasons: `reason`, `count`, `text` of each, commonest first.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        pieces, self.num_all, at_hand = [], 0, 0
        for path in paths:
            with storage.open_parquet(path) as file, storage.remote_errors(path):
                self.num_all += file.metadata.num_rows
                present = [name for name in _COLUMNS if name in file.schema_arrow.names]
                if at_hand < MOST_REJECTS and SAMPLE in present:
                    table = file.read(columns=present)
                    texts = [
                        table.column(n).cast(pa.large_string()) if n in present else pa.nulls(table.num_rows, pa.large_string())
                        for n in _COLUMNS
                    ]
                    pieces.append(pa.table(texts, names=list(_COLUMNS)))
                    at_hand += table.num_rows
        empty = pa.table([pa.array([], pa.large_string())] * len(_COLUMNS), names=list(_COLUMNS))
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
