"""A score set: scored rows of a folder, file, glob or table in a fixed order, read piece by piece or by DuckDB."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.errors import InputError
from beholder.io import storage
from beholder.io.records import json_value
from beholder.io.schemas import as_texts, common_schema, in_type, is_number, usual_type
from beholder.io.tables import header_of
from beholder.kernels.ordering import Chosen
from beholder.models.catalog import DEFAULT_HEAD
from beholder.scoreset import foreign
from beholder.scoreset.mixed import all_sources, check_one_head, differences

if TYPE_CHECKING:
    import duckdb

ROW = "beholder_row"
"""Column of `ScoreSet.register`'s view: the row's place in the set, from 0."""

_SPAN = 256
"""Rows that are looked up together among those left out: more would be slow where every other row is."""
_PATTERN = re.compile(r"([*?\[])")

_DUCKDB_NAMES = {"file_index", "file_row_number", ROW}

_V1_HEAD = "sa_0_4_vit_l_14_linear"
KNOWN_SCORE_COLUMNS: dict[str, str | None] = {
    columns.AESTHETIC_SCORE: None,
    "AESTHETIC_SCORE": DEFAULT_HEAD,
    "aesthetic_score_laion_v2": DEFAULT_HEAD,
    "aesthetic": _V1_HEAD,
    "score": None,
}
"""Names of score columns in other people's tables, and the head behind them where it is known: LAION's
improved_aesthetics sets, COYO-700M, LAION's aesthetic sets of version 1 (docs/formats.md)."""


