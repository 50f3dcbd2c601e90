"""The one exception users meet: a clear line that says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import os


class BeholderError(Exception):
    """A failure the user can mend. `str(error)` is one line; the command line prints it and exits with status 1."""


class HeadError(BeholderError):
    """A head that is unknown, damaged, unsafe, unreachable, or made for something else."""


class InputError(BeholderError):
    """Embeddings that cannot be read as they were given."""


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


def reading_failed(path: str, error: OSError) -> InputError:
    """An `InputError` for an operating-system error met while reading `path`."""
    return InputError(f"cannot read {path}: {os_error_text(error)}")


def writing_failed(path: str, error: OSError) -> OutputError:
    """An `OutputError` for an operating-system error met while writing `path`."""
    return OutputError(f"cannot write {path}: {os_error_text(error)}")
