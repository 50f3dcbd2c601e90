"""Groups of near-duplicates as stacks of rows, the one that stays on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.browse.rows import RowStore, View
from beholder.curate.duplicates.group_files import open_groups
from beholder.errors import number_of
from beholder.scoreset.database import clear_errors, connect, interruptible

_AT_ONCE = 65_536
_MOST_LEFT_OUT = 1_000_000
"""Names that are looked for among the rows: those whose row the file does not tell, or tells wrongly."""


@dataclass(frozen=True)
class Stacks:
    """Groups of near-duplicates, each of at least two rows of the set, and rows near to a reference set; no row is in two.

    Attributes:
        source: the file, as the user named it.
        members: (M,) int64 rows, group after group, in each the one that stays first, then in the order of the file.
        edges: (G + 1,) int64: group g is members[edges[g]:edges[g + 1]].
        stays: (M,) bool whether each is the one that stays.
        similarity: (M,) float64 to that one, or to the reference; NaN where the file does not tell.
        reference: (M,) string, the picture of a reference set that each is near to; null for near-duplicates of one another.
        group_of: (N,) int32 the group of each row of the set, -1 for none.
        num_strangers: pictures of the file that are not among the rows, or are in a group of none else.
    """

    source: str
    members: npt.NDArray[np.int64]
    edges: npt.NDArray[np.int64]
    stays: npt.NDArray[np.bool_]
    similarity: npt.NDArray[np.float64]
    reference: pa.Array
    group_of: npt.NDArray[np.int32]
    num_strangers: int

    @property
    def num_groups(self) -> int:
        """Groups."""
        return len(self.edges) - 1

    @property
    def tops(self) -> npt.NDArray[np.int64]:
        """(G,) the first row of each group."""
        return self.members[self.edges[:-1]]

    def places(self, row: int) -> slice:
        """Where the group of a row stands in `members`; nowhere for a row without one."""
        group = int(self.group_of[row])
        if group < 0:
            return slice(0, 0)
        return slice(int(self.edges[group]), int(self.edges[group + 1]))

    def size(self, row: int) -> int:
        """How many rows the group of a row has."""
        found = self.places(row)
        return int(found.stop - found.start)

    def tops_in(self, view: View) -> npt.NDArray[np.int64]:
        """The first rows of those groups of which any row satisfies the view's conditions."""
        if view.inside is None or not self.num_groups:
            return self.tops
        return self.tops[np.logical_or.reduceat(view.inside[self.members], self.edges[:-1])]


def read_stacks(
    source: str, store: RowStore, rows_named: Callable[[Sequence[str]], dict[str, list[int]]], scratch: Path
) -> Stacks:
    """Read groups.

    Args:
        source: what `beholder select --groups-out` wrote.
        store: the rows.
        rows_named: gives the rows of names.
        scratch: a folder for what has to be converted.

    Raises:
        InputError: no such file, or one that holds no groups.
    """
    file = open_groups(source, scratch, with_references=True)
    connection = connect(scratch / "groups")
    try:
        with clear_errors(f"{source} cannot be read"):
            query = (
                f'SELECT dense_rank() OVER (ORDER BY "group") - 1 AS number, {file.sample} AS name, '
                f"{file.similarity} AS similar, "
                f"{file.kept} AS stays, {file.row} AS row, {file.reference} AS reference FROM {file.table} "
                f'WHERE "group" IS NOT NULL ORDER BY {file.place}'
            )
            table: pa.Table = interruptible(connection, lambda: connection.sql(query).to_arrow_table())
    finally:
        connection.close()
    rows = _rows_of(table, store, rows_named)
    number = table.column("number").to_numpy().astype(np.int64)
    stays = table.column("stays").to_numpy(zero_copy_only=False).astype(bool)
    similarity = table.column("similar").to_numpy(zero_copy_only=False).astype(np.float64)
    used = np.flatnonzero(rows >= 0)
    used = np.sort(used[np.unique(rows[used], return_index=True)[1]])  # a row that is there again counts once
    reference = table.column("reference").combine_chunks()
    is_near = reference.is_valid().to_numpy(zero_copy_only=False)
    used = used[(np.bincount(number[used], minlength=1)[number[used]] > 1) | is_near[used]]
    used = used[np.lexsort((used, ~stays[used], number[used]))]
    starts = np.flatnonzero(np.append(True, np.diff(number[used]) != 0)) if len(used) else np.empty(0, np.int64)
    edges = np.append(starts, len(used)).astype(np.int64)
    group_of = np.full(store.num_rows, -1, np.int32)
    group_of[rows[used]] = np.repeat(np.arange(len(starts)), np.diff(edges))
    return Stacks(
        source=source,
        members=rows[used],
        edges=edges,
        stays=stays[used],
        similarity=similarity[used],
        reference=reference.take(pa.array(used)),
        group_of=group_of,
        num_strangers=table.num_rows - len(used),
    )


def stacks_warning(stacks: Stacks | None) -> str | None:
    """What is to be said of groups that are not shown whole; None: nothing."""
    if stacks is None or (stacks.num_groups and not stacks.num_strangers):
        return None
    if not stacks.num_groups:
        return f"--groups {stacks.source} holds no group of two pictures of these scores, so no stacks are shown"
    were = number_of(stacks.num_strangers, "picture is", "pictures are")
    return f"{were} left out of --groups {stacks.source}: not among these rows, or in a group of no other"


def _rows_of(
    table: pa.Table, store: RowStore, rows_named: Callable[[Sequence[str]], dict[str, list[int]]]
) -> npt.NDArray[np.int64]:
    """(M,) the row of each picture of the file: as the file tells where that row has the name, else by name; -1 for none."""
    told = table.column("row").fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.full(table.num_rows, -1, np.int64)
    names = table.column("name")
    for start in range(0, table.num_rows, _AT_ONCE):
        part = told[start : start + _AT_ONCE]
        at = start + np.flatnonzero((part >= 0) & (part < store.num_rows))
        mine = names.take(pa.array(at)).to_pylist()
        same = np.array([one == other for one, other in zip(mine, store.samples(told[at]), strict=True)], bool)
        rows[at[same]] = told[at[same]]
    left = np.flatnonzero(rows < 0)[:_MOST_LEFT_OUT]
    wanted = names.take(pa.array(left)).to_pylist()
    found = rows_named([name for name in wanted if name is not None])
    for at, name in zip(left.tolist(), wanted, strict=True):
        if name in found:
            rows[at] = found[name][0]
    return rows
