"""The journal of an act: what it says, and its lines, each on the disk before what it describes is done.

They are JSON. Each ends with `check`: 16 hex digits of the sha256 of the line before's check and the line's own text up to
there. The first line also has `written`: the bytes of the file that were flushed to the disk, and 8 hex digits of the sha256
of that number. It is overwritten in place after each flush, and counts as empty for the line's own check. So a line that was
changed, doubled, swapped or taken out is known, and a file that is shorter has lost its end, while that of a killed run is at
least so long.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beholder import __version__
from beholder.curate.act.change import SidecarChange
from beholder.curate.act.files import Intent, half_name, rename_new, sync_folder
from beholder.curate.options import ACTIONS
from beholder.errors import InputError, OutputError, reading_failed, writing_failed
from beholder.io import crash
from beholder.io.records import json_value
from beholder.io.writing import write_at

FORMAT, VERSION = "beholder-journal", 2
_MARKERS = frozenset(("planned", "sums", "results", "end", "undo", "undone", "undone shard", "shard"))
"""Lines with these end a batch that was written at once."""
_FIELD, _DIGITS = b',"check":"', 16
_END = b'"}\n'
_CHECK_BYTES = len(_FIELD) + _DIGITS + len(_END)
_WRITTEN = re.compile(rb'"written":"(\d{16}) ([0-9a-f]{8})"')

MOST_EXAMPLES = 5
"""Texts that are kept of each reason for which pictures are left out."""
_FEW = 8


@dataclass(frozen=True)
class Settled:
    """An intent and what became of it; `sha256` and `mtime_ns` are those of a copy, None for moves and links."""

    intent: Intent
    is_done: bool
    sha256: str | None = None
    mtime_ns: int | None = None


@dataclass(slots=True)
class PackedShard:
    """A tar or Parquet file, finished or being filled.

    Attributes:
        name: of its first file.
        files: path, size, time (ns) and sha256 of each file; none before it is finished.
        captions: counts of captions, where they were of a column.
        at: where its line begins in the journal: `origins_of` reads there which files its pictures are from.
    """

    name: str
    pictures: int = 0
    num_files: int = 0
    num_bytes: int = 0
    renamed: int = 0
    files: tuple[tuple[str, int, int, str], ...] = ()
    captions: Counter[str] = field(default_factory=Counter)
    at: int = 0

    def to_json(self) -> dict[str, Any]:
        """What its line holds."""
        counts = {"pictures": self.pictures, "num_files": self.num_files, "bytes": self.num_bytes, "renamed": self.renamed}
        captions = {"captions": dict(self.captions)} if self.captions else {}
        return {"shard": self.name, **counts, "files": self.files, **captions}

    @classmethod
    def from_json(cls, said: dict[str, Any], at: int) -> PackedShard:
        """The shard of the line that begins at byte `at`. Raises KeyError where a field lacks."""
        counts = said["pictures"], said["num_files"], said["bytes"], said["renamed"]
        return cls(said["shard"], *counts, tuple(map(tuple, said["files"])), Counter(said.get("captions", {})), at)


class LeftOut:
    """Pictures that were left out, and the texts about the first few of each reason."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self._texts: dict[str, str] = {}

    def add(self, sample: str, reason: str, text: str) -> None:
        """A picture was left out."""
        self.settle(sample)
        self.reasons[sample] = sys.intern(reason)
        if sum(self.reasons[other] == reason for other in self._texts) < MOST_EXAMPLES:
            self._texts[sample] = text

    def settle(self, sample: str) -> None:
        """It is tried once more, or was done after all."""
        if self.reasons.pop(sample, None) is not None:
            self._texts.pop(sample, None)

    def counted(self) -> Iterator[tuple[str, int, list[tuple[str, str]]]]:
        """Each reason, the number of pictures, and (sample, text) of the first few."""
        for reason, count in Counter(self.reasons.values()).items():
            yield reason, count, [item for item in self._texts.items() if self.reasons[item[0]] == reason]


