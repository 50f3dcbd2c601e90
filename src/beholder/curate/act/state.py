"""What a journal says: the files that were planned, what became of each, and what is still open."""

from __future__ import annotations

import bisect
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

MOST_EXAMPLES = 5
"""Texts that are kept of each reason for which pictures are left out."""
_FEW = 8
_INTENT_KEYS = {
    "number": "do", "source": "from", "target": "to", "size": "size", "mtime_ns": "mtime", "length": "length",
    "offset": "offset", "part": "part", "owner": "owner",
}  # fmt: skip
"""Field of an intent -> field of its line."""


@dataclass(slots=True)
class Intent:
    """One file that is to be made or moved.

    Attributes:
        source, target: absolute; of what is in an archive that, or a URL.
        size, mtime_ns: of `source` when it was planned; -1 where that is not known (URLs).
        length: bytes of the new file, where it is a part of `source`.
        offset: where that part begins, if it has a place.
        part: number of the file among those of its picture, where its bytes have no place.
        is_picture: false for what belongs to one.
        owner: user, group and mode of a file that is to be moved.
        is_shared: whether it belongs to other pictures as well.
        shares: of a picture: targets of files that it shares with others, planned with it or with another of them.
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
    owner: tuple[int, int, int] | None = None
    is_shared: bool = False
    shares: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What its line holds."""
        said = {key: value for name, key in _INTENT_KEYS.items() if (value := getattr(self, name)) is not None}
        said["sample" if self.is_picture else "of"] = self.sample
        return said | ({"shared": True} if self.is_shared else {}) | ({"with": list(self.shares)} if self.shares else {})

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Intent:
        """The intent of a line. Raises KeyError where a field lacks."""
        intent = cls(
            said["do"], said.get("sample") or said.get("of", ""), said["from"], said["to"], said["size"], said["mtime"]
        )
        intent.length, intent.offset, intent.part = said.get("length"), said.get("offset"), said.get("part")
        intent.owner = tuple(said["owner"]) if "owner" in said else None
        intent.is_picture, intent.is_shared = "sample" in said, "shared" in said
        intent.shares = tuple(said.get("with", ()))
        return intent

    @property
    def num_bytes(self) -> int:
        """Of the new file, as far as they are known."""
        return max(self.size if self.length is None else self.length, 0)


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
        at: where its line begins in the journal: `journal.origins_of` reads there which files its pictures are from.
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
        """What is done: "copy", "link", "symlink", "move", "tars" or "hf-parquet"."""
        return str(self.header["action"])

    @property
    def run(self) -> str:
        """Id of the act, of which names of temporary files are made."""
        return str(self.header["id"])

    @property
    def is_wholly_undone(self) -> bool:
        """Whether an undo came to its end and left nothing."""
        return self.num_kept_by_undo == 0

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
    "action": lambda value: value in ("copy", "link", "symlink", "move", "tars", "hf-parquet"),
}
_FIELDS: dict[str, _Check] = {
    "do": _count, "from": _path, "to": _path, "size": _size, "mtime": _time, "sample": _text, "of": _text,
    "owner": lambda value: type(value) is list and len(value) == 3 and all(map(_id_number, value)),
    "length": _count, "offset": _count, "part": _count, "shared": lambda value: value is True,
    "with": lambda value: type(value) is list and all(map(_path, value)),
    "skip": _text, "reason": _text, "text": _text, "folder": _path, "planned": _count,
    "sums": _lists_of(_count, _text), "fetched": _lists_of(_count, _count, _path),
    "results": _lists_of(_count, _count), "copies": _lists_of(_count, _text, _time),
    "failed": _lists_of(_count, _text, _text),
    "shard": _text, "files": lambda value: bool(value) and _files(value), "left_out": _lists_of(_text, _text, _text),
    "captions": lambda value: type(value) is dict and all(map(_count, value.values())),
    "pictures": _count, "num_files": _count, "bytes": _count, "renamed": _count, "packing": _text,
    "undone": _lists_of(_count, _count), "undone shard": _text, "end": _text, "time": _text, "left": _count, "lost": _count,
}  # fmt: skip
