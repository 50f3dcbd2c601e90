"""Text files as UTF-8, whatever their encoding: UTF-16 is told by its byte order mark, what is neither is refused in words."""

from __future__ import annotations

import codecs
import io
from typing import IO, cast

from beholder.errors import InputError
from beholder.io import storage

_UTF8_MARK = codecs.BOM_UTF8
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
    """A text file opened for reading bytes from front to back, in UTF-8 where it is UTF-16. Wrap reads in `remote_errors`."""
    opened = storage.open_binary(path)
    try:
        with storage.remote_errors(path):
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
