"""Shards of work and their done-markers: what to do in, what is still to be done out; no work is done twice or half.

A shard is a range of rows of one part, named after the part, not after a worker. Its done-marker is written last, by
write-then-rename, and holds the counts, the options' fingerprint and the models' sha256. A run's options stand in its
record; a run with other options stops and says which one differs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from beholder import storage
from beholder.columns import DONE_FOLDER, STAMP_FILE
from beholder.errors import OutputError, writing_failed

LOCK_FILE = ".lock"
_RANGE_NAME = re.compile(r"-from-\d+$")
"""How `shard_name` ends names of ranges; a part that is called so itself gets another name."""


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of the part number `part`; stop None: to its end, wherever that is.

    Attributes:
        name: file stem of its outputs; the same for the same rows in every run.
        part: index of its part.
        start, stop: rows.
        identity: what its input looked like when it was planned; a done-marker with another identity is stale.
    """

    name: str
    part: int
    start: int
    stop: int | None
    identity: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard. `num_read == num_scored + num_rejected` is checked when it is made.

    Attributes:
        num_read, num_scored, num_rejected: rows.
        reasons: rejected rows by reason word.
        files: files written for it, relative to the run's folder, with their sizes in bytes.
        stats: per score column, `ScoreStats.to_json`.
        traits: pictures by what makes presets differ for them.
    """

    num_read: int
    num_scored: int
    num_rejected: int
    reasons: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    stats: dict[str, dict[str, Any]] = field(default_factory=dict)
    traits: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse counts that lose a row."""
        if self.num_read != self.num_scored + self.num_rejected or sum(self.reasons.values()) != self.num_rejected:
            raise AssertionError(f"rows were lost: {self}")


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
        return _read_json(self.record_path)

    def holds_something(self) -> bool:
        """Whether anything but a lock and half-written files is in it."""
        own = (LOCK_FILE, ".beholder-")
        return self.path.is_dir() and not all(entry.name.startswith(own) for entry in self.path.iterdir())

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record, whole or not at all."""
        storage.write_bytes(str(self.record_path), json.dumps(record, indent=2).encode() + b"\n")

    def marker_path(self, shard: Shard) -> Path:
        """Where the shard's done-marker stands."""
        return self.path / DONE_FOLDER / f"{shard.name}.json"

    def finished_names(self) -> set[str]:
        """Names of the shards that have a done-marker."""
        return {path.stem for path in (self.path / DONE_FOLDER).glob("*.json")}

    def finished(self, shard: Shard, wanted_fingerprint: str) -> ShardResult | None:
        """The result in the shard's done-marker, or None when the shard has to be done (again).

        Raises OutputError when the shard's input is not what it was.
        """
        marker = _read_json(self.marker_path(shard))
        if marker is None or marker.get("fingerprint") != wanted_fingerprint:
            return None
        try:
            before, result = marker["input"], ShardResult(**marker["result"])
            changed = difference(before, shard.identity)
        except (KeyError, TypeError, AttributeError, AssertionError):
            raise OutputError(f"{self.marker_path(shard)} is damaged; remove it and run the same command again") from None
        if changed is not None:
            changed = "its contents are others" if changed.startswith("contents was") else changed
            raise OutputError(
                f"the input of shard {shard.name} in {self.path} has changed: {changed}; use --overwrite to start anew"
            )
        for name, num_bytes in result.files.items():
            file = self.path / name
            if not file.is_file() or file.stat().st_size != num_bytes:
                return None
        return result

    def mark_finished(self, shard: Shard, result: ShardResult, run_fingerprint: str, models: Sequence[str]) -> None:
        """Write the done-marker; the last thing that happens to a shard."""
        marker = {"shard": shard.name, "fingerprint": run_fingerprint, "models": list(models), "input": shard.identity,
                  "result": asdict(result)}  # fmt: skip
        storage.write_bytes(str(self.marker_path(shard)), json.dumps(marker).encode())

    def forget(self, shard: Shard, result: ShardResult) -> None:
        """Take back a finished shard: its marker first, then its files."""
        self.marker_path(shard).unlink(missing_ok=True)
        for name in result.files:
            (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run out of this folder; the system lifts the lock however this run ends. Raises OutputError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / LOCK_FILE).open("w")
        except OSError as error:
            raise writing_failed(str(self.path), error) from error
        with lock:
            busy = OutputError(f"another run is writing {self.path}; wait for it, or choose another output")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_current = os.fstat(lock.fileno()).st_ino == (self.path / LOCK_FILE).stat().st_ino
            except OSError:
                raise busy from None
            if not is_current:  # the run that held it has finished and removed it meanwhile
                raise busy
            yield


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise writing_failed(str(path), error) from error
    except ValueError:
        raise OutputError(f"{path} is damaged; remove it and run the same command again") from None
    if not isinstance(record, dict):
        raise OutputError(f"{path} is damaged; remove it and run the same command again")
    return record
