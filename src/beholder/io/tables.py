"""Tables and texts in files: CSV, TSV, JSON lines and plain text are read piece by piece; tables are written as one file."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from beholder import columns
from beholder.errors import InputError, OutputError, reason_of
from beholder.io import locations, remote, schemas, storage, writing

if TYPE_CHECKING:
    from beholder.io.parquet import ParquetFile

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_PIECE_BYTES = 1 << 20


def is_utf16(head: bytes) -> bool:
    """Whether text begins with the byte order mark of UTF-16 (Excel's "Unicode text", PowerShell's `>`)."""
    return head.startswith(_UTF16_MARKS) and not head.startswith(_UTF32_MARKS)


def decoded(data: bytes, path: str, hint: str = "save the file as UTF-8") -> str:
    """The text of a whole file, without its byte order mark. Raises InputError for what is neither UTF-8 nor UTF-16."""
    if data.startswith(_UTF32_MARKS):
        raise InputError(f"{path} is UTF-32 text, which is not read; save the file as UTF-8")
    try:
        if is_utf16(data):
            return data.decode("utf-16")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if is_utf16(data):
            raise _damaged(path) from None
        line = 1 + data.count(b"\n", 0, error.start)
        likely = f"line {line}: byte 0x{data[error.start]:02x}, of Latin-1 or Windows-1252, perhaps"
        raise InputError(f"{path} is not UTF-8 text ({likely}); {hint}") from None
    if "\0" in text[:_PIECE_BYTES]:
        raise InputError(f"{path} is no text, it holds zero bytes (UTF-16 without its mark, perhaps); {hint}")
    return text


def read_head(path: str, num_bytes: int) -> tuple[bytes, bool]:
    """The text in the first `num_bytes` bytes of a file, in UTF-8 where it is UTF-16, and whether that is all of it."""
    head = storage.read_range(path, 0, num_bytes)
    is_whole = len(head) < num_bytes
    if is_utf16(head):
        try:
            head = codecs.getincrementaldecoder("utf-16")().decode(head, final=is_whole).encode()
        except UnicodeError:
            raise _damaged(path) from None
    return head, is_whole


def _damaged(path: str) -> InputError:
    return InputError(f"{path} is UTF-16 text that breaks off or is damaged; save the file as UTF-8")


def open_text(path: str) -> IO[bytes]:
    """A text file opened for reading bytes from front to back, in UTF-8 where it is UTF-16. Wrap reads in `read_errors`."""
    opened = storage.open_binary(path)
    try:
        with remote.read_errors(path):
            head = opened.read(4)
            opened.seek(0)
    except BaseException:
        opened.close()
        raise
    return cast("IO[bytes]", _Recoded(path, opened)) if is_utf16(head) else opened


class _Recoded(io.RawIOBase):
    """UTF-16 read as UTF-8. Raises InputError for what is no such text."""

    def __init__(self, path: str, opened: IO[bytes]) -> None:
        self._path, self._opened = path, opened
        self._decoder = codecs.getincrementaldecoder("utf-16")()
        self._waiting = b""
        self._is_finished = False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill `buffer` with what is at hand; 0 at the end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self._waiting and not self._is_finished:
            piece = self._opened.read(_PIECE_BYTES)
            self._is_finished = not piece
            try:
                self._waiting = self._decoder.decode(piece, final=not piece).encode()
            except UnicodeError:
                raise _damaged(self._path) from None
        count = min(len(view), len(self._waiting))
        view[:count], self._waiting = self._waiting[:count], self._waiting[count:]
        return count

    def close(self) -> None:
        """Let go of the file."""
        if not self.closed:
            self._opened.close()
        super().close()


_BLOCK_BYTES = 8 << 20
_MOST_HEADER_BYTES = 1 << 20
_OTHER_DELIMITERS = (";", "\t", "|", ",")
_COPY_BYTES = 1 << 22
_NOT_OF_TYPE = re.compile(r"In CSV column #(\d+)\D.*CSV conversion error to (\w+)", re.DOTALL)
"""How Arrow says that a value is not of the type that was asked for."""


class MisfitError(Exception):
    """A value that is not of the type that was asked for; its text is the column's name."""


def delimiter_of(path: str) -> str:
    """What separates the fields, by the file's suffix."""
    return "\t" if locations.without_query(path).lower().endswith(".tsv") else ","


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
    with contextlib.ExitStack() as opened:
        local = _local_file(path, opened)
        names, num_lines = _header(path)
        kinds = {name: types.get(name, pa.large_string()) for name in names}
        if not num_lines:
            yield pa.schema(list(kinds.items())), iter(())
            return
        with _clear_errors(path, names):
            reader = _reader(local, path, names, num_lines, kinds, empty_is_null)
        opened.callback(reader.close)
        yield reader.schema, _batches(reader, path, names)


