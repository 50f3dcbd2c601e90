"""What the page sends, checked; what it may not say is refused with one line."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from beholder.browse.conditions import condition_of
from beholder.browse.marks import Mark
from beholder.browse.session import Sort, Tab


def _as_text(value: str) -> str:
    """The same; JSON can write half a pair of surrogates, which no text holds, and NUL, at which texts end for databases."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it is no text in UTF-8") from None
    if "\0" in value:
        raise ValueError("it holds a NUL")
    return value


_Text = Annotated[str, Field(max_length=20_000), AfterValidator(_as_text)]
_Scalar = _Text | int | float | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ColumnFilter(_Strict):
    """A clicked filter on one column; see `condition_of`."""

    column: _Text
    kind: Literal["range", "contains", "in", "null", "not_null"]
    low: float | int | _Text | None = None
    high: float | int | _Text | None = None
    text: _Text = ""
    values: Annotated[list[_Scalar], Field(max_length=1000)] = []

    def sql(self) -> str:
        """As a condition."""
        more: dict[str, Any] = {"low": self.low, "high": self.high, "text": self.text, "values": self.values}
        return condition_of(self.column, self.kind, **more)


class ViewRequest(_Strict):
    """A score and conditions: the written ones, then the clicked ones."""

    score: _Text
    where: _Text = ""
    filters: Annotated[list[ColumnFilter], Field(max_length=100)] = []

    def conditions(self) -> list[str]:
        """All of them as SQL."""
        written = [self.where.strip()] if self.where.strip() else []
        return [*written, *(item.sql() for item in self.filters)]


class ListingRequest(_Strict):
    """A tab of a view, in an order."""

    view: _Text
    tab: Tab
    sort: Sort = "best"
    threshold: float = 0.0
    low: float | None = None
    high: float | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    stack: Annotated[int, Field(ge=0)] | None = None

    @property
    def bucket(self) -> tuple[float, float]:
        """Its ends, open where none is given."""
        return (-math.inf if self.low is None else self.low, math.inf if self.high is None else self.high)


MOST_MARKED = 10_000
"""Rows that are marked at once."""


class MarksRequest(_Strict):
    """Rows and what they are marked as."""

    rows: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MOST_MARKED)]
    mark: Literal["keep", "drop"] | None

    @property
    def wanted(self) -> Mark:
        """The mark."""
        return {"keep": Mark.KEEP, "drop": Mark.DROP, None: Mark.NONE}[self.mark]
