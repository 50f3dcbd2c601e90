"""A session in; what the page says about the set, its columns, heads and landmarks out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from beholder.browse.rejects import Rejects
from beholder.browse.session import Session
from beholder.models.published import landmarks_of, published_shares
from beholder.scoreset.numbers import bucket_step
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
        "scores": [_score(session, name) for name in scores.score_columns],
        "columns": [{"name": name, **_column(session, name)} for name in session.store.names],
        "left_out": session.store.left_out,
        "marks": {"file": str(session.marks.path), "strangers": session.marks.num_strangers, "version": session.marks.version},
        "rejects": {"count": rejects.num_all, "reasons": rejects.reasons},
        "stacks": None if session.stacks is None else {"count": session.stacks.num_groups, "source": session.stacks.source},
    }


def _score(session: Session, name: str) -> dict[str, Any]:
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
    """What a filter can ask of a column; of one from a CSV, what all its values are."""
    form = session.conditions.forms.get(name)
    if form is not None and form.is_plain and form.kind in (*NUMBERS, "BOOLEAN"):
        return {"kind": "number" if form.kind in NUMBERS else "truth", "type": "text"}
    return _kind(session.store.table.schema.field(name).type)


def _kind(kind: pa.DataType) -> dict[str, str]:
    """What a filter can ask of a column, and its type in words."""
    types = pa.types
    word = "other"
    if types.is_boolean(kind):
        word = "truth"
    elif types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        word = "number"
    elif types.is_string(kind) or types.is_large_string(kind):
        word = "text"
    return {"kind": word, "type": str(kind).replace("large_", "")}