def _local_file(path: str, opened: contextlib.ExitStack) -> str:
    """A file of this machine with the same text, in UTF-8.

    Arrow reads ahead in threads that may outlive a failure, to the end of the process. They must hold nothing of Python's
    (a buffer or file object): letting go of it when the interpreter has ended already aborts the process.
    """
    if locations.is_local(path) and not is_utf16(storage.read_range(path, 0, 4)):
        with remote.read_errors(path), storage.open_binary(path):
            return str(locations.local_path(path))
    local = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="beholder-table-"))) / "table.csv"
    with remote.read_errors(path), open_text(path) as source, local.open("wb") as file:
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
    try:
        yield
    except (pa.ArrowException, UnicodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        said = _NOT_OF_TYPE.search(str(error))
        name = names[int(said[1])] if said is not None and int(said[1]) < len(names) else None
        if said is not None and name is not None and "string" not in said[2]:
            raise MisfitError(name) from None
        if "UTF8" in str(error):
            where = f"column {name!r} holds bytes that are" if name is not None else "it holds bytes that are"
            raise InputError(f"{path} cannot be read as CSV: {where} no UTF-8 text; save the file as UTF-8") from None
        raise InputError(f"{path} cannot be read as CSV: {reason_of(error)}") from None


JSON_SUFFIXES = frozenset(("jsonl", "ndjson", "json"))
_JSON_PIECE_BYTES = 8 << 20
_MOST_LINE_BYTES = 256 << 20
_MOST_LIST_BYTES = 1 << 30
_HINT = "expected JSON lines: one object a line"


def read_objects(path: str, most_bytes: int | None = None) -> Iterator[list[dict[str, Any]]]:
    """The rows of a file, in lists of about 8 MiB of text.

    Args:
        path: UTF-8 or marked UTF-16, local or remote. Blank lines are passed over.
        most_bytes: only whole rows among the first bytes; None: all.

    Raises:
        InputError: a line that is no JSON object, named by its number.
    """
    head, _ = read_head(path, 1 << 10)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield _list_of_objects(path)
        return
    number = 0
    for lines in _lines(path, most_bytes):
        rows = []
        for line in lines:
            number += 1
            if line.strip():
                rows.append(_object(line, path, number))
        if rows:
            yield rows


def _lines(path: str, most_bytes: int | None) -> Iterator[list[bytes]]:
    """The lines of a file, in pieces."""
    rest, taken = b"", 0
    with remote.read_errors(path), open_text(path) as file:
        while True:
            wanted = _JSON_PIECE_BYTES if most_bytes is None else min(_JSON_PIECE_BYTES, most_bytes - taken)
            piece = file.read(wanted) if wanted > 0 else b""
            if not taken:
                piece = piece.removeprefix(b"\xef\xbb\xbf")
            taken += len(piece)
            if not piece:
                is_cut = wanted <= 0 and bool(file.read(1))
                if rest and not is_cut:
                    yield [rest]
                return
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            if len(rest) > _MOST_LINE_BYTES:
                raise InputError(f"{path}: a line is longer than {_MOST_LINE_BYTES >> 20} MiB; {_HINT}")
            if lines:
                yield lines


def _object(line: bytes, path: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except UnicodeDecodeError:
        raise InputError(f"{path}: line {number} is not UTF-8 text; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else " ".join(str(error).split())[:100]
        raise InputError(f"{path}: line {number} is not JSON ({why}); {_HINT}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: line {number} is a JSON {_word(found)}; {_HINT}")
    return _with_valid_keys(found)


def _with_valid_keys(row: dict[str, Any]) -> dict[str, Any]:
    r"""The row; halves of letters in its keys, which no column can be called, are escapes (`\ud800`), as they are in values."""
    if "".join(row).isascii():
        return row
    return {key.encode("utf-8", "backslashreplace").decode(): value for key, value in row.items()}


def _list_of_objects(path: str) -> list[dict[str, Any]]:
    if storage.size(path) > _MOST_LIST_BYTES:
        raise InputError(f"{path} is one JSON list of more than {_MOST_LIST_BYTES >> 30} GiB; write it as JSON lines (.jsonl)")
    with remote.read_errors(path), open_text(path) as file:
        data = file.read()
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:100]
        raise InputError(f"{path} is not JSON ({why}); {_HINT}, or a list of objects") from None
    for number, row in enumerate(found):
        if not isinstance(row, dict):
            raise InputError(f"{path}: entry {number} of the list is a JSON {_word(row)}; expected objects")
    return list(map(_with_valid_keys, found))


def _word(value: object) -> str:
    words = {list: "list", str: "text", bool: "truth value", int: "number", float: "number", type(None): "null"}
    return words.get(type(value), type(value).__name__)


_ROW_GROUP_ROWS = 1 << 20
_ROW_GROUP_BYTES = 64 << 20
"""A row group ends when it has so many rows or bytes; it is held in memory until then."""


class ParquetRows:
    """A Parquet file with row groups of bounded rows and bytes, written as its rows come, until the end of a `with`.

    Args:
        path: where, or a file that is open for writing.
        schema: of the file, with its metadata.
        most_rows, most_bytes: of a row group.
        options: of `pyarrow.parquet.ParquetWriter`.
    """

    def __init__(
        self,
        path: Path | IO[bytes],
        schema: pa.Schema,
        *,
        most_rows: int = _ROW_GROUP_ROWS,
        most_bytes: int = _ROW_GROUP_BYTES,
        **options: Any,
    ) -> None:
        self._schema, self._most_rows, self._most_bytes = schema, most_rows, most_bytes
        self._writer = pq.ParquetWriter(path, schema, write_page_checksum=True, **options)
        self._waiting: list[pa.Table] = []
        self._num_rows = self._num_bytes = 0

    def write(self, table: pa.Table) -> None:
        """Take rows of the file's columns."""
        for piece in schemas.pieces_of(table, self._most_bytes // 4):
            self._waiting.append(piece)
            self._num_rows += piece.num_rows
            self._num_bytes += schemas.num_bytes_of(piece)
            while self._num_rows >= self._most_rows or self._num_bytes >= self._most_bytes:
                self._flush()

    def _flush(self) -> None:
        """Write what waits, but no more than the rows of one row group."""
        table = pa.concat_tables(self._waiting).replace_schema_metadata(self._schema.metadata)
        self._writer.write_table(table.slice(0, self._most_rows), row_group_size=self._most_rows)
        rest = table.slice(self._most_rows)
        self._waiting = [rest] if rest.num_rows else []
        self._num_rows, self._num_bytes = rest.num_rows, schemas.num_bytes_of(rest) if rest.num_rows else 0
        del table, rest
        pa.default_memory_pool().release_unused()

    def __enter__(self) -> ParquetRows:
        """Nothing but the beginning of the file is written yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the rest and the footer; of a file that is given up only let go of it."""
        if kind is None and self._num_rows:
            self._flush()
        self._writer.close()


@contextlib.contextmanager
def parquet_rows(path: str, schema: pa.Schema, **options: Any) -> Iterator[ParquetRows]:
    """Write a Parquet file as its rows come, whole or not at all. See `ParquetRows` and `writing.write_whole`."""
    with writing.write_whole(path) as temporary, ParquetRows(temporary, schema, **options) as rows:
        yield rows


def stamped(schema: pa.Schema, record: Mapping[str, Any]) -> pa.Schema:
    """The schema with a JSON record in its metadata, under `beholder`, and nothing else there."""
    return schema.with_metadata({b"beholder": json.dumps(record, default=str).encode()})


@dataclass(frozen=True)
class TablePart:
    """A file that is joined with others.

    Attributes:
        path: where it is, local or remote.
        num_bytes: its size.
        data: its bytes, where they have been fetched.
    """

    path: str
    num_bytes: int
    data: bytes | None = None

    def open_parquet(self) -> ParquetFile:
        """The file, for its rows to be read from front to back."""
        return storage.open_parquet(self.path, streamed=True, data=self.data)

    def open(self) -> IO[bytes]:
        """The file, for its bytes to be read from front to back."""
        return io.BytesIO(self.data) if self.data is not None else storage.open_stream(self.path, self.num_bytes)


def join_parquet(
    path: str, parts: Iterable[TablePart], schema: pa.Schema, *, num_bytes: int, scratch: Path | None, **options: Any
) -> None:
    """Join Parquet files, in order, to one of this schema, whole or not at all. Small parts share row groups.

    `num_bytes`: of all parts, about.
    """
    opened = writing.open_whole(path, num_bytes=num_bytes, scratch=scratch)
    with opened as sink, ParquetRows(sink, schema, **options) as rows:
        for part in parts:
            with part.open_parquet() as source:
                for group in range(source.num_row_groups):
                    size = schemas.num_rows_of(source.metadata.row_group(group), _ROW_GROUP_BYTES // 4)
                    for batch in source.iter_batches(batch_size=size, row_groups=[group]):
                        rows.write(schemas.fit_table(pa.Table.from_batches([batch]), schema)[0])


def join_csv(path: str, parts: Iterable[TablePart], *, num_bytes: int, scratch: Path | None) -> None:
    """Join CSV files of one header, in order, to one, whole or not at all. Raises OutputError when headers differ.

    `num_bytes`: of all parts, about.
    """
    header: bytes | None = None
    with writing.open_whole(path, num_bytes=num_bytes, scratch=scratch) as out:
        for part in parts:
            with part.open() as source:
                line = source.readline()
                if header is None:
                    header = line
                    out.write(header)
                elif line != header:
                    raise OutputError(f"{path}: parts have different columns, which one CSV cannot hold; use --overwrite")
                shutil.copyfileobj(source, out, _COPY_BYTES)


def write_table(path: str, tables: Iterable[pa.Table], schema: pa.Schema, record: dict[str, Any]) -> None:
    """Write tables of one schema as one file, by the end of its name; `record` goes into Parquet files."""
    kind = PurePosixPath(path).suffix.lower()
    if kind == ".parquet":
        schema = stamped(schema, record)
        plain = [item.name for item in schema if item.name not in (columns.SAMPLE, "rank")]
        dictionary = [name for name in plain if not pa.types.is_floating(schema.field(name).type)]
        with parquet_rows(path, schema, compression="snappy", use_dictionary=dictionary) as rows:
            for table in tables:
                rows.write(table.cast(schema))
        return
    write = {".csv": _csv_lines, ".jsonl": _json_lines, ".txt": _text_lines}[kind]
    with writing.write_whole(path) as temporary, temporary.open("wb") as file:
        if kind == ".csv":
            write_csv(file, [pa.array([name], pa.large_string()) for name in schema.names])
        for table in tables:
            for start in range(0, table.num_rows, _ROW_GROUP_ROWS):
                write(table.slice(start, _ROW_GROUP_ROWS), file)


def _text(value: str | None) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as CSV has them: numbers with fractions always with a dot, truth as true and false, NaN and null as null.

    A number is the shortest text that reads back as the same one, always with a dot (5.0, never 5): tools that guess a column's
    type from its first rows would take it for integers and fail at the first fraction.
    """
    column = schemas.as_values(column)
    if not pa.types.is_floating(column.type):
        return schemas.as_text(column)
    text = pc.cast(column, pa.large_string())
    text = pc.if_else(pc.match_substring_regex(text, "[.enf]"), text, pc.binary_join_element_wise(text, _text("0"), _text(".")))
    return pc.if_else(pc.is_nan(column), _text(None), text)


def write_csv(file: IO[bytes], texts: Sequence[pa.ChunkedArray | pa.Array]) -> None:
    """Write columns of text (large strings) as lines of CSV.

    RFC 4180: quotes around values that hold a comma, quote or line break, quotes doubled; null is empty. The writer of
    pyarrow puts all texts in quotes.
    """
    cells = []
    for text in texts:
        text = pc.fill_null(text, "")
        needed = pc.match_substring_regex(text, '[",\r\n]')
        if pc.any(needed).as_py():
            wrapped = pc.binary_join_element_wise(_text(""), pc.replace_substring(text, '"', '""'), _text(""), _text('"'))
            text = pc.if_else(needed, wrapped, text)
        cells.append(text)
    _put_lines(pc.binary_join_element_wise(*cells, _text(",")) if len(cells) > 1 else cells[0], file)


def _csv_lines(table: pa.Table, file: IO[bytes]) -> None:
    write_csv(file, [as_text(column) for column in table.columns])


def _text_lines(table: pa.Table, file: IO[bytes]) -> None:
    names = table.column(columns.SAMPLE)
    if pc.any(pc.match_substring_regex(names, "[\r\n]")).as_py():
        raise OutputError("a sample has a line break in its name, which a list of lines cannot hold; write .csv or .parquet")
    _put_lines(names, file)


def _put_lines(lines: pa.ChunkedArray | pa.Array, file: IO[bytes]) -> None:
    found = pc.binary_join_element_wise(lines, _text(""), _text("\n"))
    for chunk in found.chunks if isinstance(found, pa.ChunkedArray) else [found]:
        if len(chunk):
            _, offsets, data = chunk.buffers()
            ends = np.frombuffer(offsets, np.int64)[[chunk.offset, chunk.offset + len(chunk)]]
            file.write(memoryview(data)[int(ends[0]) : int(ends[1])])


def _json_lines(table: pa.Table, file: IO[bytes]) -> None:
    names = table.column_names
    lists = [column.to_pylist() for column in table.columns]
    for values in zip(*lists, strict=True):
        line = {name: _plain(value) for name, value in zip(names, values, strict=True)}
        file.write((json.dumps(line, ensure_ascii=False, default=str) + "\n").encode(errors="surrogatepass"))


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