class SharedFiles:
    """Captions and JSON that several pictures share, which are planned and neither done nor given up.

    A copy or link is made as soon as one of the pictures was; a move waits for all of them, and a file stays where a picture
    stays that it belongs to.
    """

    def __init__(self, action: str) -> None:
        self._needs_all = action == "move"
        self._waiting: dict[str, Intent] = {}
        self._decided: set[str] = set()
        """Targets of which a picture was done or, of a move, was not."""

    def add(self, intent: Intent) -> None:
        """A shared file is planned."""
        self._waiting[intent.target] = intent

    def note(self, picture: Intent, *, is_done: bool) -> None:
        """Tell what became of a picture."""
        if is_done != self._needs_all:
            self._decided.update(target for target in picture.shares if target in self._waiting)

    def must_wait(self, intent: Intent) -> bool:
        """Whether none of its pictures was copied or linked yet."""
        return intent.is_shared and not self._needs_all and intent.target not in self._decided

    def must_stay(self, intent: Intent) -> bool:
        """Whether a file is not to be moved, as a picture stays that it belongs to."""
        return intent.is_shared and self._needs_all and intent.target in self._decided

    def settle(self, intent: Intent) -> None:
        """A shared file was done, or given up."""
        if self._waiting.get(intent.target) is intent:
            del self._waiting[intent.target]
            self._decided.discard(intent.target)

    def is_waiting(self, intent: Intent) -> bool:
        """Whether the same file is planned to go to the same place."""
        other = self._waiting.get(intent.target)
        return other is not None and (other.source, other.offset) == (intent.source, intent.offset)

    @property
    def waiting(self) -> list[Intent]:
        """All of them."""
        return list(self._waiting.values())

    def ready(self) -> list[Intent]:
        """Those that were passed over with the first of their pictures, and can be done with one that was since."""
        return [] if self._needs_all else [self._waiting[target] for target in sorted(self._decided)]


