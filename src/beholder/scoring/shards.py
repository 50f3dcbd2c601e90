"""Shards of work, what became of them, and how their done-markers say it.

A shard is a range of rows of one part, named after the part, not after a worker. Its done-marker is written last, and holds the
counts, the options' fingerprint, the models' sha256, and the sha256 of the shard's files and of itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from beholder import columns
from beholder.errors import OutputError
from beholder.io.records import DamagedRecordError, json_object, whole_number
from beholder.scoreset.numbers import ScoreStats, unpacked

_RANGE_NAME = re.compile(r"-from-\d+$")
"""How `shard_name` ends names of ranges; a part that is called so itself gets another name."""
_NOT_KEPT_NAME = columns.KEPT_NAME.replace("-", "_")
"""How names begin of parts that are called as shards of vanished inputs are."""
_NAMED_FILES = re.compile(
    rf"(?:{columns.SCORES_FOLDER}|{columns.REJECTS_FOLDER}|{columns.INPUTS_FOLDER}|(?:{columns.EMBEDDINGS_FOLDER}/)?{columns.EMBEDDINGS_FOLDER})"
    r"/([\w.+=-]+)\.(?:parquet|csv)"
)
"""Files that bear a shard's name."""
_NUMBERED_FILES = re.compile(
    rf"(?:{columns.EMBEDDINGS_FOLDER}/)?"
    rf"(?:{columns.IMAGES_FOLDER}/img_emb_\d{{5,12}}\.npy|{columns.METADATA_FOLDER}/metadata_\d{{5,12}}\.parquet)"
)
"""Files of clip-retrieval's layout, which bear numbers."""
_WORD = re.compile(r"[a-z_]{1,40}")
_RESULT_FIELDS = ("num_read", "num_scored", "num_rejected", "reasons", "files", "stats", "traits", "remarks")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class DamagedShardError(OutputError):
    """A shard whose done-marker or files are not what was written; doing it again mends it."""


KEPT_FROM = "kept_from"
"""In the identity of such a shard: the name of the one that its rows were of."""


def is_shard_file(name: str, shard: str | None = None) -> bool:
    """Whether a name from a record is one that a step gives to files of a shard (of the shard called `shard`).

    Such names are relative, and lead into the folders for scores, rejects and embeddings only.
    """
    named = _NAMED_FILES.fullmatch(name)
    return (named is not None and shard in (None, named[1])) or _NUMBERED_FILES.fullmatch(name) is not None


def marker_of(shard: str) -> str:
    """Where the done-marker of the shard of this name stands, relative to the run's folder."""
    return f"{columns.DONE_FOLDER}/{shard}.json"


