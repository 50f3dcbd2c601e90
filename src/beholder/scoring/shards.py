"""Shards of work, their done-markers, and the folder of a run that holds them; no work is done twice or half.

A shard is a range of rows of one part, named after the part, not after a worker. Its done-marker is written last, by
write-then-rename, and holds the counts, the options' fingerprint, the models' sha256, and the sha256 of the shard's files and
of itself. A run's options stand in its record; a run with other options stops and says which one differs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from beholder import columns
from beholder.columns import DONE_FOLDER, STAMP_FILE
from beholder.errors import InputError, OutputError, reading_failed, writing_failed
from beholder.io import crash, records, storage
from beholder.io.records import DamagedRecordError, whole_number
from beholder.scoreset.numbers import ScoreStats

LOCK_FILE = ".lock"
_RANGE_NAME = re.compile(r"-from-\d+$")
"""How `shard_name` ends names of ranges; a part that is called so itself gets another name."""
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
_AGAIN = "run the same command again, and its shard is redone"
_WORD = re.compile(r"[a-z_]{1,40}")
_RESULT_FIELDS = ("num_read", "num_scored", "num_rejected", "reasons", "files", "stats", "traits", "remarks")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class DamagedShardError(OutputError):
    """A shard whose done-marker or files are not what was written; doing it again mends it."""


KEPT_NAME = "zz-vanished"
"""How names of shards begin that hold rows whose inputs have vanished; they come behind those of most others."""
KEPT_FROM = "kept_from"
"""In the identity of such a shard: the name of the one that its rows were of."""


def is_shard_file(name: str, shard: str | None = None) -> bool:
    """Whether a name from a record is one that a step gives to files of a shard (of the shard called `shard`).

    Such names are relative, and lead into the folders for scores, rejects and embeddings only.
    """
    named = _NAMED_FILES.fullmatch(name)
    return (named is not None and shard in (None, named[1])) or _NUMBERED_FILES.fullmatch(name) is not None


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
        stats: per score column, `ScoreStats.to_json`.
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

    def with_files(self, files: Mapping[str, int]) -> ShardResult:
        """The same of other files: their sizes by name; their checksums are not known."""
        return replace(self, files=dict(files), sha256={})

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, without the checksums."""
        return {name: getattr(self, name) for name in _RESULT_FIELDS}

    @classmethod
    def from_json(cls, record: Any) -> ShardResult:
        """Restore what `to_json` wrote. Raises DamagedRecordError for anything that cannot be a result."""
        fields = _object(record, "its result")
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
        files = _object(fields.get("files"), "files")
        for name, num_bytes in files.items():
            whole_number(num_bytes, "the size of a file")
            if not is_shard_file(name):
                raise DamagedRecordError(f"{ascii(name)[:80]} is no name of a shard's file")
        stats = _object(fields.get("stats"), "stats")
        for one in stats.values():
            try:
                if ScoreStats.from_json(one).count != num_scored:
                    raise DamagedRecordError("its statistics are of another number of scores")
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                if isinstance(error, DamagedRecordError):
                    raise
                raise DamagedRecordError("its statistics cannot be those of scores") from None
        traits = _counts(fields.get("traits", {}), "traits")
        remarks = _object(fields.get("remarks", {}), "remarks")
        for count in remarks.values():
            whole_number(count, "one of remarks")
        return cls(num_read, num_scored, num_rejected, reasons, files, stats, traits, remarks)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedRecordError(f"{what} is no JSON object")
    return value


def _counts(value: Any, what: str) -> dict[str, int]:
    """Words with their counts."""
    counts = {word: whole_number(count, f"one of {what}") for word, count in _object(value, what).items()}
    if not all(_WORD.fullmatch(word) for word in counts):
        raise DamagedRecordError(f"one of {what} is no word")
    return counts


def shard_names(part_names: Sequence[str]) -> list[str]:
    """One file stem per part, unique and safe: suffix dropped, `/` and odd characters replaced."""
    stems, used = [], set()
    for name in part_names:
        stem = re.sub(r"\.(npy|npz|parquet|pq|csv|tar|tar\.gz|tgz|zip|txt)$", "", name, flags=re.IGNORECASE).removeprefix(
            "img_emb/"
        )
        safe = re.sub(r"[^\w.+=-]+", "_", stem.replace("/", "__")).strip(".") or "part"
        if safe != stem or len(safe.encode()) > 120 or safe in used or _RANGE_NAME.search(safe):
            safe = f"{safe.encode()[:100].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        used.add(safe)
        stems.append(safe)
    return stems


