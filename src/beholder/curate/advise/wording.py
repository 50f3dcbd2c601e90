"""Advice in two plain sentences, and its numbers and values as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from beholder.models.published import LAION_EN, published_share_at_least

if TYPE_CHECKING:
    from beholder.curate.advise.representation import ColumnTable, Group

_VALUE_CHARACTERS = 60
_EMPTY = {"folder": "(no folder)", "word": "(no words)", "element": "(none in it)", "domain": "(no domain)"}


def percent(share: float) -> str:
    """A share for people: 51.2 %, 4.3 %, 0.026 %."""
    return f"{digits(share)} %"


def digits(share: float) -> str:
    """The same without the sign."""
    if share in (0.0, 1.0):
        return f"{100 * share:g}"
    return f"{100 * share:.1f}" if share >= 0.095 else f"{100 * share:#.2g}"


def published_percent(share: float) -> str:
    """A published share with the digits that were published."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.3g} %"


def threshold_text(threshold: float) -> str:
    """A threshold for people: 5.0, 5.25."""
    return f"{threshold:.1f}" if float(threshold).is_integer() and abs(threshold) < 1e6 else f"{threshold:.6g}"


def value_text(group: Group, kind: str) -> str:
    """What the rows of a group have in common, in one line, uncut."""
    return "NULL" if group.value is None else " ".join(group.value.split()) or _EMPTY.get(kind, "(empty)")


def cut(text: str, most: int, kind: str) -> str:
    """Text that is not too wide: of long folders and domains the end, which tells them apart."""
    if len(text) <= most:
        return text
    return f"…{text[len(text) + 1 - most :]}" if kind in ("folder", "domain") else f"{text[: most - 1]}…"


def kept_sentence(at: float | None, num_kept: int, num_scored: int, head: str | None, *, is_asked: bool = True) -> str:
    """What a threshold keeps and what that means. `is_asked`: whether the user named it; else it is an example."""
    if not num_scored or at is None:
        return "There are no scores, so no threshold keeps anything."
    example = "" if is_asked else ", for example"
    pictures = "picture stays" if num_scored == 1 else "pictures stay"
    text = f"At {threshold_text(at)}{example}, {num_kept:,} of {num_scored:,} {pictures}"
    if num_kept == num_scored:
        text += ": all of them, so this threshold drops nothing"
    elif not num_kept:
        text += ": no score is that high"
    else:
        text += f": the best {percent(num_kept / num_scored)}"
    laion = published_share_at_least(head, at) if head else None
    return text + (f"; of {LAION_EN}, {published_percent(laion)} score as high." if laion is not None else ".")


def hardest_hit(tables: Sequence[ColumnTable]) -> tuple[ColumnTable, Group] | None:
    """The group that clearly shrinks most, by the end of its ratio's interval that is nearer to 1; None: no group shrinks."""
    found = [(table, table.shrinking[0]) for table in tables if table.shrinking]
    return min(found, key=lambda pair: (pair[1].ratio_high or 0.0, pair[0].column), default=None)


def price_sentence(tables: Sequence[ColumnTable], num_kept: int, num_scored: int, *, is_priced: bool) -> str:
    """Which group pays most for a threshold, or that none clearly does; "" where nothing was compared."""
    if not is_priced or num_kept in (0, num_scored):
        return ""
    if not tables:
        return "No column has groups that could be compared."
    hit = hardest_hit(tables)
    if hit is not None:
        table, group = hit
        all_share = percent(num_kept / num_scored)
        value = cut(value_text(group, table.kind), _VALUE_CHARACTERS, table.kind)
        rows = f"{group.num_rows:,} stay" if group.num_rows > 1 else "1 stays"
        return (
            f"Pictures {_which(table, value)} pay for it most: {percent(group.share_kept)} of these {rows}, "
            f"against {all_share} of all."
        )
    if any(table.num_growing for table in tables):
        return "No group clearly shrinks; the table shows which ones grow."
    return "No group of pictures clearly gains or loses by it."


def _which(table: ColumnTable, value: str) -> str:
    """Which pictures a group of a column is of."""
    column = table.column
    return {
        "folder": f"in the folder {value}",
        "value": f"whose {column} is {value}",
        "word": f"with the word {value!r} in {column}",
        "element": f"with {value} in {column}",
        "domain": f"from {value}",
    }.get(table.kind, f"of {column} {value}")
