"""What `curate.advise` found in; the rows and small drawings of the page's representation tables out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from beholder.curate.advise.advice import Advice
from beholder.curate.advise.representation import ColumnTable, Group
from beholder.reporting.charts import NOTHING, percent

FOREST_WIDTH = 120.0
_MOST_RATIO = 8.0
_SHOWN = 14
_VALUE_CHARACTERS = 60
_OPEN_TABLES, _MOST_TABLES = 2, 24


@dataclass(frozen=True)
class Forest:
    """A ratio and its interval on a logarithmic scale from 1/8 to 8, in a box of FOREST_WIDTH: left, right, middle."""

    low: float
    high: float
    at: float


@dataclass(frozen=True)
class GroupLine:
    """A group, in words. `forest` is None where nothing is kept."""

    value: str
    num_rows: int
    num_kept: int
    share_kept: str
    interval: str
    ratio: str
    verdict: str
    forest: Forest | None


@dataclass(frozen=True)
class PriceTable:
    """A column's groups that are shown; `is_open` for the columns that a threshold changes most."""

    column: str
    kind: str
    text: str
    note: str
    is_open: bool
    lines: list[GroupLine]


def price_tables(advice: Advice) -> list[PriceTable]:
    """The first few tables, in the order of how much the threshold changes them."""
    tables = advice.tables[:_MOST_TABLES]
    return [_table(table, place < _OPEN_TABLES and table.strength > 0) for place, table in enumerate(tables)]


def _table(table: ColumnTable, is_open: bool) -> PriceTable:
    """The outer groups: those that shrink most, and those that grow most."""
    groups = table.groups
    if len(groups) > _SHOWN:
        groups = (*groups[: _SHOWN // 2], *groups[-(_SHOWN // 2) :])
    text = f"{table.num_groups:,} groups: {table.num_shrinking:,} shrink, {table.num_growing:,} grow"
    if len(groups) < table.num_groups:
        text += f"; the outer {len(groups)} are shown"
    if table.one_row_in > 1:
        text += f"; of every {table.one_row_in:,} rows one was looked at"
    return PriceTable(table.column, table.kind, text, table.note, is_open, [_line(group) for group in groups])


def _line(group: Group) -> GroupLine:
    value = "none" if group.value is None else group.value or "(empty)"
    known = group.ratio is not None
    return GroupLine(
        value if len(value) <= _VALUE_CHARACTERS else value[: _VALUE_CHARACTERS - 1] + "…",
        group.num_rows,
        group.num_kept,
        percent(group.share_kept),
        f"{percent(group.share_kept_low)} to {percent(group.share_kept_high)}",
        f"{group.ratio:.2f}" if group.ratio is not None else NOTHING,
        group.verdict,
        _forest(group) if known else None,
    )


def _forest(group: Group) -> Forest:
    """Places of the ratio and its interval; what lies beyond the scale stands at its end."""

    def place(ratio: float | None) -> float:
        ratio = min(_MOST_RATIO, max(1 / _MOST_RATIO, ratio if ratio is not None else 1.0))
        return round(FOREST_WIDTH / 2 * (1 + math.log(ratio) / math.log(_MOST_RATIO)), 2)

    return Forest(place(group.ratio_low), place(group.ratio_high), place(group.ratio))
