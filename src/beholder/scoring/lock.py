"""The lock of a run's folder: one run at a time works there, whether it is on this machine's disks, on NFS or in a bucket.

Where the file system knows `flock` the system keeps the lock, and lifts it however the run ends. Elsewhere it is a *lease*: a
file that is made only if there is none, and written again every few seconds; one that has not been for several of these times
is of a run that is gone. Times are compared as the server that keeps the files writes them down, since clocks differ.

Parts of a run (`--part`) share the lock: several work at once, a run of the whole is refused meanwhile, and they are while it
works. Each has a file of its own as well, a locked one or a lease, that says who it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import math
import os
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal

from beholder.errors import BeholderError, OutputError, writing_failed
from beholder.io import locations, places, processes, writing
from beholder.io.temporaries import is_at, own_name
from beholder.notices import say

LOCK_FILE, LEASE_FILE = ".lock", ".lease"
PARTS_FOLDER = ".parts"
"""Below it every part of a run that shares the lock has a file that says who it is."""
Kind = Literal["auto", "flock", "lease"]
INTERVAL_S = 20.0
PATIENCE = 6
"""A lease that has not been written for so many of its intervals is of a run that is gone."""
_NO_FLOCK = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
_BUSY = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_ATTEMPTS = 5
_MOMENT_S = 0.05
_MOST_BYTES = 1 << 14
_held_here: set[str] = set()
"""Tokens of the locks that runs of this process hold."""


@dataclass(frozen=True)
class Holder:
    """Who has the lock of a folder.

    Attributes:
        host, user: as people know them.
        machine: tells this machine, since it was started, from others of the same name; "" where the system does not say.
        pid, started: the process, and when it began in the system's own count; 0 where that is not known.
        since: when it took the lock, by its own clock, ISO 8601.
        token: its own.
        interval_s: how often it says that it is alive, where it has to; 0 where the system keeps its lock.
    """

    host: str
    user: str
    machine: str
    pid: int
    started: int
    since: str
    token: str
    interval_s: float

    @classmethod
    def here(cls, interval_s: float) -> Holder:
        """What this process says of itself."""
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # a number without a name
            user = str(os.getuid())
        since = datetime.now(UTC).isoformat(timespec="seconds")
        pid, machine = os.getpid(), processes.this_machine()
        began, token = processes.started(pid) or 0, secrets.token_hex(8)
        return cls(socket.gethostname(), user, machine, pid, began, since, token, interval_s)

    @classmethod
    def parse(cls, data: bytes | None) -> Holder | None:
        """Restore what `data` made; None for anything else."""
        try:
            found = json.loads((data or b"")[:_MOST_BYTES])
            made = cls(**{item.name: found[item.name] for item in fields(cls)})
            kinds = {"str": str, "int": int, "float": (int, float)}
            is_right = all(isinstance(getattr(made, item.name), kinds[str(item.type)]) for item in fields(cls))  # type: ignore[arg-type]
            is_right = is_right and 0 <= made.pid < processes.MOST_PID and math.isfinite(made.interval_s)
            is_right = is_right and datetime.fromisoformat(made.since).tzinfo is not None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
        return made if is_right else None

    def data(self) -> bytes:
        """What stands in the file."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    @property
    def is_alive(self) -> bool | None:
        """Whether its process runs; None where that cannot be seen from here: on another machine, or hidden from this user."""
        if not self.machine or not self.started or self.machine != processes.this_machine():
            return None
        if self.pid == os.getpid() and self.token not in _held_here:  # a run of this process that could not give it back
            return False
        began = processes.started(self.pid)
        return None if began is None else began == self.started

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}, since {self.since}"


@contextlib.contextmanager
def held(root: str, *, kind: Kind = "auto", interval_s: float = INTERVAL_S, is_shared: bool = False) -> Iterator[bool]:
    """Keep other runs out of a folder until the end of the `with`; whether the system does it, which is certain.

    Args:
        root: a path or URL; a local folder is made.
        kind: "auto": flock where it works, else a lease.
        interval_s: how often a lease is written again.
        is_shared: keep out only those who want it for themselves alone.

    Raises:
        OutputError: another run has it, or nothing can be written there.
    """
    with contextlib.ExitStack() as opened:
        may_flock = kind != "lease" and locations.is_local(root)
        is_certain = may_flock and _has_flock(root, opened, is_shared=is_shared, is_only=kind == "flock")
        if not is_certain:
            holder = Holder.here(interval_s)
            _hold(holder, opened)
            opened.enter_context(_leased(_PartLease(root, holder) if is_shared else _WholeLease(root, holder)))
        yield is_certain