def shard_of_marker(name: str) -> str | None:
    """The name of the shard whose done-marker has this name in the run's folder; None: it is none."""
    shard = name.removeprefix(f"{columns.DONE_FOLDER}/").removesuffix(".json")
    return shard if marker_of(shard) == name and "/" not in shard else None


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of the part number `part`; stop None: to its end, wherever that is.

    Attributes:
        name: file stem of its outputs; the same for the same rows in every run.
        part: index of its part.
        start, stop: rows.
        identity: what its input looked like when it was planned; a done-marker with another identity is stale.
        number: its place in the run.
    """

    name: str
    part: int
    start: int
    stop: int | None
    identity: dict[str, Any] = field(default_factory=dict)
    number: int = 0


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard. `num_read == num_scored + num_rejected` is checked when it is made.

    Attributes:
        num_read, num_scored, num_rejected: rows.
        reasons: rejected rows by reason word, in the order of `columns.REASONS`, however they were given.
        files: files written for it, relative to the run's folder, with their sizes in bytes.
        stats: per score column, `ScoreStats.to_json`, or `numbers.packed` of it.
        traits: pictures by what makes presets differ for them.
        remarks: what else is worth telling: a line -> how many times.
        sha256: of each of `files`, once they are written; none where a marker of an older version has none.
    """

    num_read: int
    num_scored: int
    num_rejected: int
    reasons: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    stats: dict[str, dict[str, Any]] = field(default_factory=dict)
    traits: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse counts that lose a row; put the reasons into their order."""
        object.__setattr__(self, "reasons", columns.in_order(self.reasons))
        if self.num_read != self.num_scored + self.num_rejected or sum(self.reasons.values()) != self.num_rejected:
            raise AssertionError(f"rows were lost: {self}")

    @property
    def is_unchecked(self) -> bool:
        """Whether it is by an older version, which wrote no checksums."""
        return bool(self.files) and not self.sha256

    def with_sizes_alone(self) -> ShardResult:
        """The same without the checksums of its files."""
        return replace(self, sha256={})

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, without the checksums."""
        found = {name: getattr(self, name) for name in _RESULT_FIELDS}
        return found | {"stats": {name: unpacked(one) for name, one in self.stats.items()}}

    @classmethod
    def from_json(cls, record: Any) -> ShardResult:
        """Restore what `to_json` wrote. Raises DamagedRecordError for anything that cannot be a result."""
        fields = json_object(record, "its result is")
        strange = set(fields) - set(_RESULT_FIELDS)
        if strange:
            raise DamagedRecordError(f"its result has a field {ascii(min(strange))[:50]}")
        num_read, num_scored, num_rejected = (
            whole_number(fields.get(name), name) for name in ("num_read", "num_scored", "num_rejected")
        )
        reasons = _counts(fields.get("reasons"), "reasons")
        unknown = [word for word in reasons if not columns.reason_text(word)]
        if unknown:
            raise DamagedRecordError(f"there is no reason {unknown[0]!r} for rejecting a row")
        if num_read != num_scored + num_rejected or sum(reasons.values()) != num_rejected:
            raise DamagedRecordError("its counts do not add up")
        files = json_object(fields.get("files"), "files is")
        for name, num_bytes in files.items():
            whole_number(num_bytes, "the size of a file")
            if not is_shard_file(name):
                raise DamagedRecordError(f"{ascii(name)[:80]} is no name of a shard's file")
        stats = json_object(fields.get("stats"), "stats is")
        for one in stats.values():
            try:
                if ScoreStats.from_json(one).count != num_scored:
                    raise DamagedRecordError("its statistics are of another number of scores")
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                if isinstance(error, DamagedRecordError):
                    raise
                raise DamagedRecordError("its statistics cannot be those of scores") from None
        traits = _counts(fields.get("traits", {}), "traits")
        remarks = json_object(fields.get("remarks", {}), "remarks is")
        for count in remarks.values():
            whole_number(count, "one of remarks")
        return cls(num_read, num_scored, num_rejected, reasons, files, stats, traits, remarks)


def _counts(value: Any, what: str) -> dict[str, int]:
    """Words with their counts."""
    counts = {word: whole_number(count, f"one of {what}") for word, count in json_object(value, f"{what} is").items()}
    if not all(_WORD.fullmatch(word) for word in counts):
        raise DamagedRecordError(f"one of {what} is no word")
    return counts


def shard_names(part_names: Sequence[str]) -> list[str]:
    """One file stem per part, unique and safe: suffix dropped, `/` and odd characters replaced.

    None begins as the names of `kept_shard` do.
    """
    stems, used = [], set()
    for name in part_names:
        stem = re.sub(r"\.(npy|npz|parquet|pq|csv|tar|tar\.gz|tgz|zip|txt)$", "", name, flags=re.IGNORECASE).removeprefix(
            "img_emb/"
        )
        safe = re.sub(r"[^\w.+=-]+", "_", stem.replace("/", "__")).strip(".") or "part"
        if safe.startswith(columns.KEPT_NAME):
            safe = _NOT_KEPT_NAME + safe.removeprefix(columns.KEPT_NAME)
        if safe != stem or len(safe.encode()) > 120 or safe in used or _RANGE_NAME.search(safe):
            safe = f"{safe.encode()[:100].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        used.add(safe)
        stems.append(safe)
    return stems


def kept_shard(number: int, earlier: EarlierShard, num_others: int) -> Shard:
    """The shard number `number`, behind `num_others` others, for rows of an earlier one whose inputs have vanished."""
    identity = {**earlier.identity, KEPT_FROM: earlier.identity.get(KEPT_FROM, earlier.name)}
    return Shard(f"{columns.KEPT_NAME}-{number:05d}", 0, 0, None, identity, num_others + number)


def shard_name(stem: str, start: int, is_whole: bool) -> str:
    """Name of the shard of a part's rows from `start`; the part's own name when it is the whole part."""
    return stem if is_whole else f"{stem}-from-{start:012d}"