def kept_shard(number: int, earlier: EarlierShard, num_others: int) -> Shard:
    """The shard number `number`, behind `num_others` others, for rows of an earlier one whose inputs have vanished."""
    identity = {**earlier.identity, KEPT_FROM: earlier.identity.get(KEPT_FROM, earlier.name)}
    return Shard(f"{KEPT_NAME}-{number:05d}", 0, 0, None, identity, num_others + number)


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
        folder: the run's folder that its files lie in.
        name: its name.
        identity: what its input looked like.
        result: what became of it.
        fingerprint: of the options it was done with.
        models: sha256 of the models.
    """

    folder: Path
    name: str
    identity: dict[str, Any]
    result: ShardResult
    fingerprint: str
    models: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Its done-marker, JSON-ready."""
        return {"shard": self.name, "fingerprint": self.fingerprint, "models": list(self.models), "input": self.identity,
                "result": self.result.to_json(), "file_sha256": self.result.sha256}  # fmt: skip

    @classmethod
    def from_json(cls, marker: dict[str, Any], folder: Path, name: str) -> EarlierShard:
        """Restore what `to_json` wrote of the shard of this name. Raises DamagedRecordError."""
        if marker.get("shard") != name:
            raise DamagedRecordError("it is of another shard")
        if not isinstance(marker.get("fingerprint"), str):
            raise DamagedRecordError("it has no fingerprint")
        identity = _object(marker.get("input"), "input")
        result = ShardResult.from_json(marker.get("result"))
        if not all(is_shard_file(file, name) for file in result.files):
            raise DamagedRecordError("it names files of another shard")
        strange = set(marker) - {"shard", "fingerprint", "models", "input", "result", "file_sha256"}
        if strange:
            raise DamagedRecordError(f"it has a field {ascii(min(strange))[:50]}")
        if "file_sha256" in marker:  # an older version had none
            sums = _object(marker["file_sha256"], "file_sha256")
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


