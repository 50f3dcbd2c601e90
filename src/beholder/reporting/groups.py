"""A table of near-duplicates in (what `beholder select --dedup` writes); its counts and the first few groups out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from beholder.curate.duplicates.group_files import open_groups
from beholder.reporting.rows import VIEW, rows_named
from beholder.scoreset.database import all_rows, first_row, refused
from beholder.scoreset.sample_lists import NAME

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


def read_groups(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    num_groups: int,
    scratch: Path,
    *,
    by_name: bool = False,
    only_known: bool = False,
) -> Groups:
    """Read the largest groups. Raises InputError.

    by_name: whether members are found by their names alone, as in a set that leaves rows out: `row` counts those as well.
    only_known: whether groups count only that have a picture in the set (the view `VIEW`).
    """
    import duckdb

    file = open_groups(source, scratch)
    table, kept, similarity = file.table, file.kept, file.similarity
    row = "CAST(NULL AS BIGINT)" if by_name else file.row
    known = '"group" IS NOT NULL'
    if only_known:
        known += f' AND "group" IN (SELECT "group" FROM {table} WHERE {file.sample} IN (SELECT {NAME} FROM {VIEW}))'
    order = "stays DESC, alike DESC NULLS LAST, name"
    try:
        counted = first_row(
            connection,
            f'SELECT count(DISTINCT "group"), count(*), count(*) FILTER (WHERE NOT {kept}) FROM {table} WHERE {known}',
        )
        lines = all_rows(
            connection,
            f'WITH large AS (SELECT "group" AS number, count(*) AS size FROM {table} WHERE {known} '
            f"GROUP BY 1 ORDER BY size DESC, number LIMIT {num_groups}) "
            "SELECT CAST(number AS VARCHAR), size, "
            f"{file.sample} AS name, {similarity} AS alike, {kept} AS stays, {row} "
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
