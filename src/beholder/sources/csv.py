"""Reader of CSV files with one column per dimension: float32 embeddings and labels."""

from __future__ import annotations

import bisect
import contextlib
import os
import re
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.columns import RowStatus
from beholder.errors import InputError, clipped
from beholder.io import remote, storage
from beholder.io.tables import is_utf16, open_text, read_head
from beholder.kernels import decimals
from beholder.kernels.decimals import PAD, contents
from beholder.sources.column_choice import choose_embedding_columns
from beholder.sources.labels import choose_label_columns, select_labels
from beholder.sources.reader import Block, Part, ReadOptions

MOST_ROW_BYTES = 64 << 20
"""Longest row that is read. A quote that is never closed would otherwise swallow the file."""
_NEWLINE, _QUOTE = b"\n", b'"'
_PIECE_BYTES = 4 << 20
_LEAST_PIECE_BYTES = 64 << 10
_HEAD_BYTES = 1 << 20
_FIELD = re.compile(r'"([^"]*(?:""[^"]*)*)"|([^,"]*)')
_MARKS = {
    b"\x1f\x8b": "gzip data, which is not read; decompress it first (gunzip)",
    b"\x28\xb5\x2f\xfd": "zstandard data, which is not read; decompress it first (unzstd)",
    b"\xff\xfe": "UTF-32 text, which is not read; save it as UTF-8",
    b"\0\0\xfe\xff": "UTF-32 text, which is not read; save it as UTF-8",
}
_UNSURE_ROOM = 4096
_COMPLAINTS = {
    decimals.NOT_A_NUMBER: "column {column!r}: {text!r} is not a number",
    decimals.STRAY_QUOTE: "column {column!r}: {text!r} is followed by a quote, but does not start with one;"
    " put the whole field in quotes and double those inside",
    decimals.TEXT_AFTER_QUOTE: "column {column!r}: {text!r} goes on after its closing quote; double the quotes inside a field",
    decimals.OPEN_QUOTE: "column {column!r}: the quote that opens {text!r} is never closed",
    decimals.TOO_FEW: "only {found} of {expected} fields; is the file whole?",
    decimals.TOO_MANY: "more than {expected} fields; put those that hold commas in quotes",
}


def check_is_text(head: bytes, path: str) -> None:
    """Refuse what starts like another kind of file. Raises InputError."""
    if not head:
        raise InputError(f"{path} is empty (0 bytes); write it again, or leave it out")
    for mark, what in _MARKS.items():
        if head.startswith(mark):
            raise InputError(f"{path} is {what}")
    if b"\0" in head:
        raise InputError(f"{path} is not text: it holds zero bytes; expected CSV")


def rows_end(text: bytes | bytearray, start: int, stop: int) -> int:
    """Where the last whole row of text[start:stop] ends: after a newline that an even number of quotes precede; -1: nowhere."""
    if text.find(_QUOTE, start, stop) < 0:
        return text.rfind(_NEWLINE, start, stop) + 1 or -1
    quotes, end = _count_quotes(text, start, stop), stop
    while True:
        quote = text.rfind(_QUOTE, start, end)
        newline = text.rfind(_NEWLINE, max(start, quote + 1), end) if quotes % 2 == 0 else -1
        if newline >= 0 or quote < 0:
            return newline + 1 or -1
        quotes, end = quotes - 1, quote


def first_row_end(text: bytes | bytearray, start: int, stop: int) -> int:
    """Where the first row of text[start:stop] ends; -1: not there."""
    quotes, end = 0, start
    while (newline := text.find(_NEWLINE, end, stop)) >= 0:
        quotes += text.count(_QUOTE, end, newline)
        end = newline + 1
        if quotes % 2 == 0:
            return end
    return -1


def _count_quotes(text: bytes | bytearray, start: int, stop: int) -> int:
    if stop - start < 4096:
        return text.count(_QUOTE, start, stop)
    return int(np.count_nonzero(np.frombuffer(text, np.uint8, stop - start, start) == ord(_QUOTE)))


@dataclass(frozen=True)
class _Layout:
    """What the columns are.

    Attributes:
        path: of the file, for error texts.
        names: of all columns.
        embedding: positions of the columns of dimension 0, 1, ...
        labels: positions of the columns to pass on.
    """

    path: str
    names: list[str]
    embedding: list[int]
    labels: list[int] = field(default_factory=list)


