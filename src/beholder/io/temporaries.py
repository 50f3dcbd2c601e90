"""The temporary file in which a result is written: what a killed writer left of it is taken over by the next one.

Its name follows from the result's, so nothing has to be looked for; whoever writes it holds a lock on it. Where it is locked
(two write the same result at once), or the file system knows no locks, it gets a name of its own, which says whose it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from beholder.io import processes

PREFIX, SUFFIX = ".beholder-", ".tmp"
_OWN_NAME = re.compile(rf"{re.escape(PREFIX)}(?P<machine>[0-9a-f]{{12}})-(?P<pid>[0-9]{{1,10}})-[^/]*{re.escape(SUFFIX)}")
_ATTEMPTS = 5


def own_name() -> str:
    """A new name for a temporary file, which says which process of which machine writes it."""
    return f"{_own_start()}{secrets.token_hex(8)}{SUFFIX}"


def is_of_the_dead(name: str) -> bool:
    """Whether the process of this machine that writes the temporary file of this name is gone; False where it may be there."""
    found = _OWN_NAME.fullmatch(name.rpartition("/")[2])
    if found is None or found["machine"] != _machine_digest() or not processes.this_machine():
        return False
    pid = int(found["pid"])
    return pid < processes.MOST_PID and processes.started(pid) == 0


def _own_start() -> str:
    return f"{PREFIX}{_machine_digest()}-{os.getpid()}-"


@functools.cache
def _machine_digest() -> str:
    return hashlib.sha256(processes.name_of_machine().encode()).hexdigest()[:12]


@contextlib.contextmanager
def temporary(folder: Path | None, target: Path | None) -> Iterator[Path]:
    """An empty file, private to its owner, for as long as the `with` lasts; one that is renamed before its end stays.

    Args:
        folder: where it stands; None: where the system has such files.
        target: what it is for; None: no file of this machine.

    Raises OSError.
    """
    with contextlib.ExitStack() as opened:
        path = _taken_over(folder, target, opened) if folder is not None and target is not None else None
        if path is None:
            handle, name = tempfile.mkstemp(prefix=_own_start(), suffix=SUFFIX, dir=folder)
            os.close(handle)
            path = Path(name)
            opened.callback(path.unlink, missing_ok=True)
        yield path


def _taken_over(folder: Path, target: Path, opened: contextlib.ExitStack) -> Path | None:
    """The file of the name that follows from the target's, empty and locked until `opened` is closed; None: not to be had."""
    digest = hashlib.sha256(os.fsencode(target.absolute())).hexdigest()[:16]
    path = folder / f"{PREFIX}{digest}{SUFFIX}"
    for _ in range(_ATTEMPTS):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError as error:
            if isinstance(error, PermissionError | IsADirectoryError) or error.errno == errno.ELOOP:  # somebody else's
                return None
            raise
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, handle)
            if not _is_ours(handle) or not _is_locked(handle, path):
                return None
            if is_at(handle, path):  # else whoever wrote it has just finished
                os.ftruncate(handle, 0)
                os.fchmod(handle, 0o600)  # it may have been left just before it was renamed
                opened.push(closing.pop_all())
                opened.callback(_remove, handle, path)
                return path
    return None


def _is_ours(handle: int) -> bool:
    """Whether an open file is a plain one of this user's, with one name: else others could write to it, or lose by it."""
    found = os.fstat(handle)
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink <= 1


def _is_locked(handle: int, path: Path) -> bool:
    """Lock an open file; False where another has, or the file system knows no locks, where nobody writes to this name."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        path.unlink(missing_ok=True)
        return False
    return True


def _remove(handle: int, path: Path) -> None:
    """Remove the file, unless it has been renamed: another writer's may stand there then."""
    if is_at(handle, path):
        path.unlink(missing_ok=True)


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one that stands at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
