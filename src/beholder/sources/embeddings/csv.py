"""A CSV file with one column per dimension in, blocks of float32 embeddings and labels out."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from beholder import columns
from beholder.columns import RowStatus
from beholder.errors import InputError
from beholder.io import storage
from beholder.io.tables import is_utf16, open_text, read_head
from beholder.sources.embeddings.csv_pieces import MOST_ROW_BYTES, Piece, PieceReader, check_is_text, first_row_end, rows_end
from beholder.sources.embeddings.csv_rows import Layout, Parsed, Workspace, parse
from beholder.sources.embeddings.labels import choose_label_columns, row_names, select_labels
from beholder.sources.embeddings.reader import Block, Part, ReadOptions
from beholder.sources.embeddings.wide import choose_embedding_columns

_PIECE_BYTES = 4 << 20
_LEAST_PIECE_BYTES = 64 << 10
_HEAD_BYTES = 1 << 20
_FIELD = re.compile(r'"([^"]*(?:""[^"]*)*)"|([^,"]*)')


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
        _check_rows(head, rows_at, is_whole, Layout(path, names, embedding))
        is_recoded = is_utf16(storage.read_range(path, 0, 4))
        seen = max(1, len(head) - rows_at)
        text_bytes = num_bytes // 2 if is_recoded else num_bytes  # two bytes a letter in UTF-16
        about_rows = round((text_bytes - rows_at) * head.count(b"\n", rows_at) / seen)
        detail = {"names": names, "embedding": embedding, "about_rows": about_rows, "is_recoded": is_recoded}
        _label_columns(names, embedding, options, path)
        return Part(path, name, "csv", None, len(embedding), "float32", num_bytes, cuts=(), detail=detail)

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop) in blocks of at most `options.block_bytes`; rows before `start` are read and dropped."""
        names, embedding = part.detail["names"], part.detail["embedding"]
        labels = _label_columns(names, embedding, options, part.path)
        layout = Layout(part.path, names, embedding, [names.index(name) for name in labels])
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


def _parsed_pieces(part: Part, layout: Layout, room: int) -> Generator[Parsed]:
    """The pieces of a file, parsed by as many threads as there are cores and read ahead of them, in order.

    A piece is valid until the next is asked for.
    """
    num_threads = len(os.sched_getaffinity(0))
    free = [Workspace(room, layout) for _ in range(num_threads + 2)]
    pending: deque[tuple[Workspace, Future[Parsed]]] = deque()
    with open_text(part.path) as file:
        reader = PieceReader(part.path, file, None if part.detail["is_recoded"] else part.num_bytes)
        pool = ThreadPoolExecutor(num_threads, thread_name_prefix="beholder-csv")
        try:
            is_first = True
            while True:
                while free and reader.fill(free[-1].piece):
                    space = free.pop()
                    num_lines = _skip_names(space.piece, layout) if is_first else 0
                    is_first = False
                    pending.append((space, pool.submit(parse, space, layout, num_lines)))
                if not pending:
                    return
                space, parsed = pending.popleft()
                yield parsed.result()
                free.append(space)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _skip_names(piece: Piece, layout: Layout) -> int:
    """Let the rows of the first piece start after the column names; returns how many lines those take. Raises InputError."""
    end = first_row_end(piece.text, piece.start, piece.stop)
    if end < 0 or _split(bytes(piece.text[piece.start : end]), layout.path, 1) != layout.names:
        raise InputError(f"{layout.path} has other column names than when the run was planned; run the same command again")
    num_lines = piece.text.count(b"\n", piece.start, end)
    piece.start = end
    return num_lines


def _block(parsed: Parsed, low: int, high: int, first_row: int, part: Part, options: ReadOptions) -> Block:
    """Rows [low, high) of a piece whose row 0 is row `first_row` of the part."""
    if parsed.labels.num_columns:
        labels = select_labels(parsed.labels.slice(low, high - low), part, first_row + low, options)
    else:
        labels = pa.table({columns.SAMPLE: row_names(part.name, first_row + low, first_row + high)})
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


def _label_columns(names: list[str], embedding: list[int], options: ReadOptions, path: str) -> list[str]:
    """The columns to pass on, the sample column first if there is one. Raises InputError."""
    taken = set(embedding)
    others = [name for position, name in enumerate(names) if position not in taken]
    chosen = list(dict.fromkeys(choose_label_columns(others, options, path)))
    for name in chosen:
        if others.count(name) > 1:
            raise InputError(f"{path} has {others.count(name)} columns named {name!r}; rename them")
    return chosen


def _check_rows(head: bytes, rows_at: int, is_whole: bool, layout: Layout) -> None:
    """Raise InputError for a wrong row among those in `head`."""
    taken = set(layout.embedding)
    others = [position for position in range(len(layout.names)) if position not in taken]
    layout = replace(layout, labels=others)
    space = Workspace(len(head), layout)
    end = len(head) if is_whole else rows_end(head, rows_at, len(head))
    space.piece.is_cut = end < 0
    rows = head[rows_at : end if end >= 0 else len(head)]
    space.piece.text[space.piece.start : space.piece.start + len(rows)] = rows
    space.piece.end_at(space.piece.start + len(rows))
    parsed = parse(space, layout, head.count(b"\n", 0, rows_at))
    if parsed.error is not None:
        line, text = parsed.error
        raise InputError(f"{layout.path}: line {line + 1}: {text}")