class _Workspace:
    """Whole rows, text[start:stop], and the arrays that they are parsed into; used again for piece after piece.

    `PAD` bytes of the buffer precede the rows, and `PAD` newlines follow them. The arrays have room for the shortest rows
    there can be; memory that is never written is never taken.

    Attributes:
        is_cut: the rows do not end at `stop`, because one is longer than `MOST_ROW_BYTES`.
    """

    def __init__(self, room: int, layout: _Layout) -> None:
        self.text = bytearray(PAD + room + 1 + PAD)
        self.start = self.stop = PAD
        self.is_cut = False
        self.roles = np.full(len(layout.names), -1, np.int64)
        self.roles[layout.embedding] = np.arange(len(layout.embedding))
        self.roles[layout.labels] = -2 - np.arange(len(layout.labels))
        self.report = np.zeros(decimals.REPORT_SIZE, np.int64)
        self.unsure = np.empty((len(layout.embedding) + _UNSURE_ROOM, 4), np.int64)
        self._shape = (len(layout.embedding), len(layout.labels))
        self._allocate(0)

    def _allocate(self, num_rows: int) -> None:
        dim, num_labels = self._shape
        self.embeddings = np.empty((num_rows, dim), np.float32)
        self.missing = np.empty(num_rows, np.bool_)
        self.lines = np.empty(num_rows, np.int64)
        self.spans = np.empty((num_rows, num_labels, 2), np.int64)

    @property
    def room(self) -> int:
        """Bytes of rows it can hold."""
        return len(self.text) - (PAD + 1 + PAD)

    def grow(self) -> None:
        """Double the room, up to `MOST_ROW_BYTES`, keeping the text."""
        self.text = self.text + bytes(min(self.room, MOST_ROW_BYTES - self.room))

    def end_at(self, stop: int) -> None:
        """Let the rows end at `stop`, or after a newline that is added there."""
        if self.text[stop - 1] != ord(_NEWLINE):
            self.text[stop] = ord(_NEWLINE)
            stop += 1
        self.text[stop : stop + PAD] = _NEWLINE * PAD
        self.stop = stop

    def parse(self, layout: _Layout, num_lines: int = 0) -> _Parsed:
        """The rows; line counts start at `num_lines`."""
        most_rows = (self.room + 1) // len(self.roles) + 1  # a row has at least one byte per column
        if len(self.lines) < most_rows:
            self._allocate(most_rows)
        report, text = self.report, np.frombuffer(self.text, np.uint8)
        at, num_rows, status = self.start, 0, decimals.FULL
        while status == decimals.FULL:
            embeddings, missing = self.embeddings[num_rows:], self.missing[num_rows:]
            lines, spans = self.lines[num_rows:], self.spans[num_rows:]
            status = decimals.parse_rows(
                text, at, self.stop, self.roles, embeddings, missing, lines, spans, self.unsure, report
            )
            lines[: report[decimals.ROWS]] += num_lines
            for row, dimension, start, stop in self.unsure[: report[decimals.UNSURE]].tolist():
                if row < report[decimals.ROWS] and not missing[row]:  # numbers that need exact arithmetic
                    embeddings[row, dimension] = decimals.nearest_float32(self.text[start:stop].decode("ascii"))
            at = int(report[decimals.NEXT])
            num_rows += int(report[decimals.ROWS])
            num_lines += int(report[decimals.LINES])
        error = None
        if self.is_cut or status != decimals.FINISHED:
            error = num_lines, self._complaint(status, layout)
        labels, complaint = _labels(text, self.spans[:num_rows], layout)
        if complaint is not None:
            num_rows = labels.num_rows
            error = int(self.lines[num_rows]), complaint
        return _Parsed(self.embeddings[:num_rows], self.missing[:num_rows], labels, num_lines, error)

    def _complaint(self, status: int, layout: _Layout) -> str:
        """What is wrong with the row at which parsing stopped."""
        if self.is_cut and status not in (decimals.STRAY_QUOTE, decimals.TEXT_AFTER_QUOTE, decimals.NOT_A_NUMBER):
            return f"the row is longer than {MOST_ROW_BYTES >> 20} MiB; is a quote not closed?"
        column = int(self.report[decimals.COLUMN])
        start, stop = (int(self.report[which]) for which in (decimals.FIELD_START, decimals.FIELD_STOP))
        text = clipped(self.text[start : min(stop, start + 200)].decode("utf-8", errors="replace"), 40)
        expected = len(layout.names)
        return _COMPLAINTS[status].format(column=layout.names[column], text=text, found=column + 1, expected=expected)


