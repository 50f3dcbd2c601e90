"""Acts in, lines on disk out, each before the act it describes; read again, what was planned, done and undone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beholder import __version__
from beholder.curation.actions.entries import PackedShard, Settled, Told
from beholder.curation.actions.lines import check_header
from beholder.curation.actions.renaming import rename_new, sync_folder
from beholder.errors import InputError, OutputError, reading_failed, writing_failed

FORMAT, VERSION = "beholder-journal", 1


def read_journal(path: str) -> Told:
    """Go through a journal. Raises InputError where there is none, or it is none."""
    told: Told | None = None
    for told, _ in settled(path):  # noqa: B007 (the last one holds everything)
        pass
    assert told is not None
    return told


def header_of(path: str) -> dict[str, Any]:
    """The first line of a journal of ours; {} of any other file. Raises OSError."""
    with Path(path).open("rb") as file:
        said = _parsed(file.readline(1 << 20))
    return said if said is not None and said.get("format") == FORMAT and said.get("version") == VERSION else {}


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


def settled(path: str) -> Iterator[tuple[Told, Settled | None]]:
    """Everything that a journal settles, in order, and what it has said so far; at the end None.

    A line that a crash left torn ends it, and so do lines that no marker follows.

    Raises:
        InputError: there is no journal, or it is none.
    """
    told: Told | None = None
    waiting: list[tuple[int, int, dict[str, Any]]] = []
    at = 0
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                said = _parsed(line)
                if said is None:
                    if any(_parsed(rest) is not None for rest in file):
                        raise _damaged(path, number, "it is no line of JSON")
                    break
                start, at = at, at + len(line)
                if told is None:
                    told = _header(path, said)
                    told.num_bytes = at
                    continue
                waiting.append((number, start, said))
                if not _MARKERS.isdisjoint(said):
                    told.num_bytes = at
                    for outcome in _taken(told, waiting, path):
                        yield told, outcome
                    waiting = []
    except OSError as error:
        raise reading_failed(path, error) from error
    if told is None:
        is_empty = not Path(path).stat().st_size
        raise InputError(f"{path} is empty; nothing was done by it" if is_empty else f"{path} is no journal of beholder")
    yield told, None


def _taken(told: Told, lines: list[tuple[int, int, dict[str, Any]]], path: str) -> Iterator[Settled]:
    """What a batch of lines settles. Raises InputError for lines that are none of ours, as someone has changed the file."""
    found: list[Settled] = []
    for number, start, line in lines:
        try:
            found += told.take(line, start)
        except KeyError as error:
            raise _damaged(path, number, f"{error} lacks, or stands in no line before") from None
        except (OverflowError, TypeError) as error:
            raise _damaged(path, number, str(error)) from None
    yield from found


def _damaged(path: str, number: int, why: str) -> InputError:
    return InputError(f"{path} is damaged in line {number:,} ({why}); nothing was done")


_MARKERS = frozenset(("planned", "sums", "results", "end", "undo", "undone", "undone shard", "shard"))
"""Lines with these end a batch that was written at once."""


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and line.endswith(b"\n") else None


def _header(path: str, said: dict[str, Any]) -> Told:
    if said.get("format") != FORMAT:
        raise InputError(f"{path} is no journal of beholder")
    if said.get("version") != VERSION:
        raise InputError(f"{path} was written by another version of beholder ({said.get('beholder')}); use that one")
    try:
        check_header(said)
    except TypeError as error:
        raise _damaged(path, 1, str(error)) from None
    return Told(said)


class Journal:
    """A journal that is open for writing, locked against other runs."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def write(self, *lines: dict[str, Any], sync: bool = True) -> None:
        """Append lines; with `sync` they are on the disk when this returns.

        Raises OutputError; then, and when it is interrupted, none of the lines is in the file, so that others may follow.
        """
        data = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
        before = -1
        try:
            before = os.fstat(self._descriptor).st_size
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            if sync:
                os.fsync(self._descriptor)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, before)
            if isinstance(error, OSError):
                raise writing_failed(self.path, error) from error
            raise


@contextlib.contextmanager
def new_journal(path: str, **header: Any) -> Iterator[tuple[Journal, str]]:
    """Begin a journal, which appears with its first line in it; also gives its id. Raises OutputError where `path` is taken."""
    run = secrets.token_hex(6)
    half = Path(path).with_name(f".beholder-{run}-journal.tmp")
    try:
        half.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise writing_failed(path, error) from error
    try:
        _lock(path, descriptor)
        journal = Journal(path, descriptor)
        said = {"format": FORMAT, "version": VERSION, "beholder": __version__, "id": run}
        journal.write(said | {"time": _now()} | header)
        try:
            rename_new(str(half), path)
        except FileExistsError:
            raise OutputError(
                f"{path} exists and is no journal of this act, or another run has just begun it; name another with --journal"
            ) from None
        except OSError as error:
            raise writing_failed(path, error) from error
        sync_folder(str(Path(path).absolute().parent))
        yield journal, run
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            half.unlink()


@contextlib.contextmanager
def reopened(path: str, *, for_undo: bool = False) -> Iterator[tuple[Journal, Told]]:
    """Open a journal to go on with it, or to undo it; a half-written end is cut off. Raises InputError, OutputError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except OSError as error:
        raise reading_failed(path, error) from error
    try:
        _lock(path, descriptor)
        told = read_journal(path)
        if told.is_undone and not for_undo:
            raise InputError(f"{path}: this act has just been taken back, or is being so; run the same command again")
        try:
            if os.fstat(descriptor).st_size != told.num_bytes:
                os.ftruncate(descriptor, told.num_bytes)
                os.fsync(descriptor)
        except OSError as error:
            raise writing_failed(path, error) from error
        yield Journal(path, descriptor), told
    finally:
        os.close(descriptor)


def _lock(path: str, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"another run is using {path}; wait for it") from None
    except OSError:  # a file system without locks
        return


def end() -> dict[str, Any]:
    """The line of an act that has come to its end."""
    return {"end": "done", "time": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def ranges(numbers: list[int]) -> list[list[int]]:
    """Ascending numbers as [first, last] stretches."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found
