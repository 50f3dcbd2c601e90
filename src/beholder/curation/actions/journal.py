"""Acts in, lines on disk out, each before the act it describes; read again, what was planned, done and undone."""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beholder import __version__
from beholder.curation.actions.renaming import rename_new, sync_folder
from beholder.errors import InputError, OutputError, reading_failed, writing_failed

FORMAT, VERSION = "beholder-journal", 1


@dataclass(slots=True)
class Intent:
    """One file that is to be made or moved.

    Attributes:
        number: of the intent, from 0.
        sample: the picture's name.
        source: the file, absolute; the archive, for what is in one; a URL.
        target: where it goes, absolute.
        size, mtime_ns: of `source` when it was planned; -1 where that is not known (URLs).
        length: bytes of the new file, where it is a part of `source`.
        offset: where that part begins, if it has a place.
        part: number of the file among those of its picture, where its bytes have no place.
        is_picture: false for what belongs to one.
    """

    number: int
    sample: str
    source: str
    target: str
    size: int
    mtime_ns: int
    length: int | None = None
    offset: int | None = None
    part: int | None = None
    is_picture: bool = True

    def to_json(self) -> dict[str, Any]:
        """What its line holds."""
        said = {"do": self.number, "from": self.source, "to": self.target, "size": self.size, "mtime": self.mtime_ns}
        if self.is_picture:
            said["sample"] = self.sample
        if self.length is not None:
            said["length"] = self.length
        if self.offset is not None:
            said["offset"] = self.offset
        if self.part is not None:
            said["part"] = self.part
        return said | ({} if self.is_picture else {"of": self.sample})

    @property
    def num_bytes(self) -> int:
        """Of the new file, as far as they are known."""
        return max(self.size if self.length is None else self.length, 0)

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Intent:
        """The intent of a line. Raises KeyError, TypeError for what is none."""
        if not (isinstance(said["do"], int) and isinstance(said["from"], str) and isinstance(said["to"], str)):
            raise TypeError("a line that names no files")
        return cls(
            said["do"], said.get("sample") or said.get("of", ""), said["from"], said["to"], said["size"], said["mtime"],
            said.get("length"), said.get("offset"), said.get("part"), "sample" in said,
        )  # fmt: skip


@dataclass
class Told:
    """What a journal says, in little memory whatever its length, but for what was left out and where packed pictures are from.

    Attributes:
        header: its first line.
        num_bytes: of the file that are whole; what a killed run left behind them has not been acted on.
        num_intents: files that were planned.
        unsettled: intents of which it is not said what became of them: the run was killed meanwhile.
        num_pictures, num_files, num_file_bytes: done.
        left_out: name of a picture -> (reason, text), of what was tried or planned in vain.
        folders: that did not exist before, in the order in which they were made.
        shards: finished tars or Parquet files, in order: what their lines say.
        num_planned: pictures that have been looked at.
        is_finished: whether all that was asked for was gone through.
        undone: numbers of intents, and names of shards, that were taken back.
        is_undone: whether an undo was begun.
        is_wholly_undone: whether one came to its end and nothing was left.
    """

    header: dict[str, Any]
    num_bytes: int = 0
    num_intents: int = 0
    unsettled: dict[int, Intent] = field(default_factory=dict)
    num_pictures: int = 0
    num_files: int = 0
    num_file_bytes: int = 0
    left_out: dict[str, tuple[str, str]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    shards: list[dict[str, Any]] = field(default_factory=list)
    num_planned: int = 0
    is_finished: bool = False
    undone: Numbers = field(default_factory=lambda: Numbers())
    undone_shards: set[str] = field(default_factory=set)
    is_undone: bool = False
    is_wholly_undone: bool = False

    def take(self, said: dict[str, Any]) -> Iterator[Settled]:
        """Take one line in; gives the intents that it settles."""
        if "do" in said:
            intent = Intent.from_json(said)
            self.unsettled[intent.number] = intent
            self.num_intents = intent.number + 1
        elif "skip" in said:
            self.left_out[said["skip"]] = (said["reason"], said["text"])
        elif "folder" in said:
            self.folders.append(said["folder"])
        elif "results" in said:
            yield from self._settle(said)
        elif "shard" in said:
            self.shards.append(said)
        elif "undone" in said:
            self.undone.add(said["undone"])
        elif "undone shard" in said:
            self.undone_shards.add(said["undone shard"])
        self.num_planned = said.get("planned", self.num_planned)
        self.is_undone |= "undo" in said
        self.is_finished |= said.get("end") == "done"
        self.is_wholly_undone = said.get("end") == "undone" and not said.get("left", 1)

    def _settle(self, said: dict[str, Any]) -> Iterator[Settled]:
        copies = {number: more for number, *more in said.get("copies", ())}
        for first, last in said["results"]:
            for number in range(first, last + 1):
                intent = self.unsettled.pop(number)
                if intent.is_picture:
                    self.num_pictures += 1
                    self.left_out.pop(intent.sample, None)
                self.num_files += 1
                self.num_file_bytes += intent.num_bytes
                yield Settled(intent, True, *copies.get(number, ()))
        for number, reason, text in said.get("failed", ()):
            intent = self.unsettled.pop(number)
            if intent.is_picture:
                self.left_out[intent.sample] = (reason, text)
            yield Settled(intent, False)


@dataclass(frozen=True)
class Settled:
    """An intent and what became of it.

    Attributes:
        intent: the intent.
        is_done: whether it was done.
        sha256, mtime_ns: of a copy; None for moves and links.
    """

    intent: Intent
    is_done: bool
    sha256: str | None = None
    mtime_ns: int | None = None


class Numbers:
    """A set of whole numbers, kept as stretches."""

    def __init__(self) -> None:
        self._stretches: list[list[int]] = []

    def add(self, stretches: list[list[int]]) -> None:
        """Add [first, last] stretches. Raises TypeError, ValueError for what are none."""
        merged: list[list[int]] = []
        for first, last in sorted([*self._stretches, *([int(low), int(high)] for low, high in stretches)]):
            if merged and first <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], last)
            else:
                merged.append([first, last])
        self._stretches = merged

    def __contains__(self, number: int) -> bool:
        at = bisect.bisect_right(self._stretches, number, key=lambda stretch: stretch[0]) - 1
        return at >= 0 and number <= self._stretches[at][1]


