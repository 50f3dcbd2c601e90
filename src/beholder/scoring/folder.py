"""The folder of a run, on this machine's disks, on NFS or in a bucket: record, shards' files, done-markers, what is set aside.

A shard's done-marker is written last. A run's options stand in its record; a run with other options stops and says which one
differs. A step writes a shard's files into a local folder: that of the run itself, or, where that is remote, one that holds a
shard at a time, whose files are put to their place as soon as the shard is written.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from beholder import columns
from beholder.columns import EARLIER_FOLDER, STAMP_FILE
from beholder.errors import BeholderError, InputError, OutputError, writing_failed
from beholder.io import crash, places, records, storage
from beholder.io.places import Entry
from beholder.io.records import DamagedRecordError
from beholder.io.temporaries import is_of_the_dead
from beholder.notices import say
from beholder.scoring import index, lock
from beholder.scoring.index import IndexedShard
from beholder.scoring.listed_folder import ListedFolder, remove_empty
from beholder.scoring.shards import (
    DamagedShardError,
    EarlierShard,
    Shard,
    ShardResult,
    is_shard_file,
    marker_of,
    shard_of_marker,
)

_AGAIN = "run the same command again, and its shard is redone"
_BESIDE = f"{columns.EMBEDDINGS_FOLDER}/{STAMP_FILE}"
"""What a step writes once beside its shards' files: the stamp of embeddings that are kept beside scores."""
_SET_ASIDE = re.compile(r"\d{5}")
"""Folders below `EARLIER_FOLDER`; the last one counts before the others. One without a record is not finished."""
_SET_ASIDE_FILES = re.compile(rf"{EARLIER_FOLDER}/(?:{_SET_ASIDE.pattern}|new)/.*", re.DOTALL)
_SET_ASIDE_AT_ONCE = 100
"""Shards of a run in a bucket."""
_TEMPORARY = re.compile(r"(?:.*/)?\.beholder-[^/]*\.tmp")
"""Files that are being written, or were when their run was killed."""
_STRAY_S = 600.0
"""A half-written file that has not been touched for so long is of a run that was killed."""
_LOCKS = re.compile(rf"{re.escape(lock.LOCK_FILE)}|{re.escape(lock.LEASE_FILE)}|{re.escape(lock.PARTS_FOLDER)}/.+", re.DOTALL)
"""Files that say who works in the folder."""


class ShardWriter(Protocol):
    """Whoever writes the files of a shard: a step.

    Attributes:
        models: sha256 of the models in use.
    """

    models: Sequence[str]

    def write(self, shard: Shard, computed: Any, folder: str) -> ShardResult:
        """Write the shard's files below a local folder, each whole or not at all."""


