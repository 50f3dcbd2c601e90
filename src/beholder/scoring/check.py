"""Whether what a run wrote is what it wrote: every file, record and count of a result, read again. No byte of it is changed.

A damaged file of this machine gets the present time, so that a run does not take it for the one it knows.

Memory does not grow with the bytes, and by eight of its own a file: done-markers are read as they are listed.
"""

from __future__ import annotations

import hashlib
import io
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from beholder import columns
from beholder.errors import BeholderError, InputError, OutputError
from beholder.io import locations, places, records, remote, storage
from beholder.io.records import DamagedRecordError
from beholder.scoring import index
from beholder.scoring.folder import can_be_read, is_own_file
from beholder.scoring.lock import holders
from beholder.scoring.output import EMBEDDINGS, SCORES, TABLES, RunOutput, is_of_run, output_of
from beholder.scoring.reopen import FinishedResult
from beholder.scoring.run import planned_of
from beholder.scoring.shards import EarlierShard, ShardResult, is_shard_file, marker_of, shard_of_marker
from beholder.scoring.watch import is_run_file

Kind = Literal["damaged", "missing", "extra"]
MOST_TOLD = 10_000
"""Findings that are kept for whoever asks at the end; all are told as they are found, and counted."""
_FOLDERS = (
    columns.SCORES_FOLDER,
    columns.REJECTS_FOLDER,
    columns.INPUTS_FOLDER,
    columns.EMBEDDINGS_FOLDER,
    columns.IMAGES_FOLDER,
    columns.METADATA_FOLDER,
)
_KEPT = f"{columns.EMBEDDINGS_FOLDER}/"
_NUMBERED = {columns.IMAGES_FOLDER, columns.METADATA_FOLDER}
_AT_ONCE = 4096
_PIECE_BYTES = 1 << 20
_NPY_HEAD_BYTES = 4096

NO_RECORD = "the record of the run is gone"
NO_RUN = f"its {columns.STAMP_FILE} says what made the files, and no run has written down what is in them"
NO_STAMP = "the stamp of the kept embeddings is gone, without which they are not known to be finished, nor what made them"
AGAIN = "run the same command again: it makes damaged shards anew, and leaves the others as they are"
ANEW = "run the same command again, which writes it anew"
OVERWRITE = "restore it from a copy, or run the same command with --overwrite"
GONE = "restore it from a copy; without it this is no run any more: move the folder away, and run the same command"
REMOVE = "run the same command again, which makes it anew or removes it"
MOVE = "it was not written by beholder, and readers would take it for a part of the result: move it away"
UNTOUCHED = "its time cannot be changed, so a run would take it for whole: run the same command with --overwrite"
INDEX = "remove it: it only spares reading done-markers"


@dataclass(frozen=True)
class Finding:
    """A file that is not as it should be.

    Attributes:
        kind: "damaged", "missing" (it was written, and is gone), or "extra" (nothing that is finished has it).
        file: its path or URL.
        why: what is wrong.
        mend: what to do.
    """

    kind: Kind
    file: str
    why: str
    mend: str

    def to_json(self) -> dict[str, str]:
        """JSON-ready."""
        return {"kind": self.kind, "file": self.file, "why": self.why, "mend": self.mend}