@dataclass
class JournalState:
    """What a journal says; of pictures that were done nothing is held.

    Attributes:
        check: the checksum of the last line that counts.
        num_written: bytes of the file that were flushed to the disk, as its first line says.
        num_lost: bytes of its end that are gone, found now or by an undo before; what they said is not known.
        is_last_damaged: whether the last line is there but not as it was written; it counts as lost.
        num_bytes: of the file that are whole; what a killed run left behind them has not been acted on.
        unsettled: intents of which it is not said what became of them: the run was killed meanwhile.
        shared: those of `unsettled` that several pictures share.
        sums: number of one of these -> sha256 of what was about to be written, where that has no place of its own.
        num_pictures, num_files, num_file_bytes: done.
        ratings: stars (None: a label alone) -> sidecars that they were written into.
        num_changed: how many of these were there before.
        folders: that did not exist before, in the order in which they were made.
        num_planned: pictures that have been looked at.
        first_made: the first few files that were made or moved.
        is_finished: whether all that was asked for was gone through.
        ended: when that was, ISO 8601.
        undone: first and last numbers of stretches of intents that were taken back, ascending.
        is_undone: whether an undo was begun.
        num_kept_by_undo: files that the last undo left as they were; None while none has come to its end.
    """

    header: dict[str, Any]
    check: str = ""
    num_written: int = 0
    num_lost: int = 0
    is_last_damaged: bool = False
    num_bytes: int = 0
    num_intents: int = 0
    unsettled: dict[int, Intent] = field(default_factory=dict)
    sums: dict[int, str] = field(default_factory=dict)
    num_pictures: int = 0
    num_files: int = 0
    num_file_bytes: int = 0
    ratings: Counter[int | None] = field(default_factory=Counter)
    num_changed: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)
    folders: list[str] = field(default_factory=list)
    shards: list[PackedShard] = field(default_factory=list)
    num_planned: int = 0
    first_made: list[str] = field(default_factory=list)
    is_finished: bool = False
    ended: str = ""
    undone: list[list[int]] = field(default_factory=list)
    undone_shards: set[str] = field(default_factory=set)
    is_undone: bool = False
    num_kept_by_undo: int | None = None

    def __post_init__(self) -> None:
        self.shared = SharedFiles(self.action)

    @property
    def action(self) -> str:
        """What is done: "copy", "link", "symlink", "move", "tars", "hf-parquet" or "xmp"."""
        return str(self.header["action"])

    @property
    def run(self) -> str:
        """Id of the act, of which names of temporary files are made."""
        return str(self.header["id"])

    @property
    def is_wholly_undone(self) -> bool:
        """Whether an undo came to its end and left nothing."""
        return self.num_kept_by_undo == 0

    @property
    def did_nothing(self) -> bool:
        """Whether the act came to its end with every picture left out, so that there is nothing to take back or go on with."""
        is_whole = self.is_finished and not (self.is_undone or self.num_lost or self.unsettled)
        return is_whole and not (self.num_files or self.shards)

    def was_undone(self, intent: Intent) -> bool:
        """Whether it was taken back."""
        at = bisect.bisect(self.undone, [intent.number, 1 << 62]) - 1
        return at >= 0 and intent.number <= self.undone[at][1]

    def plan(self, intent: Intent) -> None:
        """A file is to be made or moved. A picture that had been left out is tried once more."""
        self.unsettled[intent.number] = intent
        self.num_intents = intent.number + 1
        if intent.is_picture:
            self.left_out.settle(intent.sample)
        elif intent.is_shared:
            self.shared.add(intent)

    def done(self, intent: Intent) -> None:
        """It was made or moved. Raises KeyError where it is not planned."""
        self._settle(intent, is_done=True)
        self.num_pictures += intent.is_picture
        self.num_files += 1
        self.num_file_bytes += intent.num_bytes
        if intent.change is not None:
            self.ratings[intent.change.stars] += 1
            self.num_changed += intent.change.splice is not None
        if intent.is_picture:
            self.left_out.settle(intent.sample)
            if len(self.first_made) < _FEW:
                self.first_made.append(intent.target)

    def failed(self, intent: Intent, reason: str, text: str) -> None:
        """It could not be made or moved. Raises KeyError where it is not planned."""
        self._settle(intent, is_done=False)
        if intent.is_picture:
            self.left_out.add(intent.sample, reason, text)

    def _settle(self, intent: Intent, *, is_done: bool) -> None:
        del self.unsettled[intent.number]
        self.sums.pop(intent.number, None)
        if intent.is_picture:
            self.shared.note(intent, is_done=is_done)
        elif intent.is_shared:
            self.shared.settle(intent)

    def take(self, said: dict[str, Any], at: int = 0) -> Iterator[Settled]:
        """Take in the line that begins at byte `at`; gives the intents that it settles.

        Raises KeyError, TypeError for what is no line of ours.
        """
        check_line(said)
        if "do" in said:
            self.plan(Intent.from_json(said))
        elif "skip" in said:
            self.left_out.add(said["skip"], said["reason"], said["text"])
        elif "folder" in said:
            self.folders.append(said["folder"])
        elif "sums" in said:
            self.sums.update(said["sums"])
            for number, length, target in said.get("fetched", ()):
                self.unsettled[number].length, self.unsettled[number].target = length, target
        elif "results" in said:
            copies = {number: more for number, *more in said.get("copies", ())}
            for first, last in said["results"]:
                for number in range(first, last + 1):
                    intent = self.unsettled[number]
                    self.done(intent)
                    yield Settled(intent, True, *copies.get(number, ()))
            for number, reason, text in said.get("failed", ()):
                intent = self.unsettled[number]
                self.failed(intent, reason, text)
                yield Settled(intent, False)
        elif "shard" in said:
            self.shards.append(PackedShard.from_json(said, at))
            for sample, reason, text in said["left_out"]:
                self.left_out.add(sample, reason, text)
        elif "undone" in said:
            for stretch in said["undone"]:
                bisect.insort(self.undone, stretch)
        elif "undone shard" in said:
            self.undone_shards.add(said["undone shard"])
        self.num_planned = said.get("planned", self.num_planned)
        self.is_undone |= "undo" in said
        self.num_lost = said.get("lost", self.num_lost)
        if said.get("end") == "done":
            self.is_finished, self.ended = True, said.get("time") or self.header["time"]
        self.num_kept_by_undo = said.get("left", 1) if said.get("end") == "undone" else None


