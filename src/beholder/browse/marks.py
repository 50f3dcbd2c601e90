"""The marks that people set, and their file: one flushed JSON line each, and the file alone says what is marked."""

from __future__ import annotations

import datetime
import enum
import fcntl
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from beholder.columns import SAMPLE
from beholder.errors import OutputError, reading_failed, writing_failed
from beholder.io.writing import write_at
from beholder.scoreset.joined import mark_of

RowsNamed = Callable[[Sequence[str]], Mapping[str, Sequence[int]]]
_MOST_CHANGES = 20_000
"""So many last changes are remembered one by one; who is further behind has to read everything again."""


class Mark(enum.IntEnum):
    """What a row is marked as; the numbers stand in `MarkBook.state`."""

    NONE = 0
    KEEP = 1
    DROP = 2

    @property
    def word(self) -> str | None:
        """As the file has it."""
        return None if self is Mark.NONE else self.name.lower()


MARK_OF: dict[str | None, Mark] = {mark.word: mark for mark in Mark}


class MarkBook:
    """The marks of a score set and their file: JSON lines `{"sample", "mark": "keep"|"drop"|null, "time"}`, later ones win.

    A mark is on the disk (fsync) before `set` returns. What others append is seen by the next call of any method. A last
    line that a crash cut off is taken away when the next one is written; other damaged lines are skipped and counted.

    Attributes:
        state: (N,) uint8, `Mark` of each row.
        num_strangers: marked names that are not in the set; their marks stay in the file.
        num_damaged: lines that could not be read.
    """

    def __init__(
        self, path: Path, num_rows: int, rows_named: RowsNamed, *, has_unique_names: bool, most_changes: int = _MOST_CHANGES
    ) -> None:
        self.path = path
        self.state = np.zeros(num_rows, np.uint8)
        self.num_strangers = self.num_damaged = 0
        self._most_changes = most_changes
        self._rows_named, self._has_unique_names = rows_named, has_unique_names
        self._lock = threading.RLock()
        self._offset, self._identity = 0, (0, 0)
        self._version = self._oldest = 0
        self._changes: list[tuple[int, Mark]] = []
        self._marked: tuple[int, tuple[npt.NDArray[np.int64], ...]] = (-1, ())
        self.catch_up()

    @property
    def version(self) -> int:
        """Counts up with every change."""
        return self._version

    def marked(self, mark: Mark) -> npt.NDArray[np.int64]:
        """Rows marked so, in order."""
        with self._lock:
            if self._marked[0] != self._version:
                self._marked = (self._version, tuple(np.flatnonzero(self.state == number) for number in (Mark.KEEP, Mark.DROP)))
            return self._marked[1][mark - 1]

    def set(self, rows: Sequence[int], names: Sequence[str], mark: Mark) -> None:
        """Mark these rows (and all others of the same names). Raises OutputError: then nothing is marked."""
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        lines = [
            json.dumps({SAMPLE: name, "mark": mark.word, "time": time}, ensure_ascii=False) for name in dict.fromkeys(names)
        ]
        if not lines:
            return
        with self._lock:
            self.catch_up()
            try:
                _append(self.path, ("\n".join(lines) + "\n").encode())
            except OSError as error:
                raise writing_failed(str(self.path), error) from error
            known = dict(zip(names, ([row] for row in rows), strict=True)) if self._has_unique_names else {}
            self.catch_up(known)

    def changes(self, since: int) -> tuple[int, list[tuple[int, Mark]] | None]:
        """The newest version, and (row, mark) of what changed after `since`, in order; None: everything may have changed."""
        with self._lock:
            self.catch_up()
            if since < self._oldest or since > self._version:
                return self._version, None
            return self._version, self._changes[since - self._oldest :]

    def catch_up(self, known: Mapping[str, Sequence[int]] | None = None) -> None:
        """Read what was appended since; all anew where the file was replaced. `known`: rows of names, to save a search."""
        with self._lock:
            try:
                status = self.path.stat()
            except FileNotFoundError:
                if self._offset:
                    self._forget()
                return
            except OSError as error:
                raise reading_failed(str(self.path), error) from error
            identity = (status.st_dev, status.st_ino)
            if self._offset and (identity != self._identity or status.st_size < self._offset):
                self._forget()
            self._identity = identity
            if status.st_size > self._offset:
                self._read(known or {})

    def _forget(self) -> None:
        """Begin again with an empty book; watchers have to read everything again."""
        self.state[:] = 0
        self.num_strangers = self.num_damaged = self._offset = 0
        self._version += 1
        self._oldest, self._changes = self._version, []

    def _read(self, known: Mapping[str, Sequence[int]]) -> None:
        """Take in all whole lines behind `_offset`; a last one without its end waits, unless it is whole."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError as error:
            raise reading_failed(str(self.path), error) from error
        end = data.rfind(b"\n") + 1
        found: dict[str, Mark] = {}
        for line in data[:end].split(b"\n"):
            if line.strip():
                event = _event(line)
                if event is None:
                    self.num_damaged += 1
                else:
                    found.pop(event[0], None)
                    found[event[0]] = event[1]
        self._offset += end
        self._apply(found, known)

    def _apply(self, found: Mapping[str, Mark], known: Mapping[str, Sequence[int]]) -> None:
        missing = [name for name in found if name not in known]
        places = {**self._rows_named(missing), **known} if missing else known
        for name, mark in found.items():
            rows = places.get(name, ())
            self.num_strangers += not rows
            for row in rows:
                if self.state[row] != mark:
                    self.state[row] = mark
                    self._version += 1
                    self._changes.append((int(row), mark))
        if len(self._changes) > self._most_changes:
            surplus = len(self._changes) - self._most_changes // 2
            self._changes, self._oldest = self._changes[surplus:], self._oldest + surplus


def _event(line: bytes) -> tuple[str, Mark] | None:
    """Sample and mark of a line; None for one that is damaged."""
    try:
        name, word = mark_of(line)
    except ValueError:
        return None
    return name, MARK_OF[word]


def _append(path: Path, data: bytes) -> None:
    """Add whole lines to a file and flush them to the disk; on failure the file is as it was. Raises OSError."""
    is_new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # another browse may write the same file
        end = _mended_end(handle)
        try:
            write_at(handle, data, end)
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, end)
            raise
    finally:
        os.close(handle)
    if is_new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _mended_end(handle: int) -> int:
    """Where the next line begins: behind the last whole one. A cut-off line is taken away, one that lacks its end gets it."""
    size = os.fstat(handle).st_size
    start = max(0, size - (1 << 20))
    tail = os.pread(handle, size - start, start)
    if not tail or tail.endswith(b"\n"):
        return size
    last = tail[tail.rfind(b"\n") + 1 :]
    if _event(last) is not None:
        return write_at(handle, b"\n", size)
    os.ftruncate(handle, size - len(last))
    return size - len(last)


def check_writable(path: Path) -> None:
    """Raise OutputError where marks could not be written: said at the start, not at the first mark."""
    if path.is_dir():
        raise OutputError(f"cannot write marks to {path}: it is a folder; name a file with --marks")
    place = path if path.exists() else path.parent
    if not place.exists():
        raise OutputError(
            f"cannot write marks to {path}: there is no folder {path.parent}; make it, or name another with --marks"
        )
    if not os.access(place, os.W_OK):
        raise OutputError(f"cannot write marks to {path}: permission denied; name another file with --marks")


def summary(book: MarkBook) -> str:
    """What the file holds, for people."""
    kept, dropped = len(book.marked(Mark.KEEP)), len(book.marked(Mark.DROP))
    parts = [f"{kept:,} keep, {dropped:,} drop"]
    if book.num_strangers:
        parts.append(f"{book.num_strangers:,} of other sets")
    if book.num_damaged:
        parts.append(f"{book.num_damaged:,} damaged lines skipped")
    return "; ".join(parts)