@dataclass
class CheckedResult:
    """What came of a check.

    Attributes:
        output: as the user named it.
        is_running: whether somebody works on it.
        num_shards: that are done, or None of a result that was joined to one file.
        num_planned: that there are in all, where that is known.
        is_plan_unknown: whether it should be known and is not: the record of a run does not say it.
        num_files, num_bytes: that were read.
        num_unchecked: files of which no checksum is known; their sizes were compared, and Parquet files read.
        num_damaged_shards: shards with a finding.
        counts: findings by kind.
        findings: the first `MOST_TOLD` of them.
    """

    output: str
    is_running: bool = False
    num_shards: int | None = None
    num_planned: int | None = None
    is_plan_unknown: bool = False
    num_files: int = 0
    num_bytes: int = 0
    num_unchecked: int = 0
    num_damaged_shards: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def num_not_done(self) -> int:
        """Shards that are planned and not done, damaged ones aside."""
        if self.num_planned is None or self.num_shards is None:
            return 0
        return max(0, self.num_planned - self.num_shards)

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there, as it was written."""
        return not (self.counts.total() or self.num_not_done or self.is_plan_unknown)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "output": self.output,
            "is_whole": self.is_whole,
            "is_running": self.is_running,
            "num_shards": self.num_shards,
            "num_planned_shards": self.num_planned,
            "num_damaged_shards": self.num_damaged_shards,
            "num_files": self.num_files,
            "num_bytes": self.num_bytes,
            "num_files_without_checksum": self.num_unchecked,
            "num_findings": dict(self.counts),
            "findings": [finding.to_json() for finding in self.findings],
        }


def is_result(path: str) -> bool:
    """Whether a path or URL names what a run wrote, or writes: a folder with its record, or a file with one beside it.

    So is a folder with done-markers whose record is gone. Raises InputError: it cannot be looked at.
    """
    if locations.is_web(path) or (storage.is_glob(path) or "{" in path):
        return False
    try:
        out = RunOutput(output_of(path))
    except OutputError:  # a file of another kind
        return False
    if out.is_separate and is_of_run(places.read_all(out.sidecar) or b""):
        return True
    folder = out.folder
    if not folder.exists():
        return False
    data = folder.read(columns.STAMP_FILE)
    if data is not None:
        return is_of_run(data)
    done = folder.place_of(columns.DONE_FOLDER)
    return storage.is_folder(done) and any(is_own_file(f"{columns.DONE_FOLDER}/{name}") for name in places.listing(done))


def scores_beside(path: str) -> str | None:
    """The scores beside which the embeddings in a folder were kept, which are checked with them; None for any other path.

    A path or URL where the scores are there, else their name. Raises InputError: it cannot be looked at.
    """
    folder = path.rstrip("/")
    if locations.is_web(path) or storage.is_glob(path) or not storage.is_folder(folder):
        return None
    try:
        stamp = records.parse(places.read_all(f"{folder}/{columns.STAMP_FILE}") or b"")
    except DamagedRecordError:
        return None
    if stamp.get("format") != EMBEDDINGS.format or columns.KEPT_BESIDE not in stamp:
        return None
    above, _, last = folder.rpartition("/")
    place = above or "." if last == columns.EMBEDDINGS_FOLDER else folder.removesuffix(f".{columns.EMBEDDINGS_FOLDER}")
    return place if place != folder and is_result(place) else str(stamp[columns.KEPT_BESIDE])


def check_result(
    path: str,
    *,
    on_finding: Callable[[Finding], None] = lambda finding: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CheckedResult:
    """Read all that a run wrote, and compare it with what its records say.

    Damaged files of this machine whose time says that they are as they were written get the present time: a run takes such a
    file for the one it knows, and would not read it. Nothing else is written.

    Args:
        path: what `is_result` says yes to.
        on_finding: told of each file that is not as it should be, as it is found.
        on_progress: told (shards or files that were looked at, how many there are, 0: not known).

    Raises:
        InputError: the place cannot be read.
    """
    out = RunOutput(output_of(path))
    check = _Check(out, on_finding, on_progress)
    if out.is_separate and (storage.exists(out.sidecar) or not out.folder.exists()):
        check.joined()
    else:
        check.folder()
    return check.found


class _Check:
    """One check."""

    def __init__(self, out: RunOutput, on_finding: Callable[[Finding], None], on_progress: Callable[[int, int], None]) -> None:
        self._out, self._on_finding, self._on_progress = out, on_finding, on_progress
        self.found = CheckedResult(out.out)
        self._known = array("Q")
        """Hashes of the names of all files that something finished has."""
        self._has_lost_numbers = False
        """Whether a damaged marker may have named files that bear numbers: nobody knows which."""

    def _tell(self, finding: Finding) -> None:
        found = self.found
        found.counts[finding.kind] += 1
        if len(found.findings) < MOST_TOLD:
            found.findings.append(finding)
        self._on_finding(finding)

    # A folder of shards.

    def folder(self) -> None:
        """Check a run's folder."""
        folder, found = self._out.folder, self.found
        found.is_running = any(is_there for _, is_there in holders(folder.root))
        found.num_shards = 0
        record = self._record(folder.place_of(columns.STAMP_FILE)) or {}
        if record and not {"fingerprint", "result"} & record.keys() and next(self._markers(), None) is None:
            raise InputError(f"{folder.root} is no result of a run, so there is nothing to compare it with: {NO_RUN}")
        found.num_planned, _ = planned_of(record)
        found.is_plan_unknown = bool(record) and found.num_planned is None and "result" not in record
        keeps = False
        for name, looked in places.in_threads(lambda name: (name, self._look(name, record)), self._markers()):
            self._take(name, looked)
            keeps = keeps or self._keeps(looked, record)
            self._on_progress(found.num_shards, found.num_planned or 0)
        stamp = folder.place_of(f"{columns.EMBEDDINGS_FOLDER}/{columns.STAMP_FILE}")
        if keeps or places.entry_of(stamp) is not None:
            self._record(stamp, mend=ANEW, gone=(NO_STAMP, ANEW))
        if not found.is_running:
            self._extra()
        for name in [one for one in self._top() if is_run_file(one)]:
            self._record(folder.place_of(name), mend="remove it: it only says how long runs took")

    @staticmethod
    def _keeps(looked: _Looked, record: Mapping[str, Any]) -> bool:
        """Whether a shard of scores has embeddings beside them."""
        files = looked.result.files if looked.result is not None else {}
        return record.get("format") == SCORES.format and any(name.startswith(_KEPT) for name in files)

    def _markers(self) -> Iterator[str]:
        """Names of the shards that have a done-marker, as they are listed; segments of the index are looked at on the way."""
        start = f"{columns.DONE_FOLDER}/"
        for name, _, _ in places.listing_with_times(self._out.folder.place_of(columns.DONE_FOLDER)):
            inside = start + name
            if index.SEGMENT.fullmatch(inside):
                self._segment(inside)
            elif (shard := shard_of_marker(inside)) is not None:
                yield shard

    def _segment(self, name: str) -> None:
        place = self._out.folder.place_of(name)
        try:
            with remote.read_errors(place), storage.open_stream(place) as file:
                index.check(file)
        except DamagedRecordError as error:
            self._tell(Finding("damaged", place, str(error), INDEX))
        except InputError:  # a run that is at work has replaced it meanwhile
            return

    def _record(self, place: str, mend: str = OVERWRITE, gone: tuple[str, str] = (NO_RECORD, GONE)) -> dict[str, Any] | None:
        """A record; None where it is damaged or gone (why that is bad, what to do), which is told."""
        data = places.read_all(place)
        if data is None:
            self._tell(Finding("missing", place, *gone))
            return None
        self.found.num_files += 1
        self.found.num_bytes += len(data)
        try:
            return records.parse(data)
        except DamagedRecordError as error:
            self._tell(Finding("damaged", place, str(error), mend))
            return None

    def _look(self, name: str, record: Mapping[str, Any]) -> _Looked:
        """Read a shard again; once more where its marker was written anew meanwhile."""
        while True:
            looked = self._look_once(name, record)
            if not looked.findings or self._out.folder.read(marker_of(name)) == looked.marker:
                return looked

    def _look_once(self, name: str, record: Mapping[str, Any]) -> _Looked:
        folder = self._out.folder
        place = folder.place_of(marker_of(name))
        looked = _Looked(folder.read(marker_of(name)))
        if looked.marker is None:  # it was taken back meanwhile
            return looked
        try:
            shard = EarlierShard.from_json(records.parse(looked.marker), folder.root, name)
        except DamagedRecordError as error:
            looked.findings.append(Finding("damaged", place, str(error), AGAIN))
            return looked
        if record and shard.fingerprint != record.get("fingerprint"):
            looked.findings.append(Finding("extra", place, "it is of a run with other options", REMOVE))
        result = looked.result = shard.result
        for file, num_bytes in result.files.items():
            where = folder.place_of(file)
            finding = _damage_of(where, num_bytes, result.sha256.get(file), AGAIN) or _wrong_rows(where, file, result)
            looked.findings += [] if finding is None else [finding]
        return looked

    def _take(self, name: str, looked: _Looked) -> None:
        found, root = self.found, self._out.folder.root
        if looked.marker is None:
            return
        found.num_files += 1
        found.num_bytes += len(looked.marker)
        found.num_shards = (found.num_shards or 0) + (not name.startswith(columns.KEPT_NAME))
        found.num_damaged_shards += bool(looked.findings)
        result = looked.result
        if result is not None:
            found.num_files += len(result.files)
            found.num_bytes += sum(result.files.values())
            found.num_unchecked += len(result.files) - len(result.sha256)
            self._known.extend(map(_hash, result.files))
        else:  # its files are not extra: the shard is done again
            self._has_lost_numbers = True
            self._known.extend(_hash(one) for one in self._named(name))
        for finding in looked.findings:
            is_known = finding.kind == "damaged" and not found.is_running and locations.is_local(root)
            self._tell(_touched(finding) if is_known else finding)

    def _named(self, shard: str) -> list[str]:
        """Names that files of a shard may have."""
        folders = [*_FOLDERS, f"{columns.EMBEDDINGS_FOLDER}/{columns.EMBEDDINGS_FOLDER}"]
        return [f"{folder}/{shard}{suffix}" for folder in folders for suffix in (".parquet", ".csv")]

    def _extra(self) -> None:
        """Tell of files that lie among those of shards, and that no finished shard has."""
        known = np.sort(np.frombuffer(self._known, np.uint64)) if self._known else np.zeros(0, np.uint64)
        folder = self._out.folder
        tables = self._tables()
        while names := list(islice(tables, _AT_ONCE)):
            hashes = np.fromiter(map(_hash, names), np.uint64, len(names))
            at = np.minimum(np.searchsorted(known, hashes), max(0, len(known) - 1))
            is_known = known[at] == hashes if len(known) else np.zeros(len(names), bool)
            for name, is_one in zip(names, is_known.tolist(), strict=True):
                if not is_one:
                    mend = REMOVE if self._out.is_by_us(name) else MOVE
                    self._tell(Finding("extra", folder.place_of(name), "no shard that is finished has it", mend))

    def _tables(self) -> Iterator[str]:
        """Files in the folders of shards that readers would take for a part of the result."""
        for top in _FOLDERS:
            for name, _, _ in places.listing_with_times(self._out.folder.place_of(top)):
                inside = f"{top}/{name}"
                if self._has_lost_numbers and _NUMBERED & set(inside.split("/")[:-1]):
                    continue
                if is_shard_file(inside) or PurePosixPath(name).suffix.lower() in TABLES:
                    yield inside

    def _top(self) -> list[str]:
        """Files directly in a folder."""
        folder = self._out.folder
        if not folder.is_local:
            fs, inner = remote.filesystem(folder.root)
            with remote.read_errors(folder.root):
                return [PurePosixPath(name).name for name in fs.ls(inner, detail=False)]
        return sorted(entry.name for entry in folder.path.iterdir() if entry.is_file())

    # One file.

    def joined(self) -> None:
        """Check a result that was joined to one file."""
        out, found = self._out, self.found
        try:
            finished = FinishedResult(out)
            record = finished.record or {}
            result = ShardResult.from_json(record.get("result"))
            written = finished.written()
        except (OutputError, DamagedRecordError) as error:
            why = str(error.__context__ or error) if isinstance(error, OutputError) else str(error)
            self._tell(Finding("damaged", out.sidecar, why, OVERWRITE))
            return
        found.num_files = 1
        found.is_running = out.folder.exists() and any(is_there for _, is_there in holders(out.folder.root))
        has_rejects = out.kind == "csv" and record.get("format") == SCORES.format  # (those of scores stand in their place)
        rows = {out.out: result.num_read if has_rejects else result.num_scored, out.rejects: result.num_rejected}

        def look(place: str) -> Finding | None:
            one = written[place]
            finding = _damage_of(place, one.num_bytes, one.sha256, OVERWRITE)
            if finding is None and place in rows:
                num_rows = _rows_in(place)
                if num_rows != rows[place]:
                    finding = _other_rows(place, num_rows, rows[place])
            return finding

        for number, (place, finding) in enumerate(places.in_threads(lambda place: (place, look(place)), written), 1):
            found.num_files += 1
            found.num_bytes += written[place].num_bytes
            found.num_unchecked += written[place].sha256 is None
            if finding is not None:
                self._tell(finding)
            self._on_progress(number, len(written))
        if out.rejects not in written and storage.exists(out.rejects):
            self._tell(Finding("extra", out.rejects, "the finished run rejected nothing", MOVE))
        if record.get("format") == SCORES.format:
            self._joined_embeddings(written)

    def _joined_embeddings(self, written: Mapping[str, Any]) -> None:
        """Check what stands beside the embeddings that were kept: their stamp, and whatever readers would take for a part."""
        kept = f"{self._out.kept_embeddings}/"
        stamp = kept + columns.STAMP_FILE
        if any(place.startswith(kept) for place in written) or places.entry_of(stamp) is not None:
            self._record(stamp, gone=(NO_STAMP, OVERWRITE))
        if self.found.is_running:  # it may be putting them there
            return
        for name, _, _ in places.listing_with_times(kept.rstrip("/")):
            is_table = is_shard_file(_KEPT + name) or PurePosixPath(name).suffix.lower() in TABLES
            if is_table and kept + name not in written:
                self._tell(Finding("extra", kept + name, "the finished run did not keep it", MOVE))