def plan_rows(num_rows: int | None, cuts: Sequence[int] | None, shard_rows: int) -> list[tuple[int, int | None]]:
    """Cut [0, num_rows) into ranges of at most `shard_rows` rows, only at `cuts` (None: anywhere).

    A stretch between cuts that is longer than `shard_rows` stays whole. No rows give no ranges.
    """
    if num_rows is None:
        return [(0, None)]
    if cuts is None:
        return [(low, min(num_rows, low + shard_rows)) for low in range(0, num_rows, shard_rows)]
    ranges: list[tuple[int, int | None]] = []
    low = 0
    edges = [*cuts, num_rows]
    for edge, following in zip(edges, [*edges[1:], None], strict=True):
        if edge > low and (following is None or following - low > shard_rows):
            ranges.append((low, edge))
            low = edge
    return ranges


def plan_shards(parts: Sequence[Any], identity: Callable[[Any], dict[str, Any]], shard_rows: int) -> list[Shard]:
    """Cut parts (pictures or embeddings) into shards of at most `shard_rows` rows; `identity`: how a part is now."""
    shards: list[Shard] = []
    for index, (part, stem) in enumerate(zip(parts, shard_names([part.name for part in parts]), strict=True)):
        ranges, found = plan_rows(part.num_rows, part.cuts, shard_rows), identity(part)
        for start, stop in ranges:
            shards.append(Shard(shard_name(stem, start, len(ranges) == 1), index, start, stop, found, len(shards)))
    assert len({shard.name for shard in shards}) == len(shards), "two shards of one name"
    return shards


def fingerprint(options: Mapping[str, Any]) -> str:
    """Short hex digest of JSON-ready options; equal options give equal fingerprints in every run."""
    text = json.dumps(options, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first option that differs, in words, or None."""
    for key in [*now, *(key for key in before if key not in now)]:
        then, today = before.get(key), now.get(key)
        if then != today:
            return f"{key} was {json.dumps(then)}, now it is {json.dumps(today)}"
    return None


@dataclass(frozen=True)
class EarlierShard:
    """A shard that an earlier run finished, and that is whole.

    Attributes:
        folder: the run's folder that its files lie in, a path or URL.
        name: its name.
        identity: what its input looked like.
        result: what became of it.
        fingerprint: of the options it was done with.
        models: sha256 of the models.
    """

    folder: str
    name: str
    identity: dict[str, Any]
    result: ShardResult
    fingerprint: str
    models: tuple[str, ...]

    def place_of(self, name: str) -> str:
        """Where one of its files is."""
        return f"{self.folder}/{name}"

    def to_json(self) -> dict[str, Any]:
        """Its done-marker, JSON-ready."""
        return {"shard": self.name, "fingerprint": self.fingerprint, "models": list(self.models), "input": self.identity,
                "result": self.result.to_json(), "file_sha256": self.result.sha256}  # fmt: skip

    @classmethod
    def from_json(cls, marker: dict[str, Any], folder: str, name: str) -> EarlierShard:
        """Restore what `to_json` wrote of the shard of this name. Raises DamagedRecordError."""
        if marker.get("shard") != name:
            raise DamagedRecordError("it is of another shard")
        if not isinstance(marker.get("fingerprint"), str):
            raise DamagedRecordError("it has no fingerprint")
        identity = json_object(marker.get("input"), "input is")
        result = ShardResult.from_json(marker.get("result"))
        if not all(is_shard_file(file, name) for file in result.files):
            raise DamagedRecordError("it names files of another shard")
        strange = set(marker) - {"shard", "fingerprint", "models", "input", "result", "file_sha256"}
        if strange:
            raise DamagedRecordError(f"it has a field {ascii(min(strange))[:50]}")
        if "file_sha256" in marker:  # an older version had none
            sums = json_object(marker["file_sha256"], "file_sha256 is")
            if set(sums) != set(result.files) or not all(
                isinstance(one, str) and _SHA256.fullmatch(one) for one in sums.values()
            ):
                raise DamagedRecordError("it has no checksums of its files")
            result = replace(result, sha256=sums)
        return cls(folder, name, identity, result, marker["fingerprint"], tuple(marker.get("models", ())))


class Changes(NamedTuple):
    """How the inputs of a run differ from those of the runs before it, in rows.

    Attributes:
        num_changed: that were known, and are not what they were.
        num_vanished: that are not among the inputs any more.
        num_retried: that were rejected for a passing reason and were tried again.
    """

    num_changed: int = 0
    num_vanished: int = 0
    num_retried: int = 0
