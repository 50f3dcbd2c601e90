"""A text file in, pieces of it out that end where a row of CSV ends, each in a buffer of its own."""

from __future__ import annotations

from typing import IO

import numpy as np

from beholder.errors import InputError
from beholder.io import storage
from beholder.kernels.decimals import PAD

MOST_ROW_BYTES = 64 << 20
"""Longest row that is read. A quote that is never closed would otherwise swallow the file."""
_NEWLINE, _QUOTE = b"\n", b'"'
_MARKS = {
    b"\x1f\x8b": "gzip data, which is not read; decompress it first (gunzip)",
    b"\x28\xb5\x2f\xfd": "zstandard data, which is not read; decompress it first (unzstd)",
    b"\xff\xfe": "UTF-32 text, which is not read; save it as UTF-8",
    b"\0\0\xfe\xff": "UTF-32 text, which is not read; save it as UTF-8",
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


class Piece:
    """Whole rows: text[start:stop], with `PAD` bytes of the buffer before them and `PAD` newlines after.

    Attributes:
        text: the buffer.
        start, stop: where the rows stand in it.
        is_cut: the rows do not end at `stop`, because one is longer than `MOST_ROW_BYTES`.
    """

    def __init__(self, room: int) -> None:
        self.text = bytearray(PAD + room + 1 + PAD)
        self.start = self.stop = PAD
        self.is_cut = False

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


class PieceReader:
    """Cuts a file into pieces, in order.

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

    def fill(self, piece: Piece) -> bool:
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

    def _read_into(self, piece: Piece, filled: int) -> int:
        """Fill the room of `piece` from `filled` on, as far as the file goes; returns where the text ends."""
        stop = PAD + piece.room
        with storage.remote_errors(self._path), memoryview(piece.text) as view:
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
