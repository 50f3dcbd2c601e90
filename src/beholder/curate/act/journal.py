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
from beholder.curate.act.checks import checked, place_of_written, with_check, written_in, written_text
from beholder.curate.act.entries import PackedShard, Settled, Told
from beholder.curate.act.lines import check_header
from beholder.curate.act.renaming import rename_new, sync_folder
from beholder.errors import InputError, OutputError, reading_failed, writing_failed

FORMAT, VERSION = "beholder-journal", 2
_UNCHECKED = 1
"""The version without checksums."""
_VERSIONS = (_UNCHECKED, VERSION)


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
    return said if said is not None and said.get("format") == FORMAT and said.get("version") in _VERSIONS else {}


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

    A line that a crash left torn ends it, and so do lines that no marker follows: a killed run wrote them and did nothing.
    Where the end of the file is lost, these are taken as well, as what they speak of may have been done. So it is where the
    last line alone is not as it was written: it counts as lost.

    Raises:
        InputError: there is no journal, or it is none, or it is damaged: lines were changed, or some are missing.
    """
    told: Told | None = None
    waiting: list[_Line] = []
    at, check = 0, ""
    is_last_damaged, size = False, 0
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                if told is None:
                    told = _header(path, line)
                    at, check = len(line), told.check
                    told.num_bytes = at
                    continue
                said = _parsed(line)
                if told.is_checked:
                    if _is_torn(line, check, at, told):
                        break
                    before, check = check, checked(line, check) or ""
                    if said is None or not check:
                        if not file.readline():  # the last line: what it said is lost, as where the end is cut off
                            is_last_damaged, size, check = True, at + len(line), before
                            break
                        raise _damaged(path, number, "its checksum is wrong: it was changed, or a line before it is missing")
                elif said is None:
                    if any(_parsed(rest) is not None for rest in file):
                        raise _damaged(path, number, "it is no line of JSON")
                    break
                waiting.append((number, at, said))
                at += len(line)
                if not _MARKERS.isdisjoint(said):
                    told.num_bytes, told.check = at, check
                    for outcome in _taken(told, waiting, path):
                        yield told, outcome
                    waiting = []
    except OSError as error:
        raise reading_failed(path, error) from error
    if told is None:
        raise InputError(f"{path} is empty; nothing was done by it")
    if is_last_damaged or at < told.num_written:  # of what was written something is gone
        told.num_lost += max(told.num_written, size) - at
        told.is_last_damaged = is_last_damaged
        told.num_bytes, told.check = at, check
        for outcome in _taken(told, waiting, path):
            yield told, outcome
    yield told, None


_Line = tuple[int, int, dict[str, Any]]
"""Its number, where it begins, and what it says."""


def _is_torn(line: bytes, before: str, at: int, told: Told) -> bool:
    """Whether a line was never written whole: the last one, behind what was flushed, or cut off together with all behind it."""
    if line.endswith(b"\n") or checked(line[:-1] + b"\n", before):
        return False
    return at >= told.num_written or at + len(line) < told.num_written


def _taken(told: Told, lines: list[_Line], path: str) -> Iterator[Settled]:
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
    return InputError(
        f"{path} is damaged in line {number:,} ({why}); nothing was touched: put a copy of it back that is whole, or go by "
        'its other lines by hand ("from": where a file was, "to": where it was made or moved to)'
    )


_MARKERS = frozenset(("planned", "sums", "results", "end", "undo", "undone", "undone shard", "shard"))
"""Lines with these end a batch that was written at once."""


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and line.endswith(b"\n") else None


def _header(path: str, line: bytes) -> Told:
    said = _parsed(line)
    if said is None or said.get("format") != FORMAT:
        raise InputError(f"{path} is no journal of beholder")
    version = said.get("version")
    if version not in _VERSIONS:
        raise InputError(
            f"{path} was written by another version of beholder ({str(said.get('beholder'))[:40]!r}); use that one"
        )
    is_checked = version == VERSION or "check" in said or "written" in said
    check, num_written = (checked(line, ""), written_in(line)) if is_checked else ("", 0)
    if check is None or num_written is None:
        raise _damaged(path, 1, "its checksum is wrong: it was changed")
    try:
        check_header(said)
    except TypeError as error:
        raise _damaged(path, 1, str(error)) from None
    return Told(said, check=check, num_written=num_written)


class Journal:
    """A journal that is open for writing, locked against other runs.

    Args:
        path: of the file.
        descriptor: of the same.
        check: of its last line; None for one without checksums, which goes on without.
    """

    def __init__(self, path: str, descriptor: int, check: str | None = "") -> None:
        self.path, self._descriptor = path, descriptor
        self._end = (os.fstat(descriptor).st_size, check)
        self._place = -1

    def write(self, *lines: dict[str, Any], sync: bool = True) -> None:
        """Append lines; with `sync` they are on the disk when this returns.

        Raises OutputError; then, and when it is interrupted, none of the lines is in the file, so that others may follow.
        """
        start, check = self._end
        texts: list[bytes] = []
        for line in lines:
            if check is None:
                texts.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            else:
                text, check = with_check(line, check)
                texts.append(text)
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
        if sync and check is not None:
            self._note_written(at)

    def _note_written(self, num_bytes: int) -> None:
        """Say in the first line how much is on the disk. Where that fails it says less, which is as true."""
        with contextlib.suppress(OSError):
            if self._place < 0:
                self._place = place_of_written(os.pread(self._descriptor, 1 << 16, 0))
            os.pwrite(self._descriptor, written_text(num_bytes).encode(), self._place)


@contextlib.contextmanager
def new_journal(path: str, **header: Any) -> Iterator[tuple[Journal, str]]:
    """Begin a journal, which appears with its first line in it; also gives its id. Raises OutputError where `path` is taken."""
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
        said = {"format": FORMAT, "version": VERSION, "written": written_text(0), "beholder": __version__, "id": run}
        journal.write(said | {"time": _now()} | header)
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
        yield journal, run
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            half.unlink()


@contextlib.contextmanager
def reopened(path: str, *, for_undo: bool = False) -> Iterator[tuple[Journal, Told]]:
    """Open a journal to go on with it, or to undo it; a half-written end is cut off. Raises InputError, OutputError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
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
        yield Journal(path, descriptor, told.check if told.is_checked else None), told
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
