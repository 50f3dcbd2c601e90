"""The place of scores in, the files that hold them, as Parquet, and what belongs to them (record, rejects, embeddings) out."""

from __future__ import annotations

import contextlib
import csv
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from beholder import columns, records, storage
from beholder.errors import InputError

_PARQUET, _CSV = (".parquet", ".pq"), (".csv", ".tsv")
_OTHER_DELIMITERS = (";", "\t", "|", ",")
_NOT_OF_TYPE = re.compile(r"In CSV column #(\d+).* CSV conversion error to (\w+)")
"""How Arrow says that a value is not of the type that the first ones had."""


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
        _read_record(base + columns.SIDECAR_SUFFIX),
        (rejects,) if storage.exists(rejects) else (),
        kept if storage.is_folder(kept) else None,
    )


def _folder(base: str) -> ScorePlace:
    """A run's folder, or any folder of tables."""
    record = _read_record(f"{base}/{columns.STAMP_FILE}")
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


def _read_record(path: str) -> dict[str, Any]:
    if not storage.exists(path):
        return {}
    data = storage.read_range(path, 0, storage.size(path))
    try:
        return records.parse(data)
    except records.DamagedRecordError as error:
        if records.looks_ours(data):
            raise InputError(f"{path} is damaged: {error}; restore it, or remove it to go without the record") from None
        return {}


def as_parquet(path: str, target: Path, *, texts: Collection[str] = (), numbers: Collection[str] = ()) -> Path:
    """A local Parquet file with the same rows: `path` itself where it is one, else `target`, made of it.

    Args:
        path: a Parquet or CSV file.
        target: a file to make.
        texts: columns of a CSV that are text whatever they look like, beside those that name rows.
        numbers: columns of a CSV that are numbers, even where they are empty.

    Raises InputError.
    """
    if PurePosixPath(path).suffix.lower() in _PARQUET:
        if storage.is_local(path):
            return storage.local_path(path)
        with storage.open_binary(path) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 22)
        return target
    parsing = pa.csv.ParseOptions(delimiter="\t" if path.lower().endswith(".tsv") else ",", newlines_in_values=True)
    try:
        with contextlib.ExitStack() as opened:
            _check_delimiter(opened.enter_context(storage.open_binary(path)), path, parsing.delimiter)
            known = {*columns.SAMPLE_COLUMN_NAMES, *texts}
            _convert(lambda: opened.enter_context(storage.open_binary(path)), parsing, target, known, numbers)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} cannot be read as CSV: {' '.join(str(error).split())[:300]}") from None
    return target


def _convert(
    opened: Callable[[], Any], parsing: pa.csv.ParseOptions, target: Path, texts: Collection[str], numbers: Collection[str]
) -> None:
    """CSV to Parquet, piece by piece; `nan` and empty fields are null numbers.

    Every reader gets a file of its own (`opened`): Arrow's read ahead in a thread that goes on after they have failed.

    Whole numbers stay whole. Where a later row does not fit, it is read again: fractions after whole numbers, else as text.
    """
    header = pa.csv.open_csv(opened(), parse_options=parsing, read_options=pa.csv.ReadOptions(block_size=1 << 20)).schema
    kinds = {name: pa.large_string() for name in header.names if name in texts}
    for item in header:
        is_empty = pa.types.is_null(item.type)
        if item.name not in kinds and item.name in numbers and (is_empty or pa.types.is_integer(item.type)):
            kinds[item.name] = pa.float64()
        elif is_empty:
            kinds[item.name] = pa.large_string()
    while True:
        try:
            _write(opened(), parsing, target, kinds)
            return
        except pa.ArrowInvalid as error:
            said = _NOT_OF_TYPE.search(str(error))
            name = header.names[int(said[1])] if said is not None else None
            if said is None or name is None or kinds.get(name) == pa.large_string():
                raise
            kinds[name] = pa.float64() if said[2] == "int64" else pa.large_string()


def _check_delimiter(source: IO[bytes], path: str, delimiter: str) -> None:
    """Refuse a table whose first line is a single field that another delimiter would tell apart. Raises InputError.

    The rows are not asked: with commas in numbers or captions they have more fields than that line.
    """
    line = re.split("[\r\n]", source.readline(1 << 16).decode("utf-8-sig", "replace"), maxsplit=1)[0]
    names = next(csv.reader([line], delimiter=delimiter), [])
    if len(names) != 1:
        return
    found = next((mark for mark in _OTHER_DELIMITERS if mark != delimiter and mark in names[0]), None)
    if found is not None:
        raise InputError(
            f"{path} cannot be read as CSV: its fields look separated by {found!r} where {delimiter!r} is expected "
            f"(.csv: commas, .tsv: tabs); its first line is {line[:80]!r}{'...' if len(line) > 80 else ''}"
        )


def _write(source: Any, parsing: pa.csv.ParseOptions, target: Path, kinds: dict[str, pa.DataType]) -> None:
    reader = pa.csv.open_csv(
        source,
        read_options=pa.csv.ReadOptions(block_size=8 << 20),
        parse_options=parsing,
        convert_options=pa.csv.ConvertOptions(column_types=kinds, strings_can_be_null=False, null_values=["", "nan", "NaN"]),
    )
    with pq.ParquetWriter(target, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