def read_journal(path: str) -> Told:
    """Go through a journal. Raises InputError where there is none, or it is none."""
    told: Told | None = None
    for told, _ in settled(path):  # noqa: B007 (the last one holds everything)
        pass
    assert told is not None
    return told


def settled(path: str) -> Iterator[tuple[Told, Settled | None]]:
    """Everything that a journal settles, in order, and what it has said so far; at the end None.

    A line that a crash left torn ends it, and so do lines that no marker follows.

    Raises:
        InputError: there is no journal, or it is none.
    """
    told: Told | None = None
    waiting: list[dict[str, Any]] = []
    at = 0
    try:
        with Path(path).open("rb") as file:
            for line in file:
                said = _parsed(line)
                if said is None:
                    if any(_parsed(rest) is not None for rest in file):
                        raise InputError(f"{path} is damaged at byte {at:,}; nothing was done")
                    break
                at += len(line)
                if told is None:
                    told = _header(path, said)
                    told.num_bytes = at
                    continue
                waiting.append(said)
                if not _MARKERS.isdisjoint(said):
                    told.num_bytes = at
                    for outcome in _taken(told, waiting, path, at):
                        yield told, outcome
                    waiting = []
    except OSError as error:
        raise reading_failed(path, error) from error
    if told is None:
        is_empty = not Path(path).stat().st_size
        raise InputError(f"{path} is empty; nothing was done by it" if is_empty else f"{path} is no journal of beholder")
    yield told, None


def _taken(told: Told, lines: list[dict[str, Any]], path: str, at: int) -> Iterator[Settled]:
    """What a batch of lines settles. Raises InputError for lines that are none of ours, as someone has changed the file."""
    found: list[Settled] = []
    try:
        for line in lines:
            found += told.take(line)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        text = f"{path} is damaged before byte {at:,} ({type(error).__name__}); what comes from there on was not looked at"
        raise InputError(text) from None
    yield from found


_MARKERS = frozenset(("planned", "results", "end", "undo", "undone", "undone shard", "shard"))
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
    return Told(said)


class Journal:
    """A journal that is open for writing, locked against other runs."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def write(self, *lines: dict[str, Any], sync: bool = True) -> None:
        """Append lines; with `sync` they are on the disk when this returns.

        Raises OutputError; then none of the lines is in the file, so that others may follow.
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
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, before)
            raise writing_failed(self.path, error) from error


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
        journal.write(said | {"time": datetime.now(UTC).isoformat(timespec="seconds")} | header)
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


def ranges(numbers: list[int]) -> list[list[int]]:
    """Ascending numbers as [first, last] stretches."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found
