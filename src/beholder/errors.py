"""The one exception users meet: a clear line that says what is wrong, where, and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator


class BeholderError(Exception):
    """A failure the user can mend. `str(error)` is one line; the command line prints it and exits with status 1.

    Control characters, which names inside damaged files may hold, are shown as Python escapes them, and of a line that such
    names make very long the middle is left out.
    """

    def __str__(self) -> str:
        return shortened(one_line(super().__str__()))


class HeadError(BeholderError):
    """A head that is unknown, damaged, unsafe, unreachable, or made for something else."""


class InputError(BeholderError):
    """Embeddings that cannot be read as they were given."""


class ChoiceNeededError(InputError):
    """A source that can be read in several ways, or in none without being told: the text says which flag decides."""


class DamagedError(InputError):
    """A file that turns out to be damaged, or made to take all memory, while it is read.

    Attributes:
        why: what is wrong, without the name of the file.
    """

    def __init__(self, path: str, why: str, *, near_row: int | None = None, hint: str = "write it again") -> None:
        super().__init__(f"{path} is damaged{'' if near_row is None else f' near row {near_row}'}: {why}; {hint}")
        self.why = one_line(why)


class OversizedError(DamagedError):
    """A file whose columns unpack to far more than it holds, which would fill the memory or never end."""

    def __init__(self, path: str, why: str, *, hint: str) -> None:
        InputError.__init__(self, f"{path} unpacks to too much: {why}; {hint}")
        self.why = one_line(why)


class OutputError(BeholderError):
    """A result that cannot be written, or that would overwrite another one."""


_OS_HINTS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again, finished shards are kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again, finished shards are kept",
    errno.EFBIG: "the file would grow past the size limit of this system; raise it and run the same command again",
    errno.EACCES: "permission denied; choose a place you may use, or change its permissions",
    errno.EPERM: "operation not permitted; choose a place you may use, or change its permissions",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOENT: "it does not exist (any more); check the path, then run the same command again",
    errno.EEXIST: "a file of that name is in the way; choose another output, or remove it",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.EISDIR: "it is a folder, a file was expected",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.EIO: "the device reports a read or write error; check the disk or the mount",
    errno.ESTALE: "the network file system lost the file; run the same command again",
}


def os_error_text(error: OSError) -> str:
    """The mend for an operating-system error, in words; falls back on the system's own text."""
    hint = _OS_HINTS.get(error.errno) if error.errno is not None else None
    return hint or error.strerror or " ".join(str(error).split()) or os.strerror(error.errno or errno.EIO)


_MOST_CHARACTERS = 4000
"""Of a line; a path has 4,096 bytes at most."""


def one_line(text: str) -> str:
    r"""The text with control characters and line breaks of any kind escaped, `\n` for example: it stays on one line."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() or mark == " " else _escaped(mark) for mark in text)


def shortened(line: str) -> str:
    """The line; of one of more than 4,000 characters the first 2,000, how many are left out, and the last 1,500."""
    if len(line) <= _MOST_CHARACTERS:
        return line
    begin, end = line[: _MOST_CHARACTERS // 2], line[-_MOST_CHARACTERS * 3 // 8 :]
    return f"{begin} ... ({len(line) - len(begin) - len(end):,} characters left out) ... {end}"


def clipped(text: str, most: int) -> str:
    """The text; of a longer one the beginning and `...`, `most` characters in all."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _escaped(mark: str) -> str:
    """A character that a terminal would act on, escaped; others that only cannot be printed (a lone surrogate) as they are."""
    acts = ord(mark) < 0xA0 or mark in "\u2028\u2029" or "\u200e" <= mark <= "\u202e" or "\u2066" <= mark <= "\u2069"
    return mark.encode("unicode_escape").decode("ascii") if acts else mark


@contextlib.contextmanager
def damaged(refused: Callable[[str], Exception]) -> Iterator[None]:
    """Around the calls of a library that takes a file apart: whatever they raise becomes `refused(why)`, `why` a short line.

    On damaged or hostile files libraries raise nearly anything, with no common parent. Only their calls belong inside, so that
    mistakes of our own are still seen as such. What says what is wrong already (BeholderError) passes, and so do failures of
    the system (a disk error, a vanished file); but EINVAL is what going to the place that a damaged header names gives.
    """
    try:
        yield
    except BeholderError:
        raise
    except MemoryError:
        raise refused("it asks for more memory than there is") from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        raise refused(reason_of(error)) from None
    except Exception as error:
        raise refused(reason_of(error)) from None


def reason_of(error: BaseException) -> str:
    """What a library says, on one line of at most 200 characters; the error's kind where it says nothing.

    What a terminal does not show as it is (bytes of a damaged file that are repeated) becomes `?`.
    """
    try:
        text = " ".join(str(error).split())
    except ValueError:  # its text is made of bytes that are none (UnicodeDecodeError is a ValueError)
        text = ""
    plain = "".join(letter if letter.isprintable() and letter != "\ufffd" else "?" for letter in text)
    return plain[:200].rstrip(". ") or type(error).__name__


def text_of(error: BaseException, most: int | None = 200) -> str:
    """What an error says, on one line, cut after `most` characters (None: all of it)."""
    return " ".join(str(error).split())[:most]


def kind_and_text(error: BaseException, most: int = 300) -> str:
    """An error's class and what it says, on one line; its class again where it says nothing."""
    kind = type(error).__name__
    return f"{kind}: {text_of(error, most) or kind}"


def number_of(count: int, one: str, many: str | None = None) -> str:
    """`1 row`, `1,200 rows`. `many`: where it is not `one` and an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def reading_failed(path: str, error: OSError) -> InputError:
    """An `InputError` for an operating-system error met while reading `path`."""
    return InputError(f"cannot read {path}: {os_error_text(error)}")


def writing_failed(path: str, error: OSError) -> OutputError:
    """An `OutputError` for an operating-system error met while writing `path`."""
    return OutputError(f"cannot write {path}: {os_error_text(error)}")
