"""A piece of CSV text in, its embeddings and labels out, or what is wrong with its first wrong row."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.kernels import decimals
from beholder.kernels.fields import contents
from beholder.sources.embeddings.csv_pieces import MOST_ROW_BYTES, Piece

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


@dataclass(frozen=True)
class Layout:
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

    def roles(self) -> npt.NDArray[np.int64]:
        """(C,) int64 for `decimals.parse_rows`."""
        roles = np.full(len(self.names), -1, np.int64)
        roles[self.embedding] = np.arange(len(self.embedding))
        roles[self.labels] = -2 - np.arange(len(self.labels))
        return roles


class Workspace:
    """A piece and the arrays that its rows are written to; used again for piece after piece.

    The arrays have room for the shortest rows there can be; memory that is never written is never taken.
    """

    def __init__(self, room: int, layout: Layout) -> None:
        self.piece = Piece(room)
        self.roles = layout.roles()
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

    def make_room(self) -> None:
        """Let the arrays hold the rows of the piece: a row has at least one byte per column."""
        num_rows = (self.piece.room + 1) // len(self.roles) + 1
        if len(self.lines) < num_rows:
            self._allocate(num_rows)


@dataclass(frozen=True)
class Parsed:
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


class _BadLabelError(Exception):
    def __init__(self, row: int, text: str) -> None:
        super().__init__(text)
        self.row, self.text = row, text


def parse(space: Workspace, layout: Layout, num_lines: int = 0) -> Parsed:
    """Parse the piece in `space`; line counts start at `num_lines`."""
    piece, report = space.piece, space.report
    space.make_room()
    text = np.frombuffer(piece.text, np.uint8)
    at, num_rows, status = piece.start, 0, decimals.FULL
    while status == decimals.FULL:
        embeddings, missing, lines = space.embeddings[num_rows:], space.missing[num_rows:], space.lines[num_rows:]
        spans = space.spans[num_rows:]
        status = decimals.parse_rows(text, at, piece.stop, space.roles, embeddings, missing, lines, spans, space.unsure, report)
        lines[: report[decimals.ROWS]] += num_lines
        _settle(space, embeddings, missing)
        at = int(report[decimals.NEXT])
        num_rows += int(report[decimals.ROWS])
        num_lines += int(report[decimals.LINES])
    error = None
    if piece.is_cut or status != decimals.FINISHED:
        error = num_lines, _complaint(status, space, layout)
    while True:
        try:
            labels = _labels(text, space.spans[:num_rows], layout)
            break
        except _BadLabelError as bad:
            error = int(space.lines[bad.row]), bad.text
            num_rows = bad.row
    return Parsed(space.embeddings[:num_rows], space.missing[:num_rows], labels, num_lines, error)


def _settle(space: Workspace, embeddings: npt.NDArray[np.float32], missing: npt.NDArray[np.bool_]) -> None:
    """Put in the numbers that need exact arithmetic."""
    num_rows = space.report[decimals.ROWS]
    for row, dimension, start, stop in space.unsure[: space.report[decimals.UNSURE]].tolist():
        if row < num_rows and not missing[row]:
            embeddings[row, dimension] = decimals.nearest_float32(space.piece.text[start:stop].decode("ascii"))


def _complaint(status: int, space: Workspace, layout: Layout) -> str:
    """What is wrong with the row at which parsing stopped."""
    if space.piece.is_cut and status not in (decimals.STRAY_QUOTE, decimals.TEXT_AFTER_QUOTE, decimals.NOT_A_NUMBER):
        return f"the row is longer than {MOST_ROW_BYTES >> 20} MiB; is a quote not closed?"
    column = int(space.report[decimals.COLUMN])
    start, stop = (int(space.report[which]) for which in (decimals.FIELD_START, decimals.FIELD_STOP))
    text = _shortened(space.piece.text[start : min(stop, start + 200)].decode("utf-8", errors="replace"))
    expected = len(layout.names)
    return _COMPLAINTS[status].format(column=layout.names[column], text=text, found=column + 1, expected=expected)


def _shortened(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _labels(text: npt.NDArray[np.uint8], spans: npt.NDArray[np.int64], layout: Layout) -> pa.Table:
    """The columns to pass on. Raises _BadLabelError for the first row, of the first column, that is no UTF-8 text."""
    arrays = []
    for k, position in enumerate(layout.labels):
        offsets, data, valid = contents(text, np.ascontiguousarray(spans[:, k]))
        validity = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(data)]
        array = pa.Array.from_buffers(pa.large_string(), len(valid), buffers)
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            row, value = _first_misfit(array)
            raise _BadLabelError(row, f"column {layout.names[position]!r}: {value!r} is not UTF-8 text") from None
        arrays.append(array)
    return pa.Table.from_arrays(arrays, names=[layout.names[position] for position in layout.labels])


def _first_misfit(array: pa.Array) -> tuple[int, str]:
    """The first row whose value is no text, and that value in short."""
    right, wrong = 0, len(array)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        try:
            array.slice(0, middle).validate(full=True)
            right = middle
        except pa.ArrowInvalid:
            wrong = middle
    return right, _shortened(array[right].as_buffer().to_pybytes().decode("utf-8", errors="replace"))
