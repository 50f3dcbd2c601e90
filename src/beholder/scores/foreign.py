"""The place of scores in, the files that hold them, as Parquet, and what belongs to them (record, rejects, embeddings) out."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beholder import columns, records, storage
from beholder.csv_tables import MisfitError, check_names, open_table
from beholder.errors import InputError
from beholder.schemas import fit_column

_PARQUET, _CSV = (".parquet", ".pq"), (".csv", ".tsv")


@dataclass(frozen=True)
class ScorePlace:
    """What lies where the user pointed.

    Attributes:
        files: Parquet or CSV files with scores, in natural order; at least one.
        record: of a run of `beholder score`; {} for other people's.
        rejects: Parquet files of rejected rows.
        embeddings: a set of embeddings that was kept beside the scores, or None.
    """

    files: list[str]
    record: dict[str, Any] = field(default_factory=dict)
    rejects: tuple[str, ...] = ()
    embeddings: str | None = None


def find_scores(source: str) -> ScorePlace:
    """Look at a folder, file or glob, local or remote. Raises InputError when there are no scores."""
    if not source:
        raise InputError("the name of the scores is empty (an unset variable?)")
    if storage.is_glob(source) and not (storage.is_local(source) and storage.exists(source)):
        found = sorted((name for name in storage.expand_glob(source) if _is_table(name)), key=storage.natural_key)
        if not found:
            raise InputError(f"nothing that matches {source} is a Parquet or CSV file")
        return ScorePlace(found)
    base = source.rstrip("/") or source
    if storage.is_folder(base):
        return _folder(base)
    if not storage.exists(base):
        raise InputError(f"{source} does not exist; name what `beholder score` wrote, or a Parquet or CSV file with scores")
    if not _is_table(base):
        raise InputError(
            f"{source}: scores are read from .parquet, .csv or a folder of them; is it what `beholder score` wrote?"
        )
    rejects, kept = base + columns.REJECTS_SUFFIX, f"{base}.{columns.EMBEDDINGS_FOLDER}"
    return ScorePlace(
        [base],
        read_record(base + columns.SIDECAR_SUFFIX),
        (rejects,) if storage.exists(rejects) else (),
        kept if storage.is_folder(kept) else None,
    )


def _folder(base: str) -> ScorePlace:
    """A run's folder, or any folder of tables."""
    record = read_record(f"{base}/{columns.STAMP_FILE}")
    if record.get("format") == columns.EMBEDDINGS_FORMAT:
        raise InputError(f"{base} holds embeddings, no scores; score them first: beholder score {base}")
    inside = f"{base}/{columns.SCORES_FOLDER}"
    is_run = storage.is_folder(inside)
    files = [name for name in storage.list_files(inside if is_run else base) if _is_table(name)]
    if not is_run:
        files = [name for name in files if not name.endswith(columns.REJECTS_SUFFIX)]
    if not files:
        raise InputError(f"{base} holds no Parquet or CSV files with scores; name what `beholder score` wrote")
    if len({PurePosixPath(name).suffix.lower() in _CSV for name in files}) > 1:
        raise InputError(f"{base} holds both CSV and Parquet files; name those you mean, for example '{base}/*.parquet'")
    rejects, kept = f"{base}/{columns.REJECTS_FOLDER}", f"{base}/{columns.EMBEDDINGS_FOLDER}"
    return ScorePlace(
        sorted(files, key=storage.natural_key),
        record,
        tuple(storage.list_files(rejects)) if is_run and storage.is_folder(rejects) else (),
        kept if is_run and storage.is_folder(kept) else None,
    )


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
        if storage.is_local(path):
            file = storage.local_path(path)
        else:
            file = target
            with storage.remote_errors(path), storage.open_binary(path) as source, target.open("wb") as copy:
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
            del asked[misfit.column]


def refitted(path: Path, target: Path, schema: pa.Schema, names: Collection[str]) -> Path:
    """Write `target`: the rows of a Parquet file, with the columns `names` of the types that they have in `schema`."""
    with storage.open_parquet(str(path)) as file:
        kinds = [schema.field(item.name).type if item.name in names else item.type for item in file.schema_arrow]
        fitted = pa.schema([item.with_type(kind) for item, kind in zip(file.schema_arrow, kinds, strict=True)])
        with pq.ParquetWriter(target, fitted, compression="zstd") as writer:
            for batch in file.iter_batches():
                columns_of_batch = zip(pa.table(batch).columns, kinds, strict=True)
                writer.write_table(pa.table([fit_column(column, kind) for column, kind in columns_of_batch], schema=fitted))
    return target
