"""A table of near-duplicates in (what `beholder select --dedup` writes); its counts and the first few groups out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from beholder import columns, storage
from beholder.curation.database import all_rows, first_row, refused
from beholder.errors import InputError
from beholder.reporting.rows import rows_named
from beholder.scores import foreign
from beholder.scores.score_set import parquet_of

if TYPE_CHECKING:
    import duckdb

_MOST_MEMBERS = 8


@dataclass(frozen=True)
class Member:
    """One picture of a group.

    Attributes:
        sample: its name.
        row: its row in the score set, or None where the set has no such name.
        similarity: to the picture of the group that stays, or None where the table does not tell.
        is_kept: whether it is the one that stays.
    """

    sample: str
    row: int | None
    similarity: float | None
    is_kept: bool


@dataclass(frozen=True)
class Group:
    """One group: its size and the first of its members, those that stay first, then the most similar."""

    size: int
    members: list[Member]


@dataclass(frozen=True)
class Groups:
    """All groups: how many, how many pictures they hold and drop, and the largest of them."""

    source: str
    num_groups: int
    num_pictures: int
    num_dropped: int
    shown: list[Group]

    @property
    def rows(self) -> list[int]:
        """Rows of the members that are shown and in the set."""
        return [member.row for group in self.shown for member in group.members if member.row is not None]


def read_groups(connection: duckdb.DuckDBPyConnection, source: str, num_groups: int, scratch: Path) -> Groups:
    """Read the largest groups. Raises InputError."""
    import duckdb

    if not storage.exists(source):
        raise InputError(f"{source} does not exist; near-duplicate groups are written by: beholder select ... --dedup 0.95")
    types = {"group": pa.int64(), "similarity": pa.float64(), "kept": pa.bool_(), "row": pa.int64()}
    path = foreign.as_parquet(source, scratch / "groups.parquet", types)
    with storage.open_parquet(str(path)) as file:
        file.check_dictionaries(source)
        names = file.schema_arrow.names
    missing = [name for name in ("group", columns.SAMPLE) if name not in names]
    if missing:
        raise InputError(f"{source} has no column {missing[0]!r}; --groups takes the groups that `beholder select` wrote")
    row = "CAST(row AS BIGINT)" if "row" in names else "CAST(NULL AS BIGINT)"
    kept = "coalesce(CAST(kept AS BOOLEAN), false)" if "kept" in names else "false"
    similarity = "CAST(similarity AS DOUBLE)" if "similarity" in names else "CAST(NULL AS DOUBLE)"
    table = parquet_of([path])
    order = "stays DESC, alike DESC NULLS LAST, name"
    try:
        counted = first_row(
            connection,
            f'SELECT count(DISTINCT "group"), count(*), count(*) FILTER (WHERE NOT {kept}) FROM {table} '
            f'WHERE "group" IS NOT NULL',
        )
        lines = all_rows(
            connection,
            f'WITH large AS (SELECT "group" AS number, count(*) AS size FROM {table} WHERE "group" IS NOT NULL '
            f"GROUP BY 1 ORDER BY size DESC, number LIMIT {num_groups}) "
            "SELECT CAST(number AS VARCHAR), size, "
            f"CAST({columns.SAMPLE} AS VARCHAR) AS name, {similarity} AS alike, {kept} AS stays, {row} "
            f'FROM {table} JOIN large ON "group" = number '
            f"QUALIFY row_number() OVER (PARTITION BY number ORDER BY {order}) <= {_MOST_MEMBERS} "
            f"ORDER BY size DESC, number, {order}",
        )
    except duckdb.Error as error:
        raise refused(f"{source} cannot be read", error) from None
    assert counted is not None
    rows = rows_named(connection, [name for _, _, name, _, _, row in lines if name is not None and row is None])
    shown: dict[str, Group] = {}
    for number, size, name, alike, stays, place in lines:
        group = shown.setdefault(number, Group(size, []))
        group.members.append(Member(name or "", rows.get(name) if place is None else place, alike, bool(stays)))
    num_all, num_pictures, num_dropped = (int(count) for count in counted)
    return Groups(source, num_all, num_pictures, num_dropped, list(shown.values()))
