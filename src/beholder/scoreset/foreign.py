"""What lies where a user says that scores are: their files, record, rejects and kept embeddings; tables as Parquet."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beholder import columns
from beholder.errors import InputError
from beholder.io import locations, records, remote, storage
from beholder.io.schemas import fit_column
from beholder.io.tables import MisfitError, check_names, open_table

_PARQUET, _CSV = (".parquet", ".pq"), (".csv", ".tsv")
_NO_SCORES = (columns.REJECTS_FOLDER, columns.EMBEDDINGS_FOLDER, columns.IMAGES_FOLDER, columns.METADATA_FOLDER)
"""Folders of a run or of a set of embeddings that hold tables without scores."""


@dataclass(frozen=True)
class ScorePlace:
    """What lies where the user pointed.

    Attributes:
        files: Parquet or CSV files with scores, in natural order; at least one.
        record: of a run of `beholder score`; {} for other people's.
        rejects: Parquet files of rejected rows.
        embeddings: a set of embeddings that was kept beside the scores, or None.
        notes: a line for each run that is not finished.
    """

    files: list[str]
    record: dict[str, Any] = field(default_factory=dict)
    rejects: tuple[str, ...] = ()
    embeddings: str | None = None
    notes: tuple[str, ...] = ()


def find_scores(source: str) -> ScorePlace:
    """Look at a folder, file or glob, local or remote. Raises InputError when there are no scores."""
    if not source:
        raise InputError("the name of the scores is empty (an unset variable?)")
    if storage.is_glob(source) and not (locations.is_local(source) and storage.exists(source)):
        return _matches(source)
    base = source.rstrip("/") or source
    if storage.is_folder(base):
        return _folder(run_of(base))
    if not storage.exists(base):
        raise InputError(f"{source} does not exist; name what `beholder score` wrote, or a Parquet or CSV file with scores")
    if not _is_table(base):
        raise InputError(
            f"{source}: scores are read from .parquet, .csv or a folder of them; is it what `beholder score` wrote?"
        )
    rejects, kept = base + columns.REJECTS_SUFFIX, f"{base}.{columns.EMBEDDINGS_FOLDER}"
    return ScorePlace(
        [base],
        read_sidecar(base),
        (rejects,) if storage.exists(rejects) else (),
        kept if storage.is_folder(kept) else None,
    )


def _matches(pattern: str) -> ScorePlace:
    """What a glob names: tables, and folders of runs."""
    format_of = functools.cache(_format_of)
    start = len(_fixed_part(pattern))
    names_private = "/_" in _as_listed(pattern)[max(start - 1, 0) :] or _as_listed(pattern)[start:].startswith("_")
    tables, runs = [], []
    for path in storage.expand_glob(pattern):
        if (_is_private(path[start:]) and not names_private) or _is_no_score_of_a_set(path, start, format_of):
            continue
        if storage.is_folder(path):
            run = run_of(path.rstrip("/"))
            runs += [run] if format_of(run) == columns.SCORE_SET_FORMAT else []
        elif _is_table(path) and not path.endswith(columns.REJECTS_SUFFIX):
            tables.append(path)
    places = [_folder(run) for run in sorted(set(runs), key=locations.natural_key)]
    files = list(dict.fromkeys([*tables, *(path for place in places for path in place.files)]))
    if not files:
        raise InputError(
            f"nothing that matches {pattern} is a Parquet or CSV file with scores, or a folder of `beholder score`"
        )
    if len(places) == 1 and len(files) == len(places[0].files):
        return places[0]
    rejects = tuple(path for place in places for path in place.rejects)
    notes = tuple(note for place in places for note in place.notes)
    return ScorePlace(sorted(files, key=locations.natural_key), rejects=rejects, notes=notes)


def _fixed_part(pattern: str) -> str:
    """The folders of a glob before its first wildcard, with the slash, as its matches begin with them."""
    whole = _as_listed(pattern)
    return whole[: whole.rfind("/", 0, min(at for mark in "*?[" if (at := whole.find(mark)) >= 0)) + 1]


def _as_listed(path: str) -> str:
    """A folder or glob as the names of what is in it begin."""
    if locations.is_local(path):
        return str(locations.local_path(path))
    fs, inner = remote.filesystem(path)
    return str(fs.unstrip_protocol(inner))


def _is_private(inside: str) -> bool:
    """Whether a path, relative to what the user named, has a name that readers of a folder of tables leave out."""
    return any(piece.startswith(("_", ".")) for piece in inside.split("/"))


def _is_no_score_of_a_set(path: str, start: int, format_of: Callable[[str], Any]) -> bool:
    """Whether a file lies in the folder of a run or of embeddings, and holds none of its scores.

    Args:
        path: of the file.
        start: where the part of it begins that the user's pattern left open.
        format_of: folder -> the format in its record, or None; asked only where a name below it is one that sets use.
    """
    pieces = path[start:].split("/")
    for number, piece in enumerate(pieces[:-1]):
        if piece in _NO_SCORES:
            folder = (path[:start] + "/".join(pieces[:number])).rstrip("/") or "."
            if format_of(folder) in (columns.SCORE_SET_FORMAT, columns.EMBEDDINGS_FORMAT):
                return True
    return False


def run_of(folder: str) -> str:
    """The run that a folder means: the one above it for the `scores/` of a run, else the folder itself; local or remote."""
    if not locations.is_local(folder):
        above, _, name = folder.rpartition("/")
    elif os.path.basename(folder) in ("", ".", "..", "~"):  # noqa: PTH119
        above, name = f"{folder}/..", os.path.basename(os.path.abspath(locations.local_path(folder)))  # noqa: PTH100, PTH119
    else:
        above, name = os.path.split(folder)
    above = above or "."
    if name != columns.SCORES_FOLDER or above.endswith(":/") or storage.exists(f"{folder}/{columns.STAMP_FILE}"):
        return folder
    return above if _format_of(above) == columns.SCORE_SET_FORMAT else folder


def _format_of(folder: str) -> Any:
    """The format in the record of a folder, or None."""
    return read_record(f"{folder}/{columns.STAMP_FILE}").get("format")


def _folder(base: str) -> ScorePlace:
    """A run's folder, or any folder of tables, or of runs."""
    record = read_record(f"{base}/{columns.STAMP_FILE}")
    if record.get("format") == columns.EMBEDDINGS_FORMAT:
        raise InputError(f"{base} holds embeddings, no scores; score them first: beholder score {base}")
    inside = f"{base}/{columns.SCORES_FOLDER}"
    is_run = record.get("format") == columns.SCORE_SET_FORMAT or (
        storage.is_folder(inside) and not storage.exists(f"{inside}/{columns.STAMP_FILE}")
    )
    runs, tables = _below(inside if is_run else base)
    files = sorted([*tables, *(path for paths in runs.values() for path in paths)], key=locations.natural_key)
    if not files:
        raise InputError(f"{base} holds no Parquet or CSV files with scores; name what `beholder score` wrote")
    stranger = next((path for path in tables if runs and not storage.exists(path + columns.SIDECAR_SUFFIX)), None)
    if stranger is not None:
        raise InputError(f"{base} holds scores of a run ({min(runs)}) beside another table ({stranger}); name those you mean")
    if len(runs) == 1 and not tables:
        return _folder(*runs)
    if len({is_csv(name) for name in files}) > 1:
        raise InputError(f"{base} holds both CSV and Parquet files; name those you mean, for example '{base}/*.parquet'")
    kept = f"{base}/{columns.EMBEDDINGS_FOLDER}"
    all_runs = [base] if is_run else sorted(runs, key=locations.natural_key)
    return ScorePlace(
        files,
        record,
        tuple(path for run in all_runs for path in rejects_of(run)),
        kept if is_run and storage.is_folder(kept) else None,
        tuple(note for run in all_runs if (note := _unfinished(run))),
    )


