"""Two names in, a file renamed without anything being replaced, and folders flushed to the disk, out."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from functools import cache

_AT_FDCWD, _NOREPLACE = -100, 1


def rename_new(source: str, target: str) -> None:
    """Rename, and never replace: FileExistsError where there is something of that name already.

    One step where the system has it (Linux: renameat2); else a hard link and an unlink, so that the file is never away.
    """
    rename = _renameat2()
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise OSError(code, os.strerror(code), target)
    rename_by_link(source, target)


def rename_by_link(source: str, target: str) -> None:
    """The same on systems that cannot do it in one step. Killed in between, the file has both names."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        os.rename(source, target)  # noqa: PTH104 (a disk without hard links: checked just before)
        return
    os.unlink(source)  # noqa: PTH108


@cache
def _renameat2() -> ctypes._NamedFuncPointer | None:
    try:
        found = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return found


def sync_folder(path: str) -> None:
    """Have a folder's entries on the disk; systems that cannot do that are left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