@dataclass(frozen=True, kw_only=True)
class ScoreSet:
    """Scored rows in a fixed order: that of the files, natural by name, and of the rows in each.

    Attributes:
        source: as the user named it, for messages.
        files: local Parquet files in row order; () for a table in memory.
        table: the rows, where they were given as a data frame.
        row_counts: rows of each file (one number for a table).
        schema: all columns of all files, by the names they have there.
        sample_column: which of them names the rows.
        score_columns: which of them are scores, at least one; float32 or float64, NULL or NaN where there is none.
        head_names: score column -> the head it is by, or None where nobody says.
        record: what the set says about itself (docs/formats.md); {} for other people's.
        rejects: Parquet files of rejected rows; () when there are none.
        embeddings: where the embeddings of these rows were kept, or None.
        untyped: columns that come from a CSV: text, exactly as it stands there, which may be meant as numbers.
        notes: lines about the set that should be told.
        hidden: a column of the files called `sample` that is not of the set, since another was said to name its rows; or None.
        left_out: (K,) uint32, ascending places in the files of rows that are not of the set: nothing reads them, and the rows
            behind them move up.
    """

    source: str
    files: tuple[Path, ...] = ()
    table: pa.Table | None = None
    row_counts: tuple[int, ...]
    schema: pa.Schema
    sample_column: str
    score_columns: tuple[str, ...]
    head_names: dict[str, str | None] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    rejects: tuple[str, ...] = ()
    embeddings: str | None = None
    untyped: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    hidden: str | None = None
    left_out: npt.NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32), compare=False)

    @property
    def num_rows(self) -> int:
        """Rows of all files, but those left out."""
        return sum(self.row_counts) - len(self.left_out)

    def whole(self) -> ScoreSet:
        """The same set with the rows that are left out."""
        return replace(self, left_out=np.empty(0, np.uint32)) if len(self.left_out) else self

    @property
    def metadata_columns(self) -> list[str]:
        """All columns but the sample and the scores, in order."""
        return [name for name in self.schema.names if name != self.sample_column and name not in self.score_columns]

    def head_record(self, column: str) -> dict[str, Any]:
        """The head of a score column, as the record describes it, else its name alone, which is None where nobody says it."""
        return heads_recorded(self.record).get(column) or {"name": self.head_names.get(column)}

    def batches(self, names: Sequence[str], *, num_rows: int = 1 << 20) -> Iterator[pa.Table]:
        """Rows in order, `names` of `schema` as columns, at most `num_rows` at a time; memory does not grow with the set.

        A file that lacks a column gives nulls. Types are those of `schema`.
        """
        batches = self._all_batches(names, num_rows)
        if not len(self.left_out):
            yield from batches
            return
        at, left_out = 0, Chosen(self.left_out)
        for table in batches:
            mask = np.ones(table.num_rows, np.bool_)
            mask[left_out.inside(at, table.num_rows)] = False
            yield self._named(table, at).filter(pa.array(mask))
            at += table.num_rows

    def _named(self, table: pa.Table, first: int) -> pa.Table:
        """Rows of the files from `first` on, where names are texts with those that are missing."""
        if self.sample_column not in table.column_names or not self._has_texts_for_names:
            return table
        column, at = table.column(self.sample_column), table.column_names.index(self.sample_column)
        return table.set_column(at, table.schema.field(at), self.names_in(column, first).cast(column.type))

    @property
    def _has_texts_for_names(self) -> bool:
        kind = self.schema.field(self.sample_column).type
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

    def _all_batches(self, names: Sequence[str], num_rows: int) -> Iterator[pa.Table]:
        """`batches` with the rows that are left out."""
        wanted = pa.schema([self.schema.field(name) for name in names])
        if self.table is not None:
            for start in range(0, self.table.num_rows, num_rows):
                yield self.table.select(list(names)).slice(start, num_rows)
            return
        for path in self.files:
            with storage.open_parquet(str(path)) as file:
                present = [name for name in names if name in file.schema_arrow.names]
                for batch in file.iter_batches(batch_size=num_rows, columns=present):
                    yield _as_schema(batch, wanted)

    def scores(self, name: str) -> npt.NDArray[np.float32]:
        """A score column as (N,) float32, NaN where there is no score. 4 bytes a row."""
        found = np.empty(self.num_rows, np.float32)
        at = 0
        for batch in self.batches([name]):
            column = pc.fill_null(batch.column(0).cast(pa.float32(), safe=False), float("nan"))
            found[at : at + len(column)] = column.to_numpy()
            at += len(column)
        if at != self.num_rows:
            raise InputError(f"{self.source}: {at:,} rows were read where {self.num_rows:,} were counted; did a file change?")
        return found

    def samples(self) -> Iterator[pa.ChunkedArray]:
        """Names of the rows in order, as large strings; a row without a name is called after its place, `#17`."""
        at = 0
        for batch in self.batches([self.sample_column]):
            yield self.names_in(batch.column(0), at)
            at += batch.num_rows

    def names_in(self, column: pa.ChunkedArray, first: int) -> pa.ChunkedArray:
        """The sample column of rows from `first` on, as `samples` gives it. Raises InputError for bytes that are no text."""
        try:
            names = as_texts(column)
        except pa.ArrowInvalid:
            raise InputError(
                f"{self.source}: column {self.sample_column!r} ({column.type}) has bytes that are no UTF-8 text, so it cannot "
                "name rows; name another with --sample-column"
            ) from None
        if not names.null_count:
            return names
        return pc.coalesce(names, pa.array([f"#{row}" for row in range(first, first + len(names))], pa.large_string()))

    def register(self, connection: duckdb.DuckDBPyConnection, view: str = "scores") -> None:
        """Make the set known to DuckDB as `view`: all columns under their names, `sample` among them, and ROW (BIGINT).

        Reading by DuckDB is out of core; rows may come in any order, so put results in order by ROW. Raises InputError for a
        column that unpacks to far more than the file holds.
        """
        if not len(self.left_out):
            self._register_all(connection, view)
            return
        self._register_all(connection, f"{view}_all")
        connection.register(f"{view}_given", _kept_ranges(self.left_out, sum(self.row_counts)))
        connection.execute(
            f"CREATE TABLE {view}_ranges AS FROM {view}_given"
        )  # of known size: the join reads it, not the set, first
        connection.unregister(f"{view}_given")
        changed = [f"a.{ROW} - s.num_before AS {ROW}"]
        if self._has_texts_for_names:
            changed.append(f"coalesce(a.{columns.SAMPLE}, '#' || a.{ROW}) AS {columns.SAMPLE}")
        connection.execute(
            f"CREATE VIEW {view} AS SELECT a.* REPLACE ({', '.join(changed)}) FROM {view}_all AS a JOIN {view}_ranges AS s "
            f"ON a.{ROW} // {_SPAN} = s.span AND a.{ROW} >= s.start AND a.{ROW} < s.stop"
        )

    def _register_all(self, connection: duckdb.DuckDBPyConnection, view: str) -> None:
        """`register` with the rows that are left out."""
        renamed = [] if self.sample_column == columns.SAMPLE else [f"{quoted(self.sample_column)} AS {columns.SAMPLE}"]
        every = "*" if self.hidden is None else f"* EXCLUDE ({quoted(self.hidden)})"
        if self.table is not None:
            numbered = self.table.append_column(ROW, pa.array(np.arange(self.table.num_rows, dtype=np.int64)))
            connection.register(f"{view}_rows", numbered)
            connection.execute(f"CREATE VIEW {view} AS SELECT {', '.join([every, *renamed])} FROM {view}_rows")
            return
        for path in self.files:
            with storage.open_parquet(str(path)) as file:
                file.check_dictionaries(self.source, all_encodings=True)
        starts = [0, *accumulate(self.row_counts)][:-1]
        row = f"file_row_number + ([{', '.join(map(str, starts))}]::BIGINT[])[file_index::BIGINT + 1] AS {ROW}"
        names = ", ".join([every, *renamed, row])
        connection.execute(f"CREATE VIEW {view} AS SELECT {names} FROM {parquet_of(self.files, 'union_by_name')}")