def _unfinished(run: str) -> str:
    """A line about a run in a folder of which not all shards are done; "" where they are, or where nothing tells."""
    record = read_record(f"{run}/{columns.STAMP_FILE}")
    planned = record.get(columns.PLANNED)
    num_shards = planned.get("shards") if isinstance(planned, Mapping) else None
    if type(num_shards) is not int:
        return ""
    markers = storage.list_files(f"{run}/{columns.DONE_FOLDER}")
    names = (path.rpartition("/")[2] for path in markers if path.endswith(".json"))
    num_done = sum(not name.startswith(columns.KEPT_NAME) for name in names)
    if num_done >= num_shards:
        return ""
    return f"{run} is not finished: {num_done:,} of {num_shards:,} shards are done, and the rows of the others are missing here"


def rejects_of(run: str) -> list[str]:
    """The tables of rejects in the folder of a run, in natural order."""
    folder = f"{run}/{columns.REJECTS_FOLDER}"
    found = storage.list_files(folder) if storage.is_folder(folder) else []
    return sorted((path for path in found if path.endswith(".parquet")), key=locations.natural_key)


def _below(folder: str) -> tuple[dict[str, list[str]], list[str]]:
    """Look at all files below a folder: of a run only its scores count, of a set of embeddings nothing.

    Returns:
        Folders of runs with their tables of scores, and the tables that lie in no run.
    """
    start = len(_as_listed(folder).rstrip("/")) + 1
    found = [path for path in storage.list_files(folder) if not _is_private(path[start:])]
    formats = {path: read_record(path).get("format") for path in found if path.endswith(columns.STAMP_FILE)}
    runs: dict[str, list[str]] = {}
    tables = []
    for path in found:
        if not _is_table(path) or path.endswith(columns.REJECTS_SUFFIX):
            continue
        if formats.get(path + columns.SIDECAR_SUFFIX) == columns.EMBEDDINGS_FORMAT:
            continue
        ends = (at for at in range(start, len(path)) if path[at] == "/")
        sets = ((path[:at], formats.get(f"{path[:at]}/{columns.STAMP_FILE}")) for at in ends)
        own = next(((at, kind) for at, kind in sets if kind in (columns.SCORE_SET_FORMAT, columns.EMBEDDINGS_FORMAT)), None)
        if own is None:
            tables.append(path)
        elif own[1] == columns.SCORE_SET_FORMAT and path.startswith(f"{own[0]}/{columns.SCORES_FOLDER}/"):
            runs.setdefault(own[0], []).append(path)
    return runs, tables


