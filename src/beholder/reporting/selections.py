"""What `beholder select` wrote beside its list: decisions on rows, and groups of near-duplicates."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder import columns
from beholder.columns import DROPPED_BY, KEPT, RANK
from beholder.curate.duplicates.group_files import open_groups
from beholder.curate.select.row_mask import Step
from beholder.errors import InputError
from beholder.io import storage
from beholder.io.schemas import is_number, is_text
from beholder.kernels.ordering import Chosen
from beholder.models.published import read_threshold
from beholder.reporting.heads import Rows
from beholder.reporting.rows import VIEW, rows_named
from beholder.scoreset import foreign
from beholder.scoreset.database import all_rows, first_row, refused
from beholder.scoreset.joined import NAME
from beholder.scoreset.score_set import ScoreSet, parquet_of, record_in, text_literal

if TYPE_CHECKING:
    import duckdb

_BATCH = 1 << 20
_CHECKED_ROWS = 1000
_NO_SINGLE_CUT = ("rank_by", "per", "balance", "sample")
"""Options of a selection that keep one row and drop a better one."""
_CUTS = ("quantile", "top", "top_share", "budget")
"""Rules whose lowest kept score the funnel tells."""
_BY_RANK = ("min_score", "max_score", "balance", "sample", *_CUTS)
"""Rules that look at scores, ranks and numbers of rows alone."""


@dataclass(frozen=True)
class Decisions:
    """What a selection decided about every row of a set.

    Attributes:
        source: the file, for messages.
        path: where it can be read as Parquet.
        kept: (N,) bool, in the order of the set.
        dropped: rows by the rule that dropped them, in the order of the rules where it is known.
        funnel: the steps, or [] where the file does not tell.
        threshold: the score below which nothing was kept, where the file tells one.
        score: the score it goes by, as its user named it, or None.
    """

    source: str
    path: Path
    kept: npt.NDArray[np.bool_]
    dropped: dict[str, int]
    funnel: list[Step]
    threshold: float | None
    score: str | None

    @property
    def num_kept(self) -> int:
        """Rows that were kept."""
        return int(np.count_nonzero(self.kept))


def read_decisions(source: str, scores: ScoreSet, scratch: Path, *, holds: npt.NDArray[np.bool_] | None = None) -> Decisions:
    """Read the file and check that it is about these rows. Raises InputError.

    holds: (N,) which of the rows are wanted; None: all. For some rows there is no funnel, as it counts all.
    """
    if not storage.exists(source):
        raise InputError(f"{source} does not exist; write it with: beholder select ... --decisions-out {source}")
    if source.lower().endswith(".txt"):
        raise _is_a_list(source)
    path = foreign.as_parquet(source, scratch / "decisions.parquet", {KEPT: pa.bool_(), RANK: pa.int64()})
    with storage.open_parquet(str(path)) as file:
        file.check_dictionaries(source, all_encodings=True)
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
        missing = [name for name in (columns.SAMPLE, KEPT) if name not in schema.names]
        if missing:
            raise InputError(
                f"{source} has no column {missing[0]!r}; --decisions takes what `beholder select --decisions-out` wrote"
            )
        _check_types(schema, source)
        of_all = len(scores.left_out) > 0 and num_rows == scores.num_rows + len(scores.left_out)
        if num_rows != scores.num_rows and not of_all:
            if num_rows < scores.num_rows and pc.all(file.read([KEPT]).column(0).cast(pa.bool_())).as_py():
                raise _is_a_list(source)
            raise InputError(
                f"{source} decides about {num_rows:,} rows, the scores have {scores.num_rows:,}; it is of another score set"
            )
    if of_all:  # rows that name a sample again are in no count of the report
        path = _without(path, scores.left_out, scratch / "decisions-once.parquet")
    _check_names(path, source, scores)
    num_rows = scores.num_rows
    if holds is not None:
        path = _without(path, np.flatnonzero(~holds).astype(np.uint32), scratch / "decisions-narrowed.parquet")
        num_rows = int(np.count_nonzero(holds))
    with storage.open_parquet(str(path)) as file:
        kept, dropped = np.empty(num_rows, bool), dict[str, int]()
        present = [name for name in (KEPT, DROPPED_BY) if name in schema.names]
        at = 0
        for batch in file.iter_batches(batch_size=_BATCH, columns=present):
            kept[at : at + len(batch)] = pc.fill_null(batch.column(KEPT).cast(pa.bool_()), False).to_numpy(zero_copy_only=False)
            at += len(batch)
            if DROPPED_BY in present:
                for item in pc.value_counts(batch.column(DROPPED_BY).cast(pa.string())).to_pylist():
                    if item["values"]:
                        dropped[item["values"]] = dropped.get(item["values"], 0) + item["counts"]
    record = record_in(schema)
    funnel = _funnel(record)
    order = {step.word: place for place, step in enumerate(funnel)}
    ordered = dict(sorted(dropped.items(), key=lambda item: (order.get(item[0], len(order)), -item[1])))
    shown = funnel if holds is None else []
    rules = record.get("rules")
    score = rules.get("score") if isinstance(rules, dict) else None
    return Decisions(source, path, kept, ordered, shown, _threshold(record, funnel), score if isinstance(score, str) else None)


def _without(path: Path, rows: npt.NDArray[np.uint32], target: Path) -> Path:
    """Decisions but those about these ascending rows, in a file of their own."""
    at, left_out = 0, Chosen(rows)
    with storage.open_parquet(str(path)) as file:
        names = [name for name in (columns.SAMPLE, KEPT, RANK, DROPPED_BY) if name in file.schema_arrow.names]
        schema = pa.schema([file.schema_arrow.field(name) for name in names])
        with pq.ParquetWriter(target, schema) as writer:
            for batch in file.iter_batches(batch_size=_BATCH, columns=names):
                mask = np.ones(len(batch), np.bool_)
                mask[left_out.inside(at, len(batch))] = False
                writer.write_table(pa.table(batch.filter(pa.array(mask))).select(names).cast(schema))
                at += len(batch)
    return target


def _is_a_list(source: str) -> InputError:
    return InputError(
        f"{source} lists rows that stay; --decisions takes what became of every row: "
        "run that `beholder select` again with --decisions-out FILE, and give FILE"
    )


def _check_types(schema: pa.Schema, source: str) -> None:
    """Raise InputError for columns that hold something else than decisions do."""
    for name in (KEPT, RANK, DROPPED_BY):
        if name not in schema.names:
            continue
        kind = schema.field(name).type if schema.names.count(name) == 1 else pa.list_(pa.null())
        if name == DROPPED_BY:
            is_right = is_text(kind) or pa.types.is_null(kind)
        else:
            has_no_cast = pa.types.is_decimal(kind) or pa.types.is_float16(kind)  # to truth, in Arrow
            is_right = pa.types.is_boolean(kind) or (is_number(kind) and not has_no_cast)
        if not is_right:
            what = f"{kind}" if schema.names.count(name) == 1 else "there twice"
            raise InputError(
                f"{source}: column {name!r} is {what}; --decisions takes what `beholder select --decisions-out` wrote"
            )


def _check_names(path: Path, source: str, scores: ScoreSet) -> None:
    """The first rows must have the same names. Raises InputError."""
    names = next(scores.samples(), None)
    if names is None or not scores.num_rows:
        return
    with storage.open_parquet(str(path)) as file:
        theirs = next(file.iter_batches(batch_size=_CHECKED_ROWS, columns=[columns.SAMPLE])).column(0).cast(pa.large_string())
    ours = names.slice(0, len(theirs))
    for row, (mine, other) in enumerate(zip(ours.to_pylist(), theirs.to_pylist(), strict=False)):
        if other is not None and mine != other:
            raise InputError(f"{source} is of another score set: row {row} is {other!r} there and {mine!r} in the scores")


def _funnel(record: dict[str, Any]) -> list[Step]:
    """The steps as the file tells them; [] for a file that tells none, or otherwise."""
    try:
        return [Step.from_json(step) for step in record.get("funnel") or []]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return []


def _threshold(record: dict[str, Any], funnel: list[Step]) -> float | None:
    """The score below which nothing was kept, where all rules that look at scores cut all rows at once."""
    rules = record.get("rules")
    if not isinstance(rules, dict) or any(rules.get(word) for word in _NO_SINGLE_CUT):
        return None
    value = rules.get("min_score")
    found = [float(value)] if isinstance(value, int | float) else []
    if isinstance(value, str):
        with contextlib.suppress(InputError):
            found = [read_threshold(value).value]
    found += [step.threshold for step in funnel if step.word in _CUTS and step.dropped and step.threshold is not None]
    return max(found, default=None)


def border_rows(connection: duckdb.DuckDBPyConnection, decisions: Decisions, count: int) -> tuple[Rows, Rows, Rows]:
    """Rows at the border of a selection, at most `count` of each kind.

    Returns:
        the lowest-ranked that were kept, lowest first; the best-ranked that rules about scores and numbers dropped; the
        best-ranked that other rules dropped.
    """
    nothing = np.empty(0, np.int64)
    with storage.open_parquet(str(decisions.path)) as file:
        names = file.schema_arrow.names
    if RANK not in names:
        return nothing, nothing, nothing
    rule = f"coalesce(CAST({DROPPED_BY} AS VARCHAR), '')" if DROPPED_BY in names else "''"
    ranked = ", ".join(text_literal(word) for word in _BY_RANK)

    def rows(condition: str, order: str) -> Rows:
        found = all_rows(
            connection,
            f"SELECT file_row_number FROM {_table(decisions)} WHERE {RANK} > 0 AND {condition} "
            f"ORDER BY {RANK} {order} LIMIT {count}",
        )
        return np.asarray([row for (row,) in found], np.int64)

    return (
        rows(KEPT, "DESC"),
        rows(f"NOT {KEPT} AND {rule} IN ({ranked}, '')", "ASC"),
        rows(f"NOT {KEPT} AND {rule} NOT IN ({ranked}, '')", "ASC"),
    )


def _table(decisions: Decisions) -> str:
    return parquet_of([decisions.path], "file_row_number")


def reasons_of(connection: duckdb.DuckDBPyConnection, decisions: Decisions, rows: list[int]) -> dict[int, str]:
    """The rule that dropped each of the rows, for those that were dropped."""
    with storage.open_parquet(str(decisions.path)) as file:
        if DROPPED_BY not in file.schema_arrow.names:
            return {}
    connection.register("wanted_rows", pa.table({"number": np.asarray(rows, np.int64)}))
    found = all_rows(
        connection,
        f"SELECT file_row_number, CAST({DROPPED_BY} AS VARCHAR) FROM {_table(decisions)} "
        f"WHERE file_row_number IN (SELECT number FROM wanted_rows) AND NOT {KEPT}",
    )
    return {row: text for row, text in found if text}


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