@dataclass
class _Looked:
    """A shard that was read again; the marker's bytes, None where it has none; what it says, None where that is damaged."""

    marker: bytes | None
    result: ShardResult | None = None
    findings: list[Finding] = field(default_factory=list)


def _touched(finding: Finding) -> Finding:
    """Give a damaged file the present time; the finding with what to do where that fails."""
    try:
        os.utime(finding.file)
    except FileNotFoundError:
        return finding
    except OSError:
        return replace(finding, mend=UNTOUCHED)
    return finding


def _damage_of(place: str, num_bytes: int, sha256: str | None, mend: str) -> Finding | None:
    """What is wrong with a file that had so many bytes, and this checksum if it is known."""
    try:
        now = places.entry_of(place)
        if now is None:
            return Finding("missing", place, "it is gone", mend)
        if now.num_bytes != num_bytes or not _is_file(place):
            return Finding("damaged", place, f"it has {now.num_bytes:,} bytes, and {num_bytes:,} were written", mend)
        if sha256 is not None:
            why = "" if storage.sha256_at(place, num_bytes) == sha256 else "it is not what was written (sha256)"
        else:
            why = "" if not place.endswith(".parquet") or can_be_read(place) else "it cannot be read"
    except BeholderError as error:
        return Finding("damaged", place, f"it cannot be read: {error}", mend)
    return Finding("damaged", place, why, mend) if why else None