def _is_table(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (*_PARQUET, *_CSV)


def read_record(path: str) -> dict[str, Any]:
    """The record in a file beside or in a set; {} where there is none of ours. Raises InputError for a damaged one."""
    if not storage.exists(path):
        return {}
    data = storage.read_range(path, 0, storage.size(path))
    try:
        return records.parse(data)
    except records.DamagedRecordError as error:
        if records.looks_ours(data):
            raise InputError(f"{path} is damaged: {error}; restore it, or remove it to go without the record") from None
        return {}


def read_sidecar(path: str) -> dict[str, Any]:
    """The record beside a file of scores; {} where there is none. Raises InputError for a damaged one."""
    return read_record(path + columns.SIDECAR_SUFFIX)


def is_csv(path: str) -> bool:
    """Whether a table is text, by its suffix."""
    return PurePosixPath(path).suffix.lower() in _CSV


def as_parquet(path: str, target: Path, types: Mapping[str, pa.DataType] | None = None) -> Path:
    """A local Parquet file with the same rows: `path` itself where it is one, else `target`, made of it.

    Columns of a CSV are the text that stands there, but for those in `types`; of these, too, one that holds something else.

    Args:
        path: a Parquet or CSV file.
        target: a file to make.
        types: columns of a CSV -> the type they are read as; empty fields and `nan` are null there.

    Raises:
        InputError: no such table, two columns of one name.
    """
    if not is_csv(path):
        if locations.is_local(path):
            file = locations.local_path(path)
        else:
            file = target
            with remote.read_errors(path), storage.open_binary(path) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 22)
        with storage.open_parquet(str(file)) as opened:
            check_names(opened.schema_arrow.names, path)
        return file
    asked = dict(types or {})
    while True:
        try:
            with open_table(path, asked) as (schema, batches), pq.ParquetWriter(target, schema, compression="zstd") as writer:
                for batch in batches:
                    writer.write_batch(batch)
            return target
        except MisfitError as misfit:
            del asked[str(misfit)]


def refitted(path: Path, target: Path, schema: pa.Schema, names: Collection[str]) -> Path:
    """Write `target`: the rows of a Parquet file, with the columns `names` of the types that they have in `schema`."""
    with storage.open_parquet(str(path)) as file:
        fitted = pa.schema([schema.field(item.name) if item.name in names else item for item in file.schema_arrow])
        with pq.ParquetWriter(target, fitted, compression="zstd") as writer:
            for batch in file.iter_batches():
                columns_of_batch = zip(pa.table(batch).columns, fitted.types, strict=True)
                writer.write_table(pa.table([fit_column(column, kind) for column, kind in columns_of_batch], schema=fitted))
    return target


Back = Callable[[pa.Table], Any]


def as_source(given: Any, function: str) -> tuple[str | pa.Table, Back]:
    """What `score_set.open_scores` takes, and how tables become what was given (Arrow for paths).

    Args:
        given: a path, or a frame: polars (lazy too), pandas, Arrow, or anything with Arrow's stream interface.
        function: the name of the caller's function, for messages.

    Raises:
        TypeError: something else.
        InputError: a frame that Arrow cannot hold.
    """
    if isinstance(given, str | PathLike):
        return fspath(given), _same
    home = type(given).__module__.split(".", 1)[0]
    try:
        if isinstance(given, pa.Table):
            return given, _same
        if home == "polars" and hasattr(given, "lazy"):
            import polars

            return given.lazy().collect().to_arrow(), polars.from_arrow
        if home == "pandas" and hasattr(given, "columns"):
            odd = [name for name in given.columns if not isinstance(name, str)]
            if odd:
                raise InputError(f"the frame has a column named {odd[0]!r}, which is no text; rename it")
            return pa.Table.from_pandas(given, preserve_index=False), pa.Table.to_pandas
        is_table = isinstance(given, pa.RecordBatch) or (hasattr(given, "__arrow_c_stream__") and hasattr(given, "columns"))
        if is_table or isinstance(given, pa.RecordBatchReader):  # a column of polars has the interface, too
            return pa.table(given), _same
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"the frame cannot be read: {' '.join(str(error).split())[:300]}") from None
    raise TypeError(f"{function}() takes a path or a polars, pandas or Arrow table, not {type(given).__name__}")


def _same(table: pa.Table) -> Any:
    return table


def texts_of(given: Any, name: str, function: str) -> tuple[str, ...]:
    """One text or path, or a list of them. Raises TypeError for anything else."""
    items = (given,) if isinstance(given, str | PathLike) else given
    if not isinstance(items, list | tuple | set | frozenset) or not all(isinstance(item, str | PathLike) for item in items):
        kind = type(given).__name__
        raise TypeError(f"{function}() takes texts and paths for {name}, no {kind}; write a frame to a file and name that")
    return tuple(fspath(item) for item in items)