def check_line(said: dict[str, Any]) -> None:
    """Raise TypeError, naming the field, for a line that was not written by us. Fields that nobody knows may hold anything."""
    for name, value in said.items():
        holds = _FIELDS.get(name)
        if holds is not None and not holds(value):
            raise TypeError(f"{name!r} cannot be {str(value)[:40]!r}")


def check_header(said: dict[str, Any]) -> None:
    """The same for the first line, and that nothing which is needed lacks."""
    for name, holds in _HEADER.items():
        if not holds(said.get(name)):
            raise TypeError(f"{name!r} cannot be {str(said.get(name))[:40]!r}")


_Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return type(value) is str


def _path(value: Any) -> bool:
    try:
        return type(value) is str and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _between(least: int, most: int) -> _Check:
    return lambda value: type(value) is int and least <= value < most


def _lists_of(*kinds: _Check) -> _Check:
    return lambda value: (
        type(value) is list
        and all(
            type(row) is list and len(row) == len(kinds) and all(kind(cell) for kind, cell in zip(kinds, row, strict=True))
            for row in value
        )
    )


_count, _size, _time, _id_number = (
    _between(0, 1 << 62),
    _between(-1, 1 << 62),
    _between(-(1 << 62), 1 << 62),
    _between(0, 1 << 32),
)
_files = _lists_of(_path, _count, _time, _text)
_HEADER: dict[str, _Check] = {
    "id": lambda value: type(value) is str and re.fullmatch("[0-9a-z]{1,32}", value) is not None,
    "time": lambda value: type(value) is str and value.isprintable(),
    "target": lambda value: _path(value) and os.path.isabs(value),  # noqa: PTH117
    "num_pictures": lambda value: value is None or _count(value),
    "action": lambda value: value in ACTIONS,
}
_FIELDS: dict[str, _Check] = {
    "do": _count, "from": _path, "to": _path, "size": _size, "mtime": _time, "sample": _text, "of": _text,
    "owner": lambda value: type(value) is list and len(value) == 3 and all(map(_id_number, value)),
    "length": _count, "offset": _count, "part": _count, "shared": lambda value: value is True,
    "with": lambda value: type(value) is list and all(map(_path, value)), "xmp": SidecarChange.is_one,
    "skip": _text, "reason": _text, "text": _text, "folder": _path, "planned": _count,
    "sums": _lists_of(_count, _text), "fetched": _lists_of(_count, _count, _path),
    "results": _lists_of(_count, _count), "copies": _lists_of(_count, _text, _time),
    "failed": _lists_of(_count, _text, _text),
    "shard": _text, "files": lambda value: bool(value) and _files(value), "left_out": _lists_of(_text, _text, _text),
    "captions": lambda value: type(value) is dict and all(map(_count, value.values())),
    "pictures": _count, "num_files": _count, "bytes": _count, "renamed": _count, "packing": _text,
    "undone": _lists_of(_count, _count), "undone shard": _text, "end": _text, "time": _text, "left": _count, "lost": _count,
}  # fmt: skip


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
        said = json_value(line)
    except ValueError:
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
            raise _damaged(path, number, f"{error} is missing here, and in all lines before") from None
        except TypeError as error:
            raise _damaged(path, number, str(error)) from None
    return found


def _damaged(path: str, number: int, why: str) -> InputError:
    return InputError(
        f"{path} is damaged in line {number:,} ({why}); nothing was touched: restore a whole copy of it, or follow "
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
            at = write_at(self._descriptor, b"".join(texts), start)
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
    half = Path(path).with_name(half_name(run, "journal"))
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
            raise InputError(f"{path}: this act has just been undone, or is being undone; run the same command again")
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
