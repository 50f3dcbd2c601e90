"""What the page says once about the set: its columns, heads, landmarks and rejects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beholder.browse.session import Session
from beholder.columns import REASON, SAMPLE, reason_text
from beholder.io.schemas import is_number, is_text
from beholder.models.published import landmarks_of, published_shares
from beholder.scoreset.numbers import bucket_step
from beholder.scoreset.rejects import NAMES, reject_batches
from beholder.scoreset.untyped import NUMBERS

_START = 5.0
"""Where LAION cut the pictures that Stable Diffusion 1 was trained on; the slider begins there where scores lie around it."""


def about(session: Session, rejects: Rejects) -> dict[str, Any]:
    """Everything the page needs once."""
    scores = session.scores
    return {
        "name": scores.source.rstrip("/").rsplit("/", 1)[-1] or scores.source,
        "source": scores.source,
        "num_rows": session.view(scores.score_columns[0], ()).num_matching,
        "where": list(session.asked.where),
        "picture_column": None if session.picture_column is None else session.picture_column.name,
        "picture_note": None if session.picture_column is None else session.picture_column.note,
        "caption_column": session.caption_column,
        "scores": [describe_score(session, name) for name in scores.score_columns],
        "columns": [{"name": name, **_column(session, name)} for name in session.store.names],
        "left_out": session.store.left_out,
        "marks": {"file": str(session.marks.path), "strangers": session.marks.num_strangers, "version": session.marks.version},
        "rejects": {"count": rejects.num_all, "reasons": rejects.reasons},
        "stacks": None if session.stacks is None else {"count": session.stacks.num_groups, "source": session.stacks.source},
    }


def describe_score(session: Session, name: str) -> dict[str, Any]:
    """A score: its head, its axis, where the slider begins, and published shares of LAION-2B-en as landmarks."""
    view = session.view(name, ())
    low, high = session.axis(name)
    step = 0.01 if high - low <= 20 else float(f"{(high - low) / 1000:.1g}")
    middle = float(view.ascending[len(view.ascending) // 2]) if len(view.ascending) else (low + high) / 2
    around = view.ascending[[len(view.ascending) // 20, -1 - len(view.ascending) // 20]] if len(view.ascending) else (0, 0)
    start = _START if around[0] <= _START <= around[1] else round(middle / step) * step
    head = session.scores.head_names.get(name)
    return {
        "name": name,
        "head": head,
        "low": low,
        "high": high,
        "step": step,
        "bucket": bucket_step(low, high),
        "start": round(start, 6),
        "num_without": session.num_without(name),
        "landmarks": [mark for mark in _landmarks(head) if low <= mark["at"] <= high],
    }


def _landmarks(head: str | None) -> list[dict[str, Any]]:
    """Thresholds at which others cut or of which LAION published the share, ascending: `at`, `share` or None, `names`."""
    shares = published_shares(head) if head else {}
    names: dict[float, list[str]] = {at: [] for at in shares}
    for mark in landmarks_of(head):
        names.setdefault(mark.threshold, []).append(mark.name)
    return [{"at": at, "share": shares.get(at), "names": names[at]} for at in sorted(names)]


def _column(session: Session, name: str) -> dict[str, str]:
    """What a filter can ask of a column, of one from a CSV by what all its values are; and its type in words."""
    form = session.conditions.forms.get(name)
    if form is not None and form.is_plain and form.kind in (*NUMBERS, "BOOLEAN"):
        return {"kind": "number" if form.kind in NUMBERS else "truth", "type": "text"}
    kind = session.store.table.schema.field(name).type
    word = "truth" if pa.types.is_boolean(kind) else "number" if is_number(kind) else "text" if is_text(kind) else "other"
    return {"kind": word, "type": str(kind).replace("large_", "")}


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

    def page(self, reason: str, start: int, count: int) -> tuple[int, list[dict[str, Any]]]:
        """How many have this reason ("": all), and rows [start, start + count) of them."""
        table = self._table.filter(pc.equal(self._table.column(REASON), reason)) if reason else self._table
        return table.num_rows, table.slice(start, count).to_pylist()