def _hold(holder: Holder, opened: contextlib.ExitStack) -> None:
    """Know a lock of this process for one that is held, until `opened` is closed."""
    _held_here.add(holder.token)
    opened.callback(_held_here.discard, holder.token)


def holders(root: str) -> list[tuple[Holder, bool]]:
    """Who works in a folder, one run or several parts of one, each with whether it is still there, as far as can be told.

    Raises InputError.
    """
    own = [f"{root.rstrip('/')}/{name}" for name in (LOCK_FILE, LEASE_FILE)]
    found = [(place, Holder.parse(places.read_all(place))) for place in [*own, *_part_files(root)]]
    return [(holder, _is_at_work(place, holder)) for place, holder in found if holder is not None]


def _part_files(root: str) -> list[str]:
    """Files of parts of a run, each with who it is."""
    folder = f"{root.rstrip('/')}/{PARTS_FOLDER}"
    return [f"{folder}/{name}" for name in sorted(places.listing(folder))]


def _is_at_work(place: str, holder: Holder) -> bool:
    """Whether the one that a file names is still there; of another machine's lease, whether it was renewed lately."""
    if holder.is_alive is not None:
        return holder.is_alive
    if holder.interval_s == 0:
        return _is_locked(locations.local_path(place))
    then = places.modified(place)
    return then is not None and time.time() - then <= PATIENCE * holder.interval_s


def _is_locked(path: Path) -> bool:
    """Whether some process of any machine has locked a file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in _BUSY
    return False


def _busy(root: str, holder: Holder | None, more: str = "") -> OutputError:
    who = f" ({holder})" if holder is not None else ""
    return OutputError(f"another run is writing {root}{who}; wait for it, or choose another output{more}")


def _has_flock(root: str, opened: contextlib.ExitStack, *, is_shared: bool, is_only: bool) -> bool:
    """Whether the system has locked the folder, until `opened` is closed; False where it knows no such locks."""
    path = locations.local_path(root) / LOCK_FILE
    for attempt in range(_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+b")  # (NFS wants what is shared to be readable)
        except OSError as error:
            raise writing_failed(root, error) from error
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            with lock:
                if error.errno in _BUSY:
                    found = [holder for holder, is_at_work in holders(root) if is_at_work]
                    if found or attempt == _ATTEMPTS - 1:
                        raise _busy(root, found[0] if found else None) from None
                    time.sleep(_MOMENT_S)  # somebody only looks, or is about to say who it is
                    continue
            if error.errno in _NO_FLOCK and not is_only:
                path.unlink(missing_ok=True)
                return False
            raise writing_failed(str(path), error) from error
        if not is_at(lock.fileno(), path):  # the run that held it has finished and removed it meanwhile
            lock.close()
            continue
        opened.callback(_unlock, lock, path)
        holder = Holder.here(0)
        _hold(holder, opened)
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same, only its text is missing
            lock.truncate(0)
            if is_shared:
                _introduce(path.parent / PARTS_FOLDER / holder.token, holder, opened)
            else:
                lock.write(holder.data())
                lock.flush()
        return True
    raise _busy(root, None)


def _introduce(path: Path, holder: Holder, opened: contextlib.ExitStack) -> None:
    """Say who a part of a run is, until `opened` is closed, in a file that is locked as long. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    own = path.open("xb")
    opened.callback(_unlock, own, path)
    fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
    own.write(holder.data())
    own.flush()


