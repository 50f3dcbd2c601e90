"""Lines of a journal in; what was planned, done, left out and undone, in little memory, out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from beholder.curate.act.lines import check_line
from beholder.curate.act.shared_files import SharedFiles
from beholder.curate.act.tallies import LeftOut, Numbers

_FEW = 8


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
        said = {"do": self.number, "from": self.source, "to": self.target, "size": self.size, "mtime": self.mtime_ns}
        if self.is_picture:
            said["sample"] = self.sample
        if self.length is not None:
            said["length"] = self.length
        if self.offset is not None:
            said["offset"] = self.offset
        if self.part is not None:
            said["part"] = self.part
        if self.owner is not None:
            said["owner"] = list(self.owner)
        if self.is_shared:
            said["shared"] = True
        if self.shares:
            said["with"] = list(self.shares)
        return said | ({} if self.is_picture else {"of": self.sample})

    @property
    def num_bytes(self) -> int:
        """Of the new file, as far as they are known."""
        return max(self.size if self.length is None else self.length, 0)

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Intent:
        """The intent of a line. Raises KeyError where a field lacks."""
        return cls(
            said["do"], said.get("sample") or said.get("of", ""), said["from"], said["to"], said["size"], said["mtime"],
            said.get("length"), said.get("offset"), said.get("part"), "sample" in said,
            tuple(said["owner"]) if "owner" in said else None, said.get("shared", False), tuple(said.get("with", ())),
        )  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class PackedShard:
    """A finished tar or Parquet file.

    Attributes:
        name: of its first file.
        pictures, num_files, num_bytes, renamed: what is in it.
        files: path, size, time (ns) and sha256 of each file.
        captions: counts of captions (`captions.WRITTEN`, ...), where they were of a column.
        at: where its line begins in the journal: `origins_of` reads there which files its pictures are from.
    """

    name: str
    pictures: int
    num_files: int
    num_bytes: int
    renamed: int
    files: tuple[tuple[str, int, int, str], ...]
    captions: dict[str, int]
    at: int

    @classmethod
    def from_json(cls, said: dict[str, Any], at: int) -> PackedShard:
        """The shard of a line that was checked. Raises KeyError where a field lacks."""
        files = tuple((path, size, time, sha256) for path, size, time, sha256 in said["files"])
        return cls(
            said["shard"],
            said["pictures"],
            said["num_files"],
            said["bytes"],
            said["renamed"],
            files,
            said.get("captions", {}),
            at,
        )


@dataclass
class Told:
    """What a journal says, in little memory whatever its length: 9 bytes for a picture that is left out, none for one done.

    Attributes:
        header: its first line.
        check: the checksum of the last line that counts; "" in journals without.
        num_written: bytes of the file that were flushed to the disk, as its first line says; 0 in journals without checksums.
        num_lost: bytes of its end that are gone, found now or by an undo before; what they said is not known.
        is_last_damaged: whether the last line is there but not as it was written; it counts as lost.
        num_bytes: of the file that are whole; what a killed run left behind them has not been acted on.
        num_intents: files that were planned.
        unsettled: intents of which it is not said what became of them: the run was killed meanwhile.
        shared: those of `unsettled` that several pictures share.
        sums: number of one of these -> sha256 of what was about to be written, where that has no place of its own.
        num_pictures, num_files, num_file_bytes: done.
        left_out: pictures that were tried or planned in vain.
        folders: that did not exist before, in the order in which they were made.
        shards: finished tars or Parquet files, in order.
        num_planned: pictures that have been looked at.
        first_made: the first few files that were made or moved.
        is_finished: whether all that was asked for was gone through.
        ended: when that was, ISO 8601; the beginning, in journals that do not say it.
        undone: numbers of intents that were taken back.
        undone_shards: names of shards that were taken away.
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
    undone: Numbers = field(default_factory=Numbers)
    undone_shards: set[str] = field(default_factory=set)
    is_undone: bool = False
    num_kept_by_undo: int | None = None
    shared: SharedFiles = field(init=False)

    def __post_init__(self) -> None:
        self.shared = SharedFiles(str(self.header.get("action")))

    @property
    def is_checked(self) -> bool:
        """Whether its lines have checksums."""
        return bool(self.check)

    @property
    def is_wholly_undone(self) -> bool:
        """Whether an undo came to its end and left nothing."""
        return self.num_kept_by_undo == 0

    def take(self, said: dict[str, Any], at: int = 0) -> Iterator[Settled]:
        """Take in the line that begins at byte `at`; gives the intents that it settles.

        Raises KeyError, TypeError, OverflowError for what is no line of ours.
        """
        check_line(said)
        if "do" in said:
            intent = Intent.from_json(said)
            self.unsettled[intent.number] = intent
            self.num_intents = intent.number + 1
            if intent.is_shared:
                self.shared.add(intent)
        elif "skip" in said:
            self.left_out.add(said["skip"], said["reason"], said["text"])
        elif "folder" in said:
            self.folders.append(said["folder"])
        elif "sums" in said:
            self.sums.update(said["sums"])
            for number, length, target in said.get("fetched", ()):
                self.unsettled[number].length, self.unsettled[number].target = length, target
        elif "results" in said:
            yield from self._settle(said)
        elif "shard" in said:
            self.shards.append(PackedShard.from_json(said, at))
            for sample, reason, text in said["left_out"]:
                self.left_out.add(sample, reason, text)
        elif "undone" in said:
            self.undone.add(said["undone"])
        elif "undone shard" in said:
            self.undone_shards.add(said["undone shard"])
        self.num_planned = said.get("planned", self.num_planned)
        self.is_undone |= "undo" in said
        self.num_lost = said.get("lost", self.num_lost)
        if said.get("end") == "done":
            self.is_finished, self.ended = True, said.get("time") or self.header["time"]
        self.num_kept_by_undo = said.get("left", 1) if said.get("end") == "undone" else None

    def _settle(self, said: dict[str, Any]) -> Iterator[Settled]:
        copies = {number: more for number, *more in said.get("copies", ())}
        for first, last in said["results"]:
            for number in range(first, last + 1):
                intent = self.unsettled.pop(number)
                self.sums.pop(number, None)
                if intent.is_picture:
                    self.num_pictures += 1
                    self.left_out.settle(intent.sample)
                    self.shared.note(intent, is_done=True)
                    if len(self.first_made) < _FEW:
                        self.first_made.append(intent.target)
                elif intent.is_shared:
                    self.shared.settle(intent)
                self.num_files += 1
                self.num_file_bytes += intent.num_bytes
                yield Settled(intent, True, *copies.get(number, ()))
        for number, reason, text in said.get("failed", ()):
            intent = self.unsettled.pop(number)
            self.sums.pop(number, None)
            if intent.is_picture:
                self.left_out.add(intent.sample, reason, text)
                self.shared.note(intent, is_done=False)
            elif intent.is_shared:
                self.shared.settle(intent)
            yield Settled(intent, False)