def _kept_ranges(left_out: npt.NDArray[np.uint32], num_rows: int) -> pa.Table:
    """Rows [start, stop) that are not left out, with how many are left out before them, for each span that they reach into.

    The span is what DuckDB joins rows and ranges by.
    """
    starts = np.concatenate([[0], left_out.astype(np.int64) + 1])
    stops = np.concatenate([left_out.astype(np.int64), [num_rows]])
    before = np.arange(len(starts))
    some = starts < stops
    starts, stops, before = starts[some], stops[some], before[some]
    first = starts // _SPAN
    counts = (stops - 1) // _SPAN - first + 1
    which = np.repeat(np.arange(len(starts)), counts)
    spans = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    return pa.table({"span": spans, "start": starts[which], "stop": stops[which], "num_before": before[which]})


def as_score(threshold: float) -> np.float32:
    """A threshold as scores are: rounded to float32, so that 5.1 keeps what is stored, and printed, as 5.1."""
    with np.errstate(over="ignore"):
        return np.float32(threshold)


def quoted(name: str) -> str:
    """A column's name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def text_literal(text: str) -> str:
    """A text as SQL takes it."""
    return "'" + text.replace("'", "''") + "'"


def parquet_of(paths: Sequence[Path], *options: str) -> str:
    """Exactly these files, as SQL takes them: no name is a pattern, and no folder called `year=2020` makes a column.

    Args:
        paths: local Parquet files.
        options: of DuckDB's `read_parquet` that are to be true.
    """
    names = ", ".join(text_literal(_PATTERN.sub(r"[\1]", str(path))) for path in paths)
    return f"read_parquet([{names}], {', '.join(['hive_partitioning = false', *(f'{name} = true' for name in options)])})"


@contextlib.contextmanager
def open_scores(
    source: str | pa.Table, *, score_column: str | None = None, sample_column: str | None = None
) -> Iterator[ScoreSet]:
    """Open scores; what had to be converted (CSV, remote files) stands in a temporary folder until the end.

    Args:
        source: the output of `beholder score` (a folder, .parquet or .csv), any Parquet or CSV file with a column of scores,
            a folder or glob of such files, local or remote; or an Arrow table.
        score_column: the column with scores; None: what the set itself says, else a known name.
        sample_column: the column that names rows; None: found by its usual names.

    Raises:
        InputError: nothing there, no scores in it, files that do not fit together.
    """
    scratch = Path(tempfile.mkdtemp(prefix="beholder-scores-"))
    try:
        yield _opened(source, score_column, sample_column, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _opened(source: str | pa.Table, score_column: str | None, sample_column: str | None, scratch: Path) -> ScoreSet:
    if isinstance(source, pa.Table):
        source = _usual_table(source)
        schema, record = source.schema, record_in(source.schema)
        found = _columns_of(schema, record, "the table", score_column, sample_column)
        seen = _without_hidden(schema, found)
        return ScoreSet(source="the table", table=source, row_counts=(source.num_rows,), schema=seen, record=record, **found)
    place = foreign.find_scores(source)
    own, beside = _valid_record(place.record), _sidecars(place)
    first_text = own or next((found for found in beside.values() if found), {})
    types = dict.fromkeys(_scores_in_csv(place, first_text, score_column), pa.float64())
    files = tuple(foreign.as_parquet(path, scratch / f"{i:06d}.parquet", types) for i, path in enumerate(place.files))
    schemas, counts = [], []
    for path, name in zip(files, place.files, strict=True):
        with storage.open_parquet(str(path)) as file:
            schemas.append(file.schema_arrow)
            counts.append(file.metadata.num_rows)
        if not schemas[-1].names:
            raise InputError(f"{name} has no columns; leave it out")
    schemas = _with_ranges(files, schemas)
    records = [] if own else _records(place.files, schemas, beside)
    record = own or next((found for _, found in records if found), {})
    untyped = {
        item.name
        for path, schema in zip(place.files, schemas, strict=True)
        if foreign.is_csv(path)
        for item in schema
        if item.name not in types
    }
    named = {score_column} if score_column is not None else _score_names([n for s in schemas for n in s.names], record)
    schema = _unified(schemas, untyped, named, source)
    files, fitted = _refit(files, schemas, schema, untyped, scratch)
    untyped |= fitted
    chosen = _columns_of(schema, record, source, score_column, sample_column)
    heads = [
        (name, {column: head for column, head in heads_recorded(found).items() if column in chosen["score_columns"]})
        for name, found in records
    ]
    check_one_head(source, heads)
    for path, name in zip(files, place.files, strict=True):
        with storage.open_parquet(str(path)) as file:
            file.check_dictionaries(name, [chosen["sample_column"], *chosen["score_columns"]])
    return ScoreSet(
        source=source,
        files=files,
        row_counts=tuple(counts),
        schema=_without_hidden(schema, chosen),
        record=all_sources(records, record),
        rejects=place.rejects,
        embeddings=place.embeddings,
        untyped=frozenset(untyped - {chosen["sample_column"], chosen["hidden"]}),
        **{**chosen, "notes": (*place.notes, *differences(records), *chosen["notes"])},
    )


def _sidecars(place: foreign.ScorePlace) -> dict[str, dict[str, Any]]:
    """What stands beside each CSV file of a set that has no record of its own; {} where nothing of ours does."""
    names = [] if place.record else [name for name in place.files if foreign.is_csv(name)]
    return {name: _valid_record(foreign.read_sidecar(name)) for name in names}


def _records(
    names: Sequence[str], schemas: Sequence[pa.Schema], beside: Mapping[str, dict[str, Any]]
) -> list[tuple[str, dict[str, Any]]]:
    """The different records that files of a set have inside, or beside them, each once, with the first file that has it."""
    found: dict[Any, tuple[str, dict[str, Any]]] = {}
    for name, schema in zip(names, schemas, strict=True):
        if name in beside:
            found.setdefault(json.dumps(beside[name], sort_keys=True), (name, beside[name]))
        elif (data := (schema.metadata or {}).get(b"beholder", b"")) not in found:
            found[data] = (name, record_in(schema))
    return list(found.values())


def _without_hidden(schema: pa.Schema, chosen: dict[str, Any]) -> pa.Schema:
    """The columns that are of the set."""
    return schema if chosen["hidden"] is None else schema.remove(schema.get_field_index(chosen["hidden"]))


def _scores_in_csv(place: foreign.ScorePlace, record: dict[str, Any], score_column: str | None) -> list[str]:
    """The columns of the set's CSV files that are scores: those alone are read as numbers."""
    texts = [path for path in place.files if foreign.is_csv(path)]
    if not texts:
        return []
    names = list(dict.fromkeys(name for path in texts for name in header_of(path)))
    return [score_column] if score_column is not None else _score_names(names, record)