def _unlock(lock: IO[bytes], path: Path) -> None:
    """Let go of a lock, and remove its file unless somebody shares it; and the folder of parts after the last one."""
    with lock, contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(lock.fileno(), path):
            path.unlink()
    if path.parent.name == PARTS_FOLDER:
        _remove_if_empty(path.parent)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def _leased(lease: _Lease) -> Iterator[None]:
    lease.take()
    thread = threading.Thread(target=lease.keep, name="beholder-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        lease.end.set()
        thread.join()
        lease.leave()


class _Lease(ABC):
    """A file that says who works in a folder, for as long as it is written again."""

    def __init__(self, root: str, holder: Holder, place: str) -> None:
        self._root, self._holder, self._place = root.rstrip("/"), holder, place
        self.end = threading.Event()

    @abstractmethod
    def take(self) -> None:
        """Have it. Raises OutputError when somebody else has."""

    def _refused(self, found: Holder | None, place: str) -> OutputError:
        most = self._patience(found)
        gone = f"; if that run is gone, this works {most:.0f} s after its last sign of life ({place})"
        return _busy(self._root, found, gone)

    def _patience(self, found: Holder | None) -> float:
        return PATIENCE * (self._holder.interval_s if found is None else found.interval_s)

    def _is_ours(self, data: bytes | None) -> bool:
        found = Holder.parse(data)
        return found is not None and found.token == self._holder.token

    def _is_abandoned(self, found: Holder | None, place: str) -> bool:
        """Whether whoever has it is gone: a process of this machine that has ended, or one that has not been heard of."""
        if found is not None and found.is_alive is not None:
            return not found.is_alive
        probe = f"{self._root}/{own_name()}"  # its only use is the time that the server writes down for it
        places.put_bytes(probe, b"")
        try:
            then, now = places.modified(place), places.modified(probe)
        finally:
            writing.remove(probe)
        return then is not None and now is not None and now - then > self._patience(found)

    def keep(self) -> None:
        """Write it again and again, until `end` is set, or it is somebody else's: results are right all the same then."""
        has_failed = False
        while not self.end.wait(self._holder.interval_s):
            try:
                data = places.read_all(self._place)
                if data is None:
                    places.create(self._place, self._holder.data())
                elif self._is_ours(data):
                    places.put_bytes(self._place, self._holder.data())
                else:
                    say(f"another run has taken over {self._root} ({Holder.parse(data)}); both go on")
                    return
            except BeholderError as error:
                if not has_failed:
                    say(f"the lock of {self._root} could not be renewed, and is tried again: {error}")
                has_failed = True

    def leave(self) -> None:
        """Give it back; a server that does not answer leaves it to be taken over."""
        try:
            if self._is_ours(places.read_all(self._place)):
                writing.remove(self._place)
        except BeholderError as error:
            say(f"the lock {self._place} could not be removed, and ends by itself: {error}")


class _WholeLease(_Lease):
    """The lease of a run that works alone."""

    def __init__(self, root: str, holder: Holder) -> None:
        super().__init__(root, holder, f"{root.rstrip('/')}/{LEASE_FILE}")

    def take(self) -> None:
        """Have it; parts that are gone are forgotten. Raises OutputError when somebody else has, or a part is at work."""
        self._take_it()
        for place in _part_files(self._root):
            found = Holder.parse(places.read_all(place))
            if self._is_abandoned(found, place):
                writing.remove(place)
            else:
                self.leave()
                raise self._refused(found, place)

    def _take_it(self) -> None:
        found = None
        for _ in range(_ATTEMPTS):
            if places.create(self._place, self._holder.data()):
                return
            data = places.read_all(self._place)
            if data is None:  # it was just given back
                continue
            found = Holder.parse(data)
            if self._is_ours(data):  # the server had made it, and its answer was lost
                return
            if not self._is_abandoned(found, self._place):
                raise self._refused(found, self._place)
            places.put_bytes(self._place, self._holder.data())
            time.sleep(min(1.0, self._holder.interval_s / 10))  # of several that take it at once the last one has it
            if self._is_ours(places.read_all(self._place)):
                return
        raise self._refused(found, self._place)


class _PartLease(_Lease):
    """The lease of a part of a run, beside those of others. It is there before it looks for a run that works alone."""

    def __init__(self, root: str, holder: Holder) -> None:
        super().__init__(root, holder, f"{root.rstrip('/')}/{PARTS_FOLDER}/{holder.token}")

    def take(self) -> None:
        """Have it. Raises OutputError when a run works alone."""
        places.put_bytes(self._place, self._holder.data())
        whole = f"{self._root}/{LEASE_FILE}"
        data = places.read_all(whole)
        found = Holder.parse(data)
        if data is not None and not self._is_abandoned(found, whole):
            self.leave()
            raise self._refused(found, whole)

    def leave(self) -> None:
        """Give it back, and remove the folder of parts after the last one."""
        super().leave()
        if locations.is_local(self._root):
            _remove_if_empty(locations.local_path(self._root) / PARTS_FOLDER)
