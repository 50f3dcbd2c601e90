"""A CSV or TSV table in; its columns as the text that stands there (as other types where asked for), piece by piece, out."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beholder.errors import InputError, reason_of
from beholder.io import storage
from beholder.io.text import is_utf16, open_text, read_head

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.csv

_BLOCK_BYTES = 8 << 20
_MOST_HEADER_BYTES = 1 << 20
_OTHER_DELIMITERS = (";", "\t", "|", ",")
_COPY_BYTES = 1 << 22
_NOT_OF_TYPE = re.compile(r"In CSV column #(\d+)\D.*CSV conversion error to (\w+)", re.DOTALL)
"""How Arrow says that a value is not of the type that was asked for."""


class MisfitError(Exception):
    """A value that is not of the type that was asked for.

    Attributes:
        column: the column's name.
    """

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def delimiter_of(path: str) -> str:
    """What separates the fields, by the file's suffix."""
    return "\t" if storage.without_query(path).lower().endswith(".tsv") else ","


def check_names(names: Sequence[str], path: str) -> None:
    """Raise InputError for a table with two columns of one name: reading by name would take either."""
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise InputError(f"{path} has two columns named {twice!r}; rename one")


@contextlib.contextmanager
def open_table(
    path: str, types: Mapping[str, pa.DataType], *, empty_is_null: bool = False
) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """The table's schema and its rows, in pieces of a few MiB of text; memory does not grow with the file.

    Columns are large strings, exactly as they stand in the file (quotes undone), but for those in `types`: there, empty
    fields and `nan` are null.

    Args:
        path: a .csv (commas) or .tsv (tabs) file with a row of column names, UTF-8 or marked UTF-16, local or remote.
        types: column -> the type it is read as; names that the table lacks count for nothing.
        empty_is_null: whether an empty field of a text column is null (one in quotes never is); else it is an empty text.

    Raises:
        InputError: what cannot be read as such a table, two columns of one name.
        MisfitError: while the rows are read, for a value that is not of its column's type.
    """
    import pyarrow as pa

    with contextlib.ExitStack() as opened:
        local = _local_file(path, opened)
        names, num_lines = _header(path)
        kinds = _types_of(names, types)
        if not num_lines:
            yield pa.schema(list(kinds.items())), iter(())
            return
        with _clear_errors(path, names):
            reader = _reader(local, path, names, num_lines, kinds, empty_is_null)
        opened.callback(reader.close)
        yield reader.schema, _batches(reader, path, names)


def _types_of(names: Sequence[str], types: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    import pyarrow as pa

    return {name: types.get(name, pa.large_string()) for name in names}


def _local_file(path: str, opened: contextlib.ExitStack) -> str:
    """A file of this machine with the same text, in UTF-8.

    Arrow reads ahead in threads that may outlive a failure, to the end of the process. They must hold nothing of Python's
    (a buffer or file object): letting go of it when the interpreter has ended already aborts the process.
    """
    if storage.is_local(path) and not is_utf16(storage.read_range(path, 0, 4)):
        with storage.remote_errors(path), storage.open_binary(path):
            return str(storage.local_path(path))
    local = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="beholder-table-"))) / "table.csv"
    with storage.remote_errors(path), open_text(path) as source, local.open("wb") as file:
        shutil.copyfileobj(source, file, _COPY_BYTES)
    return str(local)


def header_of(path: str) -> list[str]:
    """The column names. Raises InputError for what is no such table, and for two columns of one name.

    A column without a name is called by its place: `column_1`.
    """
    return _header(path)[0]