class RunFolder(ListedFolder):
    """A folder with a run's record, done-markers and whatever its step writes.

    Several processes may have one of the same folder, and write shards there at once.

    Args:
        root: a path, or the URL of a place that can be written to.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._waiting: list[IndexedShard] = []
        self._waiting_since = time.monotonic()
        self._segments: list[tuple[str, int]] = []
        self._beside: bytes | None = None
        self._is_removed = self._is_shared = self._is_alone = self._is_inner = False

    def below(self, name: str) -> RunFolder:
        """A folder in it, which holds shards as well."""
        found = RunFolder(self.place_of(name))
        found._is_inner = True
        if self._listed is not None:
            start = f"{name}/"
            found._listed = {inside[len(start) :]: one for inside, one in self._listed.items() if inside.startswith(start)}
        return found

    # What is there.

    def holds_something(self) -> bool:
        """Whether any file but a lock and half-written ones is in it, or below it."""
        if self.is_local:
            inside = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_symlink() or not path.is_dir())
            return any(not _is_passing(str(path)) for path in inside)
        self.look()
        return not all(_is_passing(name) for name in self.names())

    def is_left_over(self) -> bool:
        """Whether nothing is there but what a run leaves that is killed once it has removed itself: its lock, a bare folder."""
        return self.exists() and not self.holds_something()

    def read_record(self) -> dict[str, Any] | None:
        """The record of an earlier run, or None. Raises OutputError when it is damaged."""
        data = self.read(STAMP_FILE)
        if data is None:
            return None
        try:
            record = records.parse(data)
            records.json_object(record.get("options", {}), "options is")
        except DamagedRecordError as error:
            place = self.place_of(STAMP_FILE)
            raise OutputError(f"{place} is damaged: {error}; restore it, or use --overwrite to start anew") from None
        return record

    def record_or_nothing(self) -> dict[str, Any] | None:
        """The record of an earlier run; None where nothing is there. Raises OutputError where something else is, or damage."""
        record = self.read_record()
        if record is None and self.holds_something():
            record = self.read_record()  # another part may have begun the run meanwhile, its record first
            if record is None:
                raise self.not_a_run()
        return record

    def not_a_run(self) -> OutputError:
        """What to say where something else stands."""
        return OutputError(f"{self.root} already exists and is not a beholder run; choose another output, or remove it")

    def is_run_of(self, format_name: str) -> bool:
        """Whether its record, damaged or not, is one of a run that writes `format_name`."""
        data = self.read(STAMP_FILE)
        if data is None:
            return False
        try:
            return records.parse(data).get("format") == format_name
        except DamagedRecordError:
            return records.looks_ours(data)

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record, whole or not at all."""
        self.put(STAMP_FILE, records.sealed(record, indent=2))

    def begin_record(self, record: Mapping[str, Any]) -> None:
        """Write the record where there is none: of several that begin at once the first one's stays."""
        places.create(self.place_of(STAMP_FILE), records.sealed(record, indent=2))
        self.look()

    def finished_names(self) -> set[str]:
        """Names of the shards that have a done-marker."""
        return {shard for name in self.names() if (shard := shard_of_marker(name)) is not None}

    def named_files(self, shard: str) -> list[str]:
        """Files that bear the name of this shard, relative to the folder."""
        start = f"{shard}."
        return [name for name in self.names() if posixpath.basename(name).startswith(start) and is_shard_file(name, shard)]

    def finished_shard(self, name: str, wanted_fingerprint: str) -> EarlierShard | None:
        """A finished shard by its name, whatever its input was, or None when it has not been done with these options.

        Marker and files are read, and compared with their checksums. Of an older version, which wrote none, sizes are compared,
        and Parquet files must be readable.

        Raises DamagedShardError: marker or files are not what was written, or a file is gone.
        """
        data = self.read(marker_of(name))
        if data is None:
            return None
        try:
            found = EarlierShard.from_json(records.parse(data), self.root, name)
        except DamagedRecordError as error:
            place = self.place_of(marker_of(name))
            raise DamagedShardError(
                f"{place} is damaged: {error}; run the same command again, and the shard is redone"
            ) from None
        if found.fingerprint != wanted_fingerprint:
            return None
        self.check_files(found.result)
        return found

    def marked_shard(self, name: str) -> EarlierShard:
        """A finished shard by its marker alone; its files are not looked at. Raises DamagedRecordError."""
        data = self.read(marker_of(name))
        if data is None:
            raise DamagedRecordError("it is gone")
        return EarlierShard.from_json(records.parse(data), self.root, name)

    def finished_shards(
        self, names: Sequence[str], wanted_fingerprint: str
    ) -> Iterator[EarlierShard | DamagedShardError | None]:
        """`finished_shard` for each name, in order; a DamagedShardError is given, not raised.

        A shard whose marker and files look, in one listing, as the index has them is taken as it stands there; the others are
        read, several at once, and are in the index from then on.
        """
        known = self._indexed()

        def look(name: str) -> EarlierShard | DamagedShardError | None:
            found = known.get(name)
            if found is not None and found.shard.fingerprint == wanted_fingerprint:
                return found.shard
            try:
                read = self.finished_shard(name, wanted_fingerprint)
            except DamagedShardError as error:
                return error
            if read is not None:
                self._note_as_listed(read)
            return read

        read = places.in_threads(look, [name for name in names if name not in known])
        for name in names:
            yield look(name) if name in known else next(read)

    def marked_shards(self, names: Sequence[str]) -> Iterator[EarlierShard | None]:
        """Shards by their done-markers, or as the index has them, in order; None for a marker that is damaged or has gone.

        Files are not looked at, and nothing is written.
        """
        known = self._indexed()

        def look(name: str) -> EarlierShard | None:
            if name in known:
                return known[name].shard
            try:
                return self.marked_shard(name)
            except DamagedRecordError:
                return None

        yield from map(look, names) if self.is_local else places.in_threads(look, names)

    def check_files(self, result: ShardResult) -> None:
        """Compare a shard's files with what was written. Raises DamagedShardError."""
        for name, num_bytes in result.files.items():
            place = self.place_of(name)
            now = places.entry_of(place) if self.is_local else self._looks().get(name)
            if now is None or now.num_bytes != num_bytes or (self.is_local and not Path(place).is_file()):
                raise DamagedShardError(f"{place} is gone or of another size than was written; {_AGAIN}")
            if name in result.sha256 and storage.sha256_at(place, num_bytes) != result.sha256[name]:
                raise DamagedShardError(f"{place} is damaged: it is not what was written (sha256); {_AGAIN}")
            if name not in result.sha256 and name.endswith(".parquet") and not can_be_read(place):
                raise DamagedShardError(f"{place} is damaged: it cannot be read; {_AGAIN}")

    # The index.

    def _indexed(self) -> dict[str, IndexedShard]:
        """Finished shards whose marker and files look as the index has them. Many segments become one."""
        listed = self.names()
        segments = sorted(name for name in listed if index.SEGMENT.fullmatch(name))
        found: dict[str, IndexedShard] = {}
        num_stale = 0
        for data in places.in_threads(self.read, segments) if not self.is_local else map(self.read, segments):
            with contextlib.suppress(DamagedRecordError):  # (it only costs opening the markers)
                for one in index.unpack(data or b"", self.root):
                    if one.marker.is_as(listed.get(marker_of(one.shard.name))) and all(
                        was.is_as(listed.get(name)) for name, was in one.files.items()
                    ):
                        found[one.shard.name] = one
                    else:
                        num_stale += 1
        if not self._is_shared and not self._is_inner and (len(segments) > index.MERGED_AT_ONCE or num_stale > len(found)):
            with self._turn:  # they are replaced by what is waiting from now on
                self._waiting += found.values()
                self._segments += [(name, 0) for name in segments]
        return found

    def _note_as_listed(self, shard: EarlierShard) -> None:
        """Have a finished shard that was read stand in the index, if the listing knows its files."""
        with self._turn:
            listed = self._looks()
            marker = listed.get(marker_of(shard.name))
            files = {name: listed[name] for name in shard.result.files if name in listed}
        if marker is not None and len(files) == len(shard.result.files):
            self.note(IndexedShard(shard, marker, files))

    def note(self, done: IndexedShard) -> None:
        """Know of a shard that is finished, by this process or another one, and have it stand in the index, soon."""
        shard = done.shard
        self._note_looks({marker_of(shard.name): done.marker, **done.files})
        with self._turn:
            if self._is_inner:  # what is set aside goes soon, and who removes it would not know of an index
                return
            if set(shard.result.sha256) != set(shard.result.files):  # of an older version: to be looked at each time
                return
            if not self._waiting:
                self._waiting_since = time.monotonic()
            self._waiting.append(done)
            is_due = time.monotonic() - self._waiting_since > index.MOST_WAITING_S
            if len(self._waiting) >= index.MOST_WAITING or is_due:
                self.save_index()

    def save_index(self) -> None:
        """Write the shards that are not in the index yet as a segment, unless the folder was removed."""
        with self._turn:
            if not self._waiting or self._is_removed:
                return
            alike = [name for name, num in self._segments if num <= len(self._waiting)]
            merged = alike if len(alike) >= index.MERGED_AT_ONCE else [name for name, num in self._segments if num == 0]
            try:
                shards = {one.shard.name: one for name in merged for one in self._in_segment(name)}
                shards |= {one.shard.name: one for one in self._waiting}
                name = index.new_segment()
                self.put(name, index.pack(list(shards.values())))
                crash.reach("index written")
                self.remove(merged)
            except BeholderError as error:
                say(f"the index of finished shards could not be written, so the next run reads every done-marker: {error}")
            else:
                gone = set(merged)
                self._segments = [(name, len(shards)), *(one for one in self._segments if one[0] not in gone)]
            self._waiting = []

    def _in_segment(self, name: str) -> list[IndexedShard]:
        """The shards of a segment that is written anew; none where it is damaged or gone."""
        if dict(self._segments)[name] == 0:  # its shards are waiting
            return []
        try:
            return list(index.unpack(self.read(name) or b"", self.root))
        except DamagedRecordError:
            return []

    # What is written.

    def write_shard(self, step: ShardWriter, shard: Shard, computed: Any, run_fingerprint: str) -> IndexedShard:
        """Have the step write a shard's files, put them to their place, and mark it as finished.

        Needs no lock: several processes may do so in one folder, for the same shard as well, of which the files are the same.
        One of them is to `note` what comes back.
        """
        with self._shard_place(shard.name) as place:
            result = step.write(shard, computed, str(place))
            crash.reach("shard written")
            crash.reach(f"shard {shard.name} written")
            return self.mark_finished(shard, result, run_fingerprint, step.models, place)

    @contextlib.contextmanager
    def _shard_place(self, name: str) -> Iterator[Path]:
        """The local folder into which a step writes: the run's own, or one whose files are put to their place later."""
        if self.is_local:
            yield self.path
            return
        place = self._scratch_folder() / name
        if self._beside is None:
            self._beside = self.read(_BESIDE) or b""
        try:
            try:
                shutil.rmtree(place, ignore_errors=True)
                (place / _BESIDE).parent.mkdir(parents=True)
                if self._beside:  # so that the step sees that it is there
                    (place / _BESIDE).write_bytes(self._beside)
            except OSError as error:
                raise writing_failed(str(place), error) from error
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def mark_finished(
        self, shard: Shard, result: ShardResult, run_fingerprint: str, models: Sequence[str], place: Path | None = None
    ) -> IndexedShard:
        """Put a shard's files, which lie in `place`, to theirs, and write the done-marker, the last thing that happens to it.

        Returns it with the checksums of its files.
        """
        place = place if place is not None else self.path
        result = replace(result, sha256={name: storage.sha256_of(place / name) for name in result.files})
        looks: dict[str, Entry] = {}
        for name in result.files:
            looks[name] = self.put_written(name, place / name)
        beside = place / _BESIDE
        if not self.is_local and beside.is_file() and beside.read_bytes() != self._beside:
            self.put_written(_BESIDE, beside)
            self._beside = beside.read_bytes()
        crash.reach("shard placed")
        done = EarlierShard(self.root, shard.name, shard.identity, result, run_fingerprint, tuple(models))
        return self._marked(done, looks)

    def _marked(self, done: EarlierShard, looks: Mapping[str, Entry]) -> IndexedShard:
        """Write a done-marker."""
        assert all(is_shard_file(name, done.name) for name in done.result.files), f"strange names: {done.result.files}"
        marker = self.put(marker_of(done.name), records.sealed(done.to_json()))
        crash.reach("shard done")
        return IndexedShard(done, marker, looks)

    def mark_again(self, done: EarlierShard) -> None:
        """Write the marker of a shard whose files are there, with the checksums that it names."""
        self.put(marker_of(done.name), records.sealed(done.to_json()))

    def keep_beside(self, name: str, record: Mapping[str, Any], results: Iterable[ShardResult]) -> None:
        """Have a record beside shards' files, if any of them has such, where it is gone, damaged, or of other sources."""
        start = f"{posixpath.dirname(name)}/"
        if not any(file.startswith(start) for result in results for file in result.files):
            return
        with contextlib.suppress(DamagedRecordError):
            if records.parse(self.read(name) or b"").get(columns.PICTURES) == record.get(columns.PICTURES):
                return
        self.put(name, records.sealed(record, indent=2))

    def forget(self, shard: str, names: Iterable[str]) -> None:
        """Take back the shard of this name: its marker first, then its files; names that no shard's file has are left alone."""
        self.remove([marker_of(shard)])
        self.remove(name for name in names if is_shard_file(name, shard))

    def remove_strays(self) -> None:
        """Remove what killed runs left half-written.

        Where it is not certain that they are gone: what processes left that are seen to be, and what was left a while ago.

        For whoever has the folder's lock.
        """
        names = [name for name in self.names() if _TEMPORARY.fullmatch(name)]
        if self._is_alone:
            names += [name for name in self.names() if name.startswith(f"{lock.PARTS_FOLDER}/")]
        elif self.is_local:
            looks = self._looks()
            oldest = (time.time() - _STRAY_S) * 1e9
            names = [name for name in names if is_of_the_dead(name) or int(looks[name].version) < oldest]
        self.remove(names)
        if self._is_alone:
            remove_empty(self.path / lock.PARTS_FOLDER)

    # What is set aside.

    def places_aside(self) -> list[RunFolder]:
        """Folders with shards of earlier runs that are set aside in this one, those of the last time first."""
        pattern = re.compile(rf"{EARLIER_FOLDER}/({_SET_ASIDE.pattern})/{re.escape(STAMP_FILE)}")
        numbers = sorted((found[1] for name in self.names() if (found := pattern.fullmatch(name))), reverse=True)
        return [self.below(f"{EARLIER_FOLDER}/{number}") for number in numbers]

    def new_place_aside(self) -> RunFolder:
        """A new folder for shards that are set aside, with the record of the run that made them. Raises OutputError."""
        place = self._next_aside()
        self.put(f"{place}/{STAMP_FILE}", self.read(STAMP_FILE) or b"{}\n")
        return self.below(place)

    def _next_aside(self) -> str:
        inside = {name.split("/")[1] for name in self.names() if name.startswith(f"{EARLIER_FOLDER}/")}
        numbers = [int(name) for name in inside if _SET_ASIDE.fullmatch(name)]
        return f"{EARLIER_FOLDER}/{max(numbers, default=-1) + 1:05d}"

    @contextlib.contextmanager
    def opening(self) -> Iterator[RunFolder]:
        """Give an empty folder for shards; when all went well they are set aside in this one, of which nothing is yet."""
        self.remove_set_aside()
        place = self._next_aside()
        try:
            with contextlib.closing(RunFolder(self.place_of(place))) as folder:
                yield folder
        except BaseException:
            with contextlib.suppress(BeholderError):  # what went wrong before is told
                self.look()
                self.remove_set_aside()
            raise
        crash.reach("result opened")
        self.put(f"{place}/{STAMP_FILE}", self.read(STAMP_FILE) or b"{}\n")
        crash.reach("opened result set aside")
        self.look()

    def set_aside(self, earlier: Sequence[EarlierShard], place: RunFolder) -> list[EarlierShard]:
        """Move finished shards of this folder to another one; killed anywhere, each is whole in one of the two, or in both.

        Raises OutputError.
        """
        inside = place.root.removeprefix(f"{self.root}/")
        at_once = 1 if self.is_local else _SET_ASIDE_AT_ONCE  # without hard links each needs room for its copy
        for low in range(0, len(earlier), at_once):
            shards = earlier[low : low + at_once]
            files = [name for shard in shards for name in shard.result.files]
            markers = [marker_of(shard.name) for shard in shards]
            places.copy_all([(self.place_of(name), place.place_of(name)) for name in files])
            crash.reach("shard linked aside")
            places.copy_all([(self.place_of(name), place.place_of(name)) for name in markers])
            places.remove_all([self.place_of(name) for name in markers])
            crash.reach("shard set aside")
            places.remove_all([self.place_of(name) for name in files])
        with self._turn:
            listed = self._listed if self._listed is not None else {}
            for name in (name for shard in earlier for name in (*shard.result.files, marker_of(shard.name))):
                if (one := listed.pop(name, None)) is not None:
                    listed[f"{inside}/{name}"] = one
        return [replace(shard, folder=place.root) for shard in earlier]

    def adopt(
        self, earlier: EarlierShard, shard: Shard, names: Sequence[str], run_fingerprint: str, models: Sequence[str]
    ) -> IndexedShard:
        """Take over a shard that was set aside, whole; `names`: its files' names here, of which numbers may differ.

        Raises OutputError.
        """
        renamed = {name: _in_the_same_folder(name, names) for name in earlier.result.files}
        places.copy_all([(earlier.place_of(name), self.place_of(new)) for name, new in renamed.items()])
        was = earlier.result
        sums = {renamed[name]: digest for name, digest in was.sha256.items()}
        sums = sums or {new: storage.sha256_at(self.place_of(new), was.files[name]) for name, new in renamed.items()}
        result = replace(was, files={renamed[name]: size for name, size in was.files.items()}, sha256=sums)
        looks = {name: found for name in result.files if (found := places.entry_of(self.place_of(name))) is not None}
        self._note_looks(looks)
        return self._marked(EarlierShard(self.root, shard.name, shard.identity, result, run_fingerprint, tuple(models)), looks)

    def remove_set_aside(self) -> None:
        """Remove what was set aside, and the folder it is in unless something else is there."""
        names = [name for name in self.names() if is_set_aside(name)]
        records_last = sorted(names, key=lambda name: name.endswith(f"/{STAMP_FILE}"))
        self.remove(records_last)
        if self.is_local:
            remove_empty(self.path / EARLIER_FOLDER)

    # Whose it is.

    @contextlib.contextmanager
    def locked(
        self, *, kind: lock.Kind = "auto", interval_s: float = lock.INTERVAL_S, is_shared: bool = False
    ) -> Iterator[None]:
        """Keep a second run out of this folder. See `lock.held`. What is known of the folder is looked up anew."""
        with contextlib.ExitStack() as opened:
            opened.callback(self._remove_if_empty)
            is_certain = opened.enter_context(lock.held(self.root, kind=kind, interval_s=interval_s, is_shared=is_shared))
            self.look()
            self._is_removed, self._is_shared, self._is_alone = False, is_shared, is_certain and not is_shared
            try:
                yield
            finally:
                self.close()

    def _remove_if_empty(self) -> None:
        """Once a run has been removed, and its lock after it, remove its local folder unless something else is in it."""
        if self._is_removed and self.is_local:
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def close(self) -> None:
        """Write the index, and let go of the local folder that shards were written into, and of those of workers."""
        self.save_index()
        super().close()

    def removed(self) -> None:
        """Be told that what is in the folder has been removed: nothing is written into it any more."""
        with self._turn:
            self._waiting, self._segments, self._is_removed = [], [], True


def _is_passing(name: str) -> bool:
    """Whether a name in a run's folder is one that stands there only while a run works, or was killed."""
    return bool(_LOCKS.fullmatch(name) or _TEMPORARY.fullmatch(name))


def is_set_aside(name: str) -> bool:
    """Whether a name in a run's folder is one of a file that is set aside until a run has used it."""
    return _SET_ASIDE_FILES.fullmatch(name) is not None


def is_own_file(name: str) -> bool:
    """Whether a name in a run's folder is one of a done-marker, of the index, or of a file that was not finished."""
    return bool(shard_of_marker(name) is not None or index.SEGMENT.fullmatch(name) or _TEMPORARY.fullmatch(name))


def _in_the_same_folder(name: str, names: Sequence[str]) -> str:
    """The one of `names` that lies in the folder of `name`."""
    (found,) = (one for one in names if posixpath.dirname(one) == posixpath.dirname(name))
    return found


def can_be_read(place: str) -> bool:
    """Whether a Parquet file can be read to its end."""
    import pyarrow as pa

    try:
        with storage.open_parquet(place) as file:
            for _ in file.iter_batches():
                pass
    except (InputError, pa.ArrowException, OSError):
        return False
    return True
