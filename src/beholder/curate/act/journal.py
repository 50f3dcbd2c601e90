"""The journal of an act: JSON lines, each on the disk before what it describes is done; written, and read again.

Each line ends with `check`: 16 hex digits of the sha256 of the line before's check and the line's own text up to there. The
first line also has `written`: the bytes of the file that were flushed to the disk, and 8 hex digits of the sha256 of that
number. It is overwritten in place after each flush, and counts as empty for the line's own check. So a line that was changed,
doubled, swapped or taken out is known, and a file that is shorter has lost its end, while that of a killed run is at least so
long.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beholder import __version__
from beholder.curate.act.files import rename_new, sync_folder
from beholder.curate.act.state import JournalState, PackedShard, Settled, check_header
from beholder.errors import InputError, OutputError, reading_failed, writing_failed
from beholder.io import crash

FORMAT, VERSION = "beholder-journal", 2
_MARKERS = frozenset(("planned", "sums", "results", "end", "undo", "undone", "undone shard", "shard"))
"""Lines with these end a batch that was written at once."""
_FIELD, _DIGITS = b',"check":"', 16
_END = b'"}\n'
_CHECK_BYTES = len(_FIELD) + _DIGITS + len(_END)
_WRITTEN = re.compile(rb'"written":"(\d{16}) ([0-9a-f]{8})"')


def _sum(before: str, text: bytes) -> str:
    """The checksum of a line. `before`: that of the line before, "" for the first one, whose one value changes later."""
    if not before:
        text = _WRITTEN.sub(b'"written":""', text, count=1)
    return hashlib.sha256(before.encode() + text).hexdigest()[:_DIGITS]


def _checked(line: bytes, before: str) -> str | None:
    """The checksum of a line that follows the one of checksum `before`; None where it is not as it was written there."""
    found = _sum(before, line[:-_CHECK_BYTES])
    return found if line[-_CHECK_BYTES:] == _FIELD + found.encode() + _END else None


def _written_text(num_bytes: int) -> str:
    """The value of `written`: always of the same length, so that it can be overwritten."""
    number = f"{num_bytes:016d}"
    return f"{number} {hashlib.sha256(number.encode()).hexdigest()[:8]}"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and line.endswith(b"\n") else None


def read_journal(path: str) -> JournalState:
    """Go through a journal. Raises InputError where there is none, or it is none, or it is damaged."""
    [(state, _)] = deque(settled(path), maxlen=1)
    return state


def origins_of(path: str, shard: PackedShard) -> dict[str, tuple[int, int]]:
    """The local files that a packed shard was made of: path -> (size, time in ns). Raises InputError."""
    try:
        with Path(path).open("rb") as file:
            file.seek(shard.at)
            said = _parsed(file.readline())
    except OSError as error:
        raise reading_failed(path, error) from error
    try:
        return {str(origin): (int(size), int(time)) for origin, (size, time) in (said or {})["origins"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{path} is damaged at byte {shard.at:,}: it does not say what {shard.name} was made of") from None


def settled(path: str) -> Iterator[tuple[JournalState, Settled | None]]:
    """Everything that a journal settles, in order, and what it has said so far; at the end None.

    A line that a crash left torn ends it, and so do lines that no marker follows: a killed run wrote them and did nothing.
    Where the end of the file is lost, these are taken as well, as what they speak of may have been done. So it is where the
    last line alone is not as it was written: it counts as lost.

    Raises:
        InputError: there is no journal, or it is none, or it is damaged: lines were changed, or some are missing.
    """
    state: JournalState | None = None
    waiting: list[_Line] = []
    at, check = 0, ""
    size_of_damaged = 0
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                if state is None:
                    state = _header(path, line)
                    at, check = len(line), state.check
                    state.num_bytes = at
                    continue
                if _is_torn(line, check, at, state):
                    break
                said, found = _parsed(line), _checked(line, check)
                if said is None or found is None:
                    if file.readline():
                        raise _damaged(path, number, "its checksum is wrong: it was changed, or a line before it is missing")
                    size_of_damaged = at + len(line)  # the last line: what it said is lost, as where the end is cut off
                    break
                waiting.append((number, at, said))
                at, check = at + len(line), found
                if not _MARKERS.isdisjoint(said):
                    state.num_bytes, state.check = at, check
                    for outcome in _taken(state, waiting, path):
                        yield state, outcome
                    waiting = []
    except OSError as error:
        raise reading_failed(path, error) from error
    if state is None:
        raise InputError(f"{path} is empty; nothing was done by it")
    if size_of_damaged or at < state.num_written:  # of what was written something is gone
        state.num_lost += max(state.num_written, size_of_damaged) - at
        state.is_last_damaged = bool(size_of_damaged)
        state.num_bytes, state.check = at, check
        for outcome in _taken(state, waiting, path):
            yield state, outcome
    yield state, None


_Line = tuple[int, int, dict[str, Any]]
"""Its number, where it begins, and what it says."""


def _header(path: str, line: bytes) -> JournalState:
    said = _parsed(line)
    if said is None or said.get("format") != FORMAT:
        raise InputError(f"{path} is no journal of beholder")
    if said.get("version") != VERSION:
        raise InputError(
            f"{path} was written by another version of beholder ({str(said.get('beholder'))[:40]!r}); use that one"
        )
    check, written = _checked(line, ""), _WRITTEN.search(line)
    if check is None or written is None or written[0] != f'"written":"{_written_text(int(written[1]))}"'.encode():
        raise _damaged(path, 1, "its checksum is wrong: it was changed")
    try:
        check_header(said)
    except TypeError as error:
        raise _damaged(path, 1, str(error)) from None
    return JournalState(said, check=check, num_written=int(written[1]))


def _is_torn(line: bytes, before: str, at: int, state: JournalState) -> bool:
    """Whether a line was never written whole: the last one, behind what was flushed, or cut off together with all behind it."""
    if line.endswith(b"\n") or _checked(line[:-1] + b"\n", before):
        return False
    return at >= state.num_written or at + len(line) < state.num_written


def _taken(state: JournalState, lines: list[_Line], path: str) -> Iterable[Settled]:
    """What a batch of lines settles. Raises InputError for lines that are none of ours, as someone has changed the file."""
    found: list[Settled] = []
    for number, start, line in lines:
        try:
            found += state.take(line, start)
        except KeyError as error:
            raise _damaged(path, number, f"{error} lacks, or stands in no line before") from None
        except TypeError as error:
            raise _damaged(path, number, str(error)) from None
    return found


def _damaged(path: str, number: int, why: str) -> InputError:
    return InputError(
        f"{path} is damaged in line {number:,} ({why}); nothing was touched: put a copy of it back that is whole, or go by "
        'its other lines by hand ("from": where a file was, "to": where it was made or moved to)'
    )


class Journal:
    """A journal that is open for writing, locked against other runs.

    Args:
        path: of the file.
        descriptor: of the same.
        check: of its last line.
    """

    def __init__(self, path: str, descriptor: int, check: str = "") -> None:
        self.path, self._descriptor = path, descriptor
        self._end = (os.fstat(descriptor).st_size, check)
        self._place = -1

    def write(self, *lines: dict[str, Any], sync: bool = True) -> None:
        """Append lines; with `sync` they are on the disk when this returns.

        Raises OutputError; then, and when it is interrupted, none of the lines is in the file, so that others may follow.
        """
        crash.reach("journal before lines")
        start, check = self._end
        texts: list[bytes] = []
        for line in lines:
            text = json.dumps(line, separators=(",", ":")).encode()[:-1]
            check = _sum(check, text)
            texts.append(text + _FIELD + check.encode() + _END)
        try:
            if os.fstat(self._descriptor).st_size != start:  # lines of a write that was interrupted
                os.ftruncate(self._descriptor, start)
            view, at = memoryview(b"".join(texts)), start
            while view:
                count = os.pwrite(self._descriptor, view, at)
                view, at = view[count:], at + count
            if sync:
                os.fsync(self._descriptor)
            self._end = (at, check)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end[0])
            if isinstance(error, OSError):
                raise writing_failed(self.path, error) from error
            raise
        crash.reach("journal lines written")
        if sync:
            self._note_written(at)
        crash.reach("journal after lines")

    def _note_written(self, num_bytes: int) -> None:
        """Say in the first line how much is on the disk. Where that fails it says less, which is as true."""
        with contextlib.suppress(OSError):
            if self._place < 0:
                found = _WRITTEN.search(os.pread(self._descriptor, 1 << 16, 0))
                assert found is not None
                self._place = found.start(1)
            os.pwrite(self._descriptor, _written_text(num_bytes).encode(), self._place)


@contextlib.contextmanager
def new_journal(path: str, **header: Any) -> Iterator[tuple[Journal, JournalState]]:
    """Begin a journal, which appears with its first line in it. Raises OutputError where `path` is taken."""
    run = secrets.token_hex(6)
    half = Path(path).with_name(f".beholder-{run}-journal.tmp")
    try:
        half.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(half, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise writing_failed(path, error) from error
    try:
        _lock(path, descriptor)
        journal = Journal(path, descriptor)
        said = {"format": FORMAT, "version": VERSION, "written": _written_text(0), "beholder": __version__, "id": run}
        said |= {"time": _now()} | header
        journal.write(said)
        try:
            rename_new(str(half), path)
        except FileExistsError:
            raise OutputError(
                f"{path} exists and is no journal of this act, or another run has just begun it; "
                "name another with --journal-out"
            ) from None
        except OSError as error:
            raise writing_failed(path, error) from error
        sync_folder(str(Path(path).absolute().parent))
        yield journal, JournalState(said)
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            half.unlink()


@contextlib.contextmanager
def reopened(path: str, *, for_undo: bool = False) -> Iterator[tuple[Journal, JournalState]]:
    """Open a journal to go on with it, or to undo it; a half-written end is cut off. Raises InputError, OutputError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise reading_failed(path, error) from error
    try:
        _lock(path, descriptor)
        state = read_journal(path)
        if state.is_undone and not for_undo:
            raise InputError(f"{path}: this act has just been taken back, or is being so; run the same command again")
        try:
            if os.fstat(descriptor).st_size != state.num_bytes:
                os.ftruncate(descriptor, state.num_bytes)
                os.fsync(descriptor)
        except OSError as error:
            raise writing_failed(path, error) from error
        yield Journal(path, descriptor, state.check), state
    finally:
        os.close(descriptor)


def _lock(path: str, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"another run is using {path}; wait for it") from None
    except OSError:  # a file system without locks
        return


def end_line() -> dict[str, Any]:
    """The line of an act that has come to its end."""
    return {"end": "done", "time": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Whole numbers as ascending [first, last] stretches."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found