def _is_file(place: str) -> bool:
    return not locations.is_local(place) or storage.is_local_file(place)


def _wrong_rows(place: str, name: str, result: ShardResult) -> Finding | None:
    """What is wrong with the number of rows of a shard's file that is as it was written."""
    top = name.split("/")[0]
    if top == columns.REJECTS_FOLDER:
        wanted = result.num_rejected
    elif top == columns.INPUTS_FOLDER or (top == columns.SCORES_FOLDER and name.endswith(".csv")):
        wanted = result.num_read  # (rejected rows stand in their place in CSV)
    else:
        wanted = result.num_scored
    try:
        num_rows = _rows_in(place)
    except BeholderError as error:
        return Finding("damaged", place, f"it cannot be read: {error}", OVERWRITE)
    return None if num_rows == wanted else _other_rows(place, num_rows, wanted)


def _other_rows(place: str, num_rows: int, wanted: int) -> Finding:
    return Finding("damaged", place, f"it has {num_rows:,} rows, and the record says {wanted:,}", OVERWRITE)


def _rows_in(place: str) -> int:
    """Rows of a Parquet, CSV or .npy file. Raises InputError."""
    if place.endswith(".npy"):
        head = io.BytesIO(storage.read_range(place, 0, _NPY_HEAD_BYTES))
        try:
            np.lib.format.read_magic(head)
            return int(np.lib.format.read_array_header_1_0(head)[0][0])
        except (ValueError, IndexError) as error:
            raise InputError(f"{place} has no header of an array: {error}") from None
    if place.endswith((".parquet", ".pq")):
        with storage.open_parquet(place) as file:
            return int(file.metadata.num_rows)
    lines, is_quoted = 0, False
    with remote.read_errors(place), storage.open_stream(place) as stream:
        while piece := stream.read(_PIECE_BYTES):
            data = np.frombuffer(piece, np.uint8)
            inside = (np.cumsum(data == ord('"')) + is_quoted) % 2
            lines += int(np.count_nonzero((data == ord("\n")) & (inside == 0)))
            is_quoted = bool(inside[-1])
    return max(0, lines - 1)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "little")