def _score_names(names: Sequence[str], record: dict[str, Any]) -> list[str]:
    """Which of the columns are scores: those that the set's record names, else the first known name."""
    found = [name for name in heads_recorded(record) if name in names]
    return found or [name for name in KNOWN_SCORE_COLUMNS if name in names][:1]


def heads_recorded(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Score column -> what the record of a set, or of a list, says about its head; columns without a word are left out."""
    columns, heads = record.get("score_columns") or [], record.get("heads") or []
    return {name: head for name, head in zip(columns, heads, strict=False) if isinstance(head, dict)}


def _with_ranges(files: Sequence[Path], schemas: Sequence[pa.Schema]) -> list[pa.Schema]:
    """The schemas with small integers marked in columns that are integers in one file and something else in another."""
    whole = [{item.name for item in schema if pa.types.is_integer(item.type)} for schema in schemas]
    others = {name for schema, some in zip(schemas, whole, strict=True) for name in schema.names if name not in some}
    marked = []
    for path, schema, some in zip(files, schemas, whole, strict=True):
        if mixed := some & others:
            with storage.open_parquet(str(path)) as file:
                schema = file.schema_with_ranges(mixed)
        marked.append(schema)
    return marked


def _unified(schemas: Sequence[pa.Schema], untyped: Collection[str], scores: Collection[str], source: str) -> pa.Schema:
    """All columns of all files, as the parts of one run are joined (`schemas.common_schema`).

    A column that is text in a CSV and something else elsewhere is text; numbers that are scores are fractional.

    Args:
        schemas: of the files, small integers marked.
        untyped: columns of a CSV, which are text.
        scores: columns of scores.
        source: as the user named the set.

    Raises:
        InputError: a column of scores is one of numbers in one file only.
    """
    for name in scores:
        held = {item.type for schema in schemas for item in schema if item.name == name and not pa.types.is_null(item.type)}
        others = [kind for kind in held if not is_number(kind)]
        if others and len(held) > len(others):
            number = next(kind for kind in held if is_number(kind))
            raise InputError(
                f"{source}: files do not fit together: column {name!r} is {number} in one and {others[0]} in another"
            )
    usual = []
    for schema in schemas:
        kinds = [usual_type(item.type, item.name) for item in schema]
        for at, (name, kind) in enumerate(zip(schema.names, kinds, strict=True)):
            if name in untyped and not pa.types.is_nested(kind):
                kinds[at] = pa.large_string()
            elif len(schemas) > 1 and name in scores and (pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
                kinds[at] = pa.float64()
        usual.append(pa.schema([item.with_type(kind) for item, kind in zip(schema, kinds, strict=True)], schema.metadata))
    return usual[0] if len(usual) == 1 else common_schema(usual).with_metadata(usual[0].metadata)


def _refit(
    files: Sequence[Path], schemas: Sequence[pa.Schema], wanted: pa.Schema, untyped: Collection[str], scratch: Path
) -> tuple[tuple[Path, ...], set[str]]:
    """The files, those anew in `scratch` of which DuckDB would change values when it reads all of them as one table.

    Returns:
        The files, and the columns that are text in the new ones.
    """
    held: dict[str, list[pa.DataType]] = {}
    for item in (item for schema in schemas for item in schema):
        held.setdefault(item.name, []).append(item.type)
    texts = {item.name for item in wanted if _is_text(item.type) and not all(map(_is_text, held[item.name]))} - set(untyped)
    floats = {item.name for item in wanted if _would_round(held[item.name]) and pa.types.is_floating(item.type)}
    made, fitted = [], set()
    for number, (path, schema) in enumerate(zip(files, schemas, strict=True)):
        changed = {item.name for item in schema if item.name in texts and not _is_text(item.type)}
        fitted |= changed
        changed |= {item.name for item in schema if item.name in floats and pa.types.is_integer(item.type)}
        made.append(foreign.refitted(path, scratch / f"{number:06d}-fitted.parquet", wanted, changed) if changed else path)
    return tuple(made), fitted


def _is_text(kind: pa.DataType) -> bool:
    kind = usual_type(kind)
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _would_round(kinds: Sequence[pa.DataType]) -> bool:
    """Whether whole numbers stand beside fractions of at most 32 bits, which DuckDB makes all of them."""
    floats = [kind.bit_width for kind in kinds if pa.types.is_floating(kind)]
    return bool(floats) and max(floats) < 64 and any(map(pa.types.is_integer, kinds))


def _usual_table(table: pa.Table) -> pa.Table:
    """The table in types that Arrow computes with and DuckDB takes from memory."""
    for i, item in enumerate(table.schema):
        kind = pa.float32() if pa.types.is_float16(item.type) else usual_type(item.type, item.name)
        if kind != item.type:
            table = table.set_column(i, item.with_type(kind), in_type(table.column(i), kind))
    return table


def record_in(schema: pa.Schema) -> dict[str, Any]:
    """What a file of ours says about itself; {} for others."""
    try:
        return _valid_record(json_value((schema.metadata or {}).get(b"beholder", b"{}")))
    except ValueError:
        return {}


def _valid_record(found: Any) -> dict[str, Any]:
    """A record without the parts about scores that are not as we write them; {} for what is none."""
    if not isinstance(found, dict):
        return {}
    names, heads = found.get("score_columns"), found.get("heads")
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    are_heads = isinstance(heads, list) and all(
        isinstance(head, dict) and isinstance(head.get("name"), str | None) for head in heads
    )
    wrong = {key for key, is_right in (("score_columns", are_names), ("heads", are_heads)) if not is_right}
    return {key: value for key, value in found.items() if key not in wrong}


def _columns_of(
    schema: pa.Schema, record: dict[str, Any], source: str, score_column: str | None, sample_column: str | None
) -> dict[str, Any]:
    """`sample_column`, `score_columns` and `head_names` of a set. Raises InputError."""
    names = schema.names
    taken = next((name for name in names if name.lower() in _DUCKDB_NAMES), None)
    if taken is not None:
        raise InputError(f"{source} has a column {taken!r}, a name that is needed for reading; rename it")
    first: dict[str, str] = {}
    for name in names:  # SQL looks at no case
        before = first.setdefault(name.lower(), name)
        if before == name and names.count(name) > 1:
            raise InputError(f"{source} has two columns named {name!r}; rename one")
        if before != name:
            raise InputError(f"{source} has columns {before!r} and {name!r}, which differ in case only; rename one")
    is_said = sample_column is not None
    if sample_column is None:
        sample_column = next((name for name in columns.SAMPLE_COLUMN_NAMES if name in names), None)
    if sample_column is None or sample_column not in names:
        wanted = f"no column {sample_column!r}" if sample_column else "no column that names rows (sample, key, path, url, ...)"
        raise InputError(f"{source} has {wanted}; it has {', '.join(names[:20])}; name one with --sample-column")
    hidden = first.get(columns.SAMPLE) if sample_column.lower() != columns.SAMPLE else None
    if hidden is not None and not is_said:
        raise InputError(
            f"{source} has a column {hidden!r} beside {sample_column!r}, which is to name the rows; rename one, "
            "or choose with --sample-column"
        )
    if hidden is not None:
        names = [name for name in names if name != hidden]
    try:
        as_texts(pa.chunked_array([pa.nulls(1, schema.field(sample_column).type)]))
    except pa.ArrowNotImplementedError:
        kind = schema.field(sample_column).type
        raise InputError(
            f"{source}: column {sample_column!r} is {kind}, which cannot name rows; name another with --sample-column"
        ) from None
    heads = {name: head.get("name") for name, head in heads_recorded(record).items()}
    if score_column is not None:
        if score_column not in names:
            raise InputError(f"{source} has no column {score_column!r}; it has {', '.join(names[:20])}")
        found = [score_column]
    else:
        found = _score_names(names, record)
    if not found:
        raise InputError(
            f"{source} has no column of scores that is known; it has {', '.join(names[:20])}; name it with --score-column"
        )
    for name in found:
        kind = schema.field(name).type
        if not is_number(kind):
            raise InputError(f"{source}: column {name!r} is no column of numbers but {kind}; name another with --score-column")
    note = f"{source}: column {hidden!r} is left out, since --sample-column says that {sample_column!r} names the rows"
    return {
        "sample_column": sample_column,
        "hidden": hidden,
        "notes": () if hidden is None else (note,),
        "score_columns": tuple(found),
        "head_names": {name: heads.get(name) or KNOWN_SCORE_COLUMNS.get(name) for name in found},
    }


def _as_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """The rows with exactly these columns and types; those they lack are null."""
    given = dict(zip(batch.schema.names, pa.table(batch).columns, strict=True))
    ready = [
        in_type(given[item.name], item.type) if item.name in given else pa.nulls(batch.num_rows, item.type) for item in schema
    ]
    return pa.table(ready, schema=schema)