def _header(path: str) -> tuple[list[str], int]:
    """The column names, and how many lines they take: 0 where nothing comes after them, no line end either."""
    head, is_whole = read_head(path, _MOST_HEADER_BYTES)
    if not head:
        raise InputError(f"{path} is empty (0 bytes)")
    if b"\0" in head:
        raise InputError(f"{path} cannot be read as CSV: it is no text, it holds zero bytes")
    ends = [at for mark in (b"\n", b"\r") if (at := head.find(mark)) >= 0]
    if not ends and not is_whole:
        raise InputError(f"{path} cannot be read as CSV: its first line is longer than {_MOST_HEADER_BYTES >> 20} MiB")
    delimiter = delimiter_of(path)
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(head), "utf-8-sig", "replace", newline=""), delimiter=delimiter)
    try:
        names = next((row for row in rows if row), None)
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV: its row of column names: {reason_of(error)}") from None
    num_lines = rows.line_num
    if names is None:
        raise InputError(f"{path} cannot be read as CSV: it has no row of column names")
    if any("\ufffd" in name for name in names):
        raise InputError(f"{path} cannot be read as CSV: its column names are no UTF-8 text; save the file as UTF-8")
    line = head[: min(ends, default=len(head))].decode("utf-8-sig", "replace")
    _check_delimiter(line, names, path, delimiter)
    names = [name or _free_name(at, names) for at, name in enumerate(names, 1)]
    check_names(names, path)
    is_all = is_whole and not head.endswith((b"\n", b"\r")) and not any(True for _ in rows)
    return names, 0 if is_all else num_lines


def _free_name(number: int, names: Sequence[str]) -> str:
    """What a column without a name is called, as pandas writes its index: `column_1` for the first one."""
    name = f"column_{number}"
    while name in names:
        name += "_"
    return name


def _check_delimiter(line: str, names: Sequence[str], path: str, delimiter: str) -> None:
    """Refuse a table whose first line is a single field that another delimiter would tell apart. Raises InputError.

    The rows are not asked: with commas in numbers or captions they have more fields than that line.
    """
    if len(names) != 1:
        return
    found = next((mark for mark in _OTHER_DELIMITERS if mark != delimiter and mark in names[0]), None)
    if found is not None:
        raise InputError(
            f"{path} cannot be read as CSV: its fields look separated by {found!r} where {delimiter!r} is expected "
            f"(.csv: commas, .tsv: tabs); its first line is {line[:80]!r}{'...' if len(line) > 80 else ''}"
        )


def _reader(
    local: str, path: str, names: list[str], num_lines: int, kinds: dict[str, pa.DataType], empty_is_null: bool
) -> pyarrow.csv.CSVStreamingReader:
    import pyarrow as pa
    import pyarrow.csv

    no_values = [""] if empty_is_null else ["", "nan", "NaN"]
    return pa.csv.open_csv(
        pa.OSFile(local, "rb"),
        read_options=pa.csv.ReadOptions(block_size=_BLOCK_BYTES, column_names=names, skip_rows=num_lines),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter_of(path), newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types=kinds,
            strings_can_be_null=empty_is_null,
            quoted_strings_can_be_null=not empty_is_null,
            null_values=no_values,
        ),
    )


def _batches(reader: pyarrow.csv.CSVStreamingReader, path: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    while True:
        with _clear_errors(path, names):
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
        yield batch


@contextlib.contextmanager
def _clear_errors(path: str, names: Sequence[str]) -> Iterator[None]:
    """Turn what Arrow raises into one line, or a MisfitError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, UnicodeError) as error:
        said = _NOT_OF_TYPE.search(str(error))
        name = names[int(said[1])] if said is not None and int(said[1]) < len(names) else None
        if said is not None and name is not None and "string" not in said[2]:
            raise MisfitError(name) from None
        if "UTF8" in str(error):
            where = f"column {name!r} holds bytes that are" if name is not None else "it holds bytes that are"
            raise InputError(f"{path} cannot be read as CSV: {where} no UTF-8 text; save the file as UTF-8") from None
        raise InputError(f"{path} cannot be read as CSV: {reason_of(error)}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f"{path} cannot be read as CSV: {reason_of(error)}") from None