@dataclass(frozen=True)
class _Parsed:
    """The right rows of a piece before its first wrong one.

    Attributes:
        embeddings: (N, D) float32, in the workspace.
        missing: (N,) bool: rows with an empty number, all zeros.
        labels: N rows of the columns to pass on.
        num_lines: lines of the piece (and those before it that the caller counted in).
        error: lines before the wrong place, and what is wrong; None when all rows are right.
    """

    embeddings: npt.NDArray[np.float32]
    missing: npt.NDArray[np.bool_]
    labels: pa.Table
    num_lines: int
    error: tuple[int, str] | None


def _labels(text: npt.NDArray[np.uint8], spans: npt.NDArray[np.int64], layout: _Layout) -> tuple[pa.Table, str | None]:
    """The columns to pass on, up to the first row that is no UTF-8 text, and what is wrong with that."""
    arrays, num_rows, complaint = [], len(spans), None
    for k, position in enumerate(layout.labels):
        offsets, data, valid = contents(text, np.ascontiguousarray(spans[:num_rows, k]))
        validity = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
        array = pa.Array.from_buffers(pa.large_string(), len(valid), [validity, pa.py_buffer(offsets), pa.py_buffer(data)])
        if not _is_text(array):
            # the first row that is none: as many as there are lengths at which the rows before are all text
            num_rows = bisect.bisect_left(range(1, len(array)), True, key=lambda length: not _is_text(array.slice(0, length)))
            value = clipped(array[num_rows].as_buffer().to_pybytes().decode("utf-8", errors="replace"), 40)
            complaint = f"column {layout.names[position]!r}: {value!r} is not UTF-8 text"
        arrays.append(array)
    names = [layout.names[position] for position in layout.labels]
    return pa.Table.from_arrays([array.slice(0, num_rows) for array in arrays], names=names), complaint


