"""The lists that users ask of a selection, checked before any work and written at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

import pyarrow as pa

from beholder import columns
from beholder.curate.select.options import OutputOptions
from beholder.curate.select.records import selection_record
from beholder.curate.select.selection import Selection
from beholder.errors import InputError, OutputError
from beholder.io import storage
from beholder.io.tables import write_table

_KINDS = {
    "--out": (".txt", ".csv", ".parquet", ".jsonl"),
    "--decisions-out": (".csv", ".parquet", ".jsonl"),
    "--dropped-out": (".txt", ".csv", ".parquet", ".jsonl"),
    "--groups-out": (".csv", ".parquet", ".jsonl"),
}


def check_outputs(options: OutputOptions, source: str) -> None:
    """Raise OutputError or InputError before any work for lists that could not be written."""
    seen: dict[str, str] = {}
    for flag, path in _asked(options).items():
        kind = PurePosixPath(path).suffix.lower()
        if kind not in _KINDS[flag]:
            raise InputError(f"{flag} {path}: a list is written as {', '.join(_KINDS[flag])}; the name's end says which")
        if storage.is_folder(path):
            raise OutputError(f"{flag} {path} is a folder; name a file")
        if path in seen:
            raise InputError(f"{seen[path]} and {flag} both name {path}")
        seen[path] = flag
        if not storage.exists(path):
            continue
        if storage.is_local(path) and storage.is_local(source) and _is_part(path, source):
            raise OutputError(f"{flag} {path} is a file of the scores that are read; write to another one")
        if not options.overwrite:
            raise OutputError(f"{flag} {path} exists; choose another name, or replace it with --overwrite")


def _is_part(path: str, source: str) -> bool:
    """Whether a local file is the local source, or in it."""
    file, whole = storage.local_path(path).resolve(), storage.local_path(source).resolve()
    return file == whole or (whole.is_dir() and whole in file.parents and file.suffix in (".parquet", ".csv"))


def _asked(options: OutputOptions) -> dict[str, str]:
    given = {flag: getattr(options, flag.removeprefix("--").replace("-", "_")) for flag in _KINDS}
    return {flag: path for flag, path in given.items() if path is not None}


def write_lists(selection: Selection, options: OutputOptions, on_file: Callable[[str], None] | None = None) -> list[str]:
    """Write every list that was asked for; returns their paths."""
    asked = _asked(options)
    for flag, path in asked.items():
        if on_file is not None:
            on_file(path)
        only_samples = path.lower().endswith(".txt")
        if flag == "--out":
            tables: Iterable[pa.Table] = selection.kept_tables(only_samples=only_samples)
        elif flag == "--groups-out":
            tables = [selection.groups] if selection.groups is not None else []
        else:
            tables = selection.decision_tables(only_dropped=flag == "--dropped-out")
        write_table(path, tables, _schema(selection, flag, only_samples), selection_record(selection))
    return list(asked.values())


def _schema(selection: Selection, flag: str, only_samples: bool) -> pa.Schema:
    if flag == "--groups-out":
        assert selection.groups is not None
        return selection.groups.schema
    schema = selection.schema if flag == "--out" else selection.decision_schema
    return pa.schema([schema.field(columns.SAMPLE)]) if only_samples else schema
