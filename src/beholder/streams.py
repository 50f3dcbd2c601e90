"""Standard streams on which nothing can fail, however the program was started.

A batch system may start a program with some of its standard streams closed, on a full disk, into a pipe that nobody reads, or
for an encoding that lacks most characters. None of that may end hours of work, so it is dealt with once, before anything else.
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import io
import os
import select
import sys

_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}
_ESCAPED = "beholder-escapes"
_PLAIN = {"█": "#", "↓": "v", "↑": "^", "…": "~"}
"""What stands for the characters of our own tables where the encoding lacks them."""


class _Lasting(io.FileIO):
    """A stream that takes whatever is written: once writing has failed, all that follows is dropped.

    Attributes:
        failure: what writing failed with first, or None.
        told: whether somebody has asked for it.
    """

    failure: OSError | None = None
    told = False

    def write(self, data: object, /) -> int:
        """Write what can be written; the rest is taken as written. Waits where a pipe is full and not to be waited for."""
        if self.failure is None:
            try:
                while (written := super().write(data)) is None:  # type: ignore[arg-type]
                    select.select([], [self], [])
                return written
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes  # type: ignore[arg-type]


def set_up() -> None:
    """Let nothing that is printed from now on fail, and keep files and sockets away from the numbers 0 to 2.

    Closed streams lead to the null device: else the next file or socket that is opened gets their number, what libraries print
    ends up in it, and a child process replaces it by its own stream of that number. Characters that a stream's encoding lacks,
    and bytes of names that are no text, are written as escapes.
    """
    codecs.register_error(_ESCAPED, _escaped)
    _fill_standard_numbers()
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 (as long as the program)
    for name in ("stdout", "stderr"):
        _make_lasting(name)


def take_output_failure() -> OSError | None:
    """What writing to the standard output has failed with since the last call; None where nothing has been lost.

    A reader that has gone away (`| head`) wanted no more, so that is no failure.
    """
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Lasting):
        return None
    sys.stdout.flush()
    if raw.failure is None or raw.told or raw.failure.errno == errno.EPIPE:
        return None
    raw.told = True
    return raw.failure


def above_standard(handle: int) -> int:
    """The same open file under a number above those of the standard streams, which in a child process are always others."""
    if handle > max(_NUMBERS.values()):
        return handle
    try:
        return fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, max(_NUMBERS.values()) + 1)
    finally:
        os.close(handle)


def _fill_standard_numbers() -> None:
    """Open the null device under each of the numbers 0 to 2 that is free."""
    for number in _NUMBERS.values():
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(handle, True)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is written for one character that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain, after = _PLAIN.get(error.object[error.start]), error.start + 1
    if plain is not None:
        return plain, after
    return codecs.backslashreplace_errors(UnicodeEncodeError(error.encoding, error.object, error.start, after, error.reason))


def _make_lasting(name: str) -> None:
    """Replace a standard stream, unless it is somebody's own (a notebook's, a test's)."""
    stream, target, encoding = getattr(sys, name), _NUMBERS[name], "utf-8"
    if stream is not None:
        try:
            if stream is not getattr(sys, f"__{name}__") or stream.fileno() != target:
                return
            stream.flush()
        except (OSError, ValueError):
            return
        encoding = stream.encoding
        try:
            "\u20ac\udcff".encode(encoding, _ESCAPED)
        except (UnicodeError, LookupError):  # an encoding that knows no escapes
            encoding = "utf-8"
    raw = _Lasting(target, "w", closefd=False) if stream is not None else _Lasting(os.devnull, "w")
    buffered = io.BufferedWriter(raw)
    is_eager = name == "stderr" or raw.isatty()
    setattr(sys, name, io.TextIOWrapper(buffered, encoding, _ESCAPED, line_buffering=is_eager, write_through=name == "stderr"))