def _is_text(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


class _Pieces:
    """Cuts a file into pieces of whole rows, in order.

    Args:
        path: for error texts.
        file: opened for reading bytes, at its start.
        num_bytes: how long the text was when the run was planned; None: not known (it is recoded).
    """

    def __init__(self, path: str, file: IO[bytes], num_bytes: int | None) -> None:
        self._path, self._file, self._planned = path, file, num_bytes
        self._read = 0
        self._rest = bytearray()
        self._is_finished = False

    def fill(self, piece: _Workspace) -> bool:
        """Read the next whole rows into `piece`; False when there are no more.

        Raises InputError when the file cannot be read, or is not as long as it was.
        """
        while piece.room <= len(self._rest):
            piece.grow()
        piece.start, piece.is_cut = PAD, False
        piece.text[PAD : PAD + len(self._rest)] = self._rest
        filled = self._read_into(piece, PAD + len(self._rest))
        while (end := filled if self._is_finished else rows_end(piece.text, PAD, filled)) < 0:
            if piece.room >= MOST_ROW_BYTES:
                piece.is_cut, end = True, filled
                break
            piece.grow()
            filled = self._read_into(piece, filled)
        self._rest = piece.text[end:filled]
        piece.end_at(end)
        return end > PAD

    def _read_into(self, piece: _Workspace, filled: int) -> int:
        """Fill the room of `piece` from `filled` on, as far as the file goes; returns where the text ends."""
        stop = PAD + piece.room
        with remote.read_errors(self._path), memoryview(piece.text) as view:
            while filled < stop and not self._is_finished:
                count = self._file.readinto(view[filled:stop])  # type: ignore[attr-defined]
                self._is_finished = not count
                filled += count
                self._read += count
        if self._planned is None:
            return filled
        if self._read > self._planned or (self._is_finished and self._read < self._planned):
            raise InputError(
                f"{self._path} had {self._planned} bytes when the run was planned and now has {self._read} or more: it was"
                " changed meanwhile; run the same command again when it is whole"
            )
        return filled


@dataclass(frozen=True, kw_only=True)
class CsvReader:
    """Reads CSV (RFC 4180, UTF-8 or marked UTF-16, a row of column names first) on all cores this process may use.

    A number becomes the float32 nearest to its decimal text. A number field that is empty or `null` makes its row MISSING; NaN
    and infinities are passed on. Pass-through columns are the text that stands there.

    Attributes:
        piece_bytes: bytes of text that a thread takes at a time; None: 4 MiB, or less for small blocks.
    """

    piece_bytes: int | None = None

    def inspect(self, path: str, name: str, options: ReadOptions) -> Part:
        """Read the column names and the first rows (1 MiB). Raises InputError, also for a wrong row among them."""
        num_bytes = storage.size(path)
        head, rows_at, is_whole = _read_head(path)
        names = _split(head[:rows_at], path, 1)
        if len(names) == 1 and re.search(r"[;\t|]", names[0]):
            raise InputError(f"{path}: the column names are not separated by commas; write it as CSV with commas")
        first_end = first_row_end(head, rows_at, len(head))
        first_line = 1 + head.count(b"\n", 0, rows_at)
        first_row = _split(head[rows_at : first_end if first_end > 0 else len(head)], path, first_line)
        looks_numeric = [position >= len(first_row) or _looks_numeric(first_row[position]) for position in range(len(names))]
        chosen = choose_embedding_columns(names, looks_numeric, options.embedding_column, path)
        embedding = [names.index(column) for column in chosen]
        _check_rows(head, rows_at, is_whole, _Layout(path, names, embedding))
        is_recoded = is_utf16(storage.read_range(path, 0, 4))
        seen = max(1, len(head) - rows_at)
        text_bytes = num_bytes // 2 if is_recoded else num_bytes  # two bytes a letter in UTF-16
        about_rows = round((text_bytes - rows_at) * head.count(b"\n", rows_at) / seen)
        taken = set(embedding)
        labels = pa.schema([(name, pa.large_string()) for at, name in enumerate(names) if at not in taken])
        detail = {
            "names": names, "embedding": embedding, "labels": labels, "about_rows": about_rows, "is_recoded": is_recoded
        }  # fmt: skip
        choose_label_columns(labels.names, options, path)
        return Part(path, name, "csv", None, len(embedding), "float32", num_bytes, cuts=(), detail=detail)

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop) in blocks of at most `options.block_bytes`; rows before `start` are read and dropped."""
        names, embedding = part.detail["names"], part.detail["embedding"]
        labels = list(dict.fromkeys(choose_label_columns(part.detail["labels"].names, options, part.path)))
        layout = _Layout(part.path, names, embedding, [names.index(name) for name in labels])
        piece_bytes = self.piece_bytes or min(_PIECE_BYTES, max(_LEAST_PIECE_BYTES, options.block_bytes // 4))
        block_rows = max(1, options.block_bytes // (4 * part.dim))
        first_row = first_line = 0
        with contextlib.closing(_parsed_pieces(part, layout, min(piece_bytes, part.num_bytes + 1))) as pieces:
            for parsed in pieces:
                num_rows = len(parsed.embeddings)
                high = num_rows if stop is None else min(num_rows, stop - first_row)
                for at in range(max(0, start - first_row), high, block_rows):
                    yield _block(parsed, at, min(high, at + block_rows), first_row, part, options)
                first_row += num_rows
                if stop is not None and first_row >= stop:
                    return
                if parsed.error is not None:
                    line, text = parsed.error
                    raise InputError(f"{part.path}: line {first_line + line + 1}: {text}")
                first_line += parsed.num_lines


def _parsed_pieces(part: Part, layout: _Layout, room: int) -> Generator[_Parsed]:
    """The pieces of a file, parsed by as many threads as there are cores and read ahead of them, in order.

    A piece is valid until the next is asked for.
    """
    num_threads = len(os.sched_getaffinity(0))
    free = [_Workspace(room, layout) for _ in range(num_threads + 2)]
    pending: deque[tuple[_Workspace, Future[_Parsed]]] = deque()
    with open_text(part.path) as file:
        reader = _Pieces(part.path, file, None if part.detail["is_recoded"] else part.num_bytes)
        pool = ThreadPoolExecutor(num_threads, thread_name_prefix="beholder-csv")
        try:
            is_first = True
            while True:
                while free and reader.fill(free[-1]):
                    space = free.pop()
                    num_lines = _skip_names(space, layout) if is_first else 0
                    is_first = False
                    pending.append((space, pool.submit(space.parse, layout, num_lines)))
                if not pending:
                    return
                space, parsed = pending.popleft()
                yield parsed.result()
                free.append(space)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _skip_names(piece: _Workspace, layout: _Layout) -> int:
    """Let the rows of the first piece start after the column names; returns how many lines those take. Raises InputError."""
    end = first_row_end(piece.text, piece.start, piece.stop)
    if end < 0 or _split(bytes(piece.text[piece.start : end]), layout.path, 1) != layout.names:
        raise InputError(f"{layout.path} has other column names than when the run was planned; run the same command again")
    num_lines = piece.text.count(b"\n", piece.start, end)
    piece.start = end
    return num_lines


def _block(parsed: _Parsed, low: int, high: int, first_row: int, part: Part, options: ReadOptions) -> Block:
    """Rows [low, high) of a piece whose row 0 is row `first_row` of the part."""
    labels = select_labels(parsed.labels.slice(low, high - low), part, first_row + low, first_row + high, options)
    missing = parsed.missing[low:high]
    statuses = missing.astype(np.uint8) * np.uint8(RowStatus.MISSING) if missing.any() else None
    return Block(parsed.embeddings[low:high], labels, statuses)


def _read_head(path: str) -> tuple[bytes, int, bool]:
    """The beginning of the file, in UTF-8, with at least one row if there is one; where the rows start; whether it is all.

    Raises InputError.
    """
    num_bytes = _HEAD_BYTES
    while True:
        head, is_whole = read_head(path, num_bytes)
        check_is_text(head, path)
        rows_at = first_row_end(head, 0, len(head))
        is_enough = is_whole or (rows_at > 0 and first_row_end(head, rows_at, len(head)) > 0)
        if is_enough or (rows_at > 0 and num_bytes >= MOST_ROW_BYTES):
            return head, rows_at if rows_at > 0 else len(head), is_whole
        if num_bytes >= MOST_ROW_BYTES:
            raise InputError(
                f"{path}: line 1: the row is longer than {MOST_ROW_BYTES >> 20} MiB; is it CSV, are all quotes closed?"
            )
        num_bytes *= 8


def _split(row: bytes, path: str, line: int) -> list[str]:
    """The fields of a row. Raises InputError for wrong quotes and for what is not UTF-8."""
    try:
        text = row.decode("utf-8").removesuffix("\n").removesuffix("\r").removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise InputError(f"{path}: line {line}: not UTF-8 text; save the file as UTF-8") from None
    fields, at = [], 0
    while match := _FIELD.match(text, at):
        fields.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        at = match.end()
        if at == len(text):
            break
        if text[at] != ",":
            raise InputError(f"{path}: line {line}: a quote in the wrong place near {text[max(0, at - 20) : at + 20]!r}")
        at += 1
    return fields


def _looks_numeric(text: str) -> bool:
    """Whether a field of the first row is a number, or empty."""
    text = text.strip()
    if text == "" or text.lower() == "null":
        return True
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _check_rows(head: bytes, rows_at: int, is_whole: bool, layout: _Layout) -> None:
    """Raise InputError for a wrong row among those in `head`."""
    taken = set(layout.embedding)
    others = [position for position in range(len(layout.names)) if position not in taken]
    layout = replace(layout, labels=others)
    space = _Workspace(len(head), layout)
    end = len(head) if is_whole else rows_end(head, rows_at, len(head))
    space.is_cut = end < 0
    rows = head[rows_at : end if end >= 0 else len(head)]
    space.text[space.start : space.start + len(rows)] = rows
    space.end_at(space.start + len(rows))
    parsed = space.parse(layout, head.count(b"\n", 0, rows_at))
    if parsed.error is not None:
        line, text = parsed.error
        raise InputError(f"{layout.path}: line {line + 1}: {text}")