class RunFolder:
    """A local folder with a run's record, done-markers and whatever its step writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def record_path(self) -> Path:
        """The file with the run's options and provenance."""
        return self.path / STAMP_FILE

    def read_record(self) -> dict[str, Any] | None:
        """The record of an earlier run, or None. Raises OutputError when it is damaged."""
        data = _read(self.record_path)
        if data is None:
            return None
        try:
            record = records.parse(data)
            _object(record.get("options", {}), "options")
        except DamagedRecordError as error:
            raise OutputError(f"{self.record_path} is damaged: {error}; restore it, or use --overwrite to start anew") from None
        return record

    def is_run_of(self, format_name: str) -> bool:
        """Whether its record, damaged or not, is one of a run that writes `format_name`."""
        data = _read(self.record_path)
        if data is None:
            return False
        try:
            return records.parse(data).get("format") == format_name
        except DamagedRecordError:
            return records.looks_ours(data)

    def holds_something(self) -> bool:
        """Whether anything but a lock and half-written files is in it."""
        own = (LOCK_FILE, ".beholder-")
        return self.path.is_dir() and not all(entry.name.startswith(own) for entry in self.path.iterdir())

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record, whole or not at all."""
        storage.write_bytes(str(self.record_path), records.sealed(record, indent=2))

    def begin_record(self, record: Mapping[str, Any]) -> None:
        """Write the record, whole, where there is none: of several that begin at once the first one's stays."""
        made = self.path / f".beholder-{uuid.uuid4().hex}.tmp"
        storage.write_bytes(str(made), records.sealed(record, indent=2))
        try:
            with contextlib.suppress(FileExistsError):
                self.record_path.hardlink_to(made)
        except OSError:  # a file system without links
            storage.write_bytes(str(self.record_path), records.sealed(record, indent=2))
        finally:
            made.unlink(missing_ok=True)

    def marker_path(self, shard: str) -> Path:
        """Where the done-marker of the shard of this name stands."""
        return self.path / DONE_FOLDER / f"{shard}.json"

    def finished_names(self) -> set[str]:
        """Names of the shards that have a done-marker."""
        return {path.stem for path in (self.path / DONE_FOLDER).glob("*.json")}

    def named_files(self, shard: str) -> list[str]:
        """Files that bear the name of this shard, relative to the folder."""
        found = [*self.path.glob(f"*/{shard}.*"), *self.path.glob(f"*/*/{shard}.*")]
        return [name for path in found if is_shard_file(name := path.relative_to(self.path).as_posix(), shard)]

    def finished_shard(self, name: str, wanted_fingerprint: str) -> EarlierShard | None:
        """A finished shard by its name, whatever its input was, or None when it has not been done with these options.

        Its files are read and compared with their checksums. Of an older version, which wrote none, sizes are compared, and
        Parquet files must be readable.

        Raises DamagedShardError: marker or files are not what was written, or a file is gone.
        """
        path = self.marker_path(name)
        if not path.exists():
            return None
        try:
            found = self.marked_shard(name)
        except DamagedRecordError as error:
            raise DamagedShardError(
                f"{path} is damaged: {error}; run the same command again, and the shard is redone"
            ) from None
        if found.fingerprint != wanted_fingerprint:
            return None
        self.check_files(found.result)
        return found

    def marked_shard(self, name: str) -> EarlierShard:
        """A finished shard by its marker alone; its files are not looked at. Raises DamagedRecordError."""
        data = _read(self.marker_path(name))
        if data is None:
            raise DamagedRecordError("it is gone")
        return EarlierShard.from_json(records.parse(data), self.path, name)

    def check_files(self, result: ShardResult) -> None:
        """Compare a shard's files with what was written. Raises DamagedShardError."""
        for name, num_bytes in result.files.items():
            file = self.path / name
            try:
                if not file.is_file() or file.stat().st_size != num_bytes:
                    raise DamagedShardError(f"{file} is gone or of another size than was written; {_AGAIN}")
                if name in result.sha256 and storage.sha256_of(file) != result.sha256[name]:
                    raise DamagedShardError(f"{file} is damaged: it is not what was written (sha256); {_AGAIN}")
                if name not in result.sha256 and file.suffix == ".parquet" and not _can_be_read(file):
                    raise DamagedShardError(f"{file} is damaged: it cannot be read; {_AGAIN}")
            except OSError as error:
                raise reading_failed(str(file), error) from error

    def mark_finished(self, shard: Shard, result: ShardResult, run_fingerprint: str, models: Sequence[str]) -> EarlierShard:
        """Write the done-marker, the last thing that happens to a shard; its result with the checksums of its files."""
        assert all(is_shard_file(name, shard.name) for name in result.files), f"files of a strange name: {result.files}"
        result = replace(result, sha256={name: storage.sha256_of(self.path / name) for name in result.files})
        done = EarlierShard(self.path, shard.name, shard.identity, result, run_fingerprint, tuple(models))
        storage.write_bytes(str(self.marker_path(shard.name)), records.sealed(done.to_json()))
        return done

    def forget(self, shard: str, names: Iterable[str]) -> None:
        """Take back the shard of this name: its marker first, then its files; names that no shard's file has are left alone."""
        self.marker_path(shard).unlink(missing_ok=True)
        for name in names:
            if is_shard_file(name, shard):
                (self.path / name).unlink(missing_ok=True)

    def set_aside(self, earlier: EarlierShard, place: Path) -> EarlierShard:
        """Move a finished shard of this folder to another one; killed anywhere, it is whole in one of the two.

        Raises OutputError.
        """
        marker = f"{DONE_FOLDER}/{earlier.name}.json"
        try:
            for name in (*earlier.result.files, marker):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
            for name in earlier.result.files:
                link_or_copy(self.path / name, place / name)
            crash.reach("shard linked aside")
            (self.path / marker).rename(place / marker)
            crash.reach("shard set aside")
            for name in earlier.result.files:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise writing_failed(str(place), error) from error
        return replace(earlier, folder=place)

    def adopt(
        self, earlier: EarlierShard, shard: Shard, names: Sequence[str], run_fingerprint: str, models: Sequence[str]
    ) -> EarlierShard:
        """Take over a shard that was set aside, whole; `names`: its files' names here, of which numbers may differ.

        Raises OutputError.
        """
        renamed = {name: _in_the_same_folder(name, names) for name in earlier.result.files}
        try:
            for name, new in renamed.items():
                (self.path / new).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(earlier.folder / name, self.path / new)
        except OSError as error:
            raise writing_failed(str(self.path), error) from error
        files = {renamed[name]: size for name, size in earlier.result.files.items()}
        return self.mark_finished(shard, earlier.result.with_files(files), run_fingerprint, models)

    @contextlib.contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Keep a second run out of this folder; the system lifts the lock however this run ends. Raises OutputError.

        shared: keep only runs out that take it for themselves alone.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / LOCK_FILE).open("a+")  # (NFS wants what is shared to be readable)
        except OSError as error:
            raise writing_failed(str(self.path), error) from error
        with lock:
            busy = OutputError(f"another run is writing {self.path}; wait for it, or choose another output")
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                is_current = os.fstat(lock.fileno()).st_ino == (self.path / LOCK_FILE).stat().st_ino
            except OSError:
                raise busy from None
            if not is_current:  # the run that held it has finished and removed it meanwhile
                raise busy
            yield


def link_or_copy(source: Path, target: Path) -> None:
    """Have a file under another name as well, in place of what is there. Raises OSError."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _in_the_same_folder(name: str, names: Sequence[str]) -> str:
    """The one of `names` that lies in the folder of `name`."""
    (found,) = (one for one in names if os.path.dirname(one) == os.path.dirname(name))  # noqa: PTH120 (no paths of a system)
    return found


def _can_be_read(path: Path) -> bool:
    """Whether a Parquet file can be read to its end."""
    import pyarrow as pa

    try:
        with storage.open_parquet(str(path)) as file:
            for _ in file.iter_batches():
                pass
    except (InputError, pa.ArrowException, OSError):
        return False
    return True


def _read(path: Path) -> bytes | None:
    """A small file's bytes, None where there is none. Raises InputError."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise reading_failed(str(path), error) from error
