"""A job of packing in; tars or Parquet files with the pictures' own bytes, shard after shard, each journaled first, out."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from beholder import columns
from beholder.curate.act import files, journal
from beholder.curate.act.captions import KEPT, MEMBER_ENDS, REPLACED, WITHOUT, WRITTEN, captions_of, text_of_member
from beholder.curate.act.entries import Told
from beholder.curate.act.fetching import bytes_of
from beholder.curate.act.files import Refused
from beholder.curate.act.journal import Journal
from beholder.curate.act.layout import with_suffix
from beholder.curate.act.packed_names import KeyGiver, PackedNames
from beholder.curate.act.plan import check_place, with_recorded_size
from beholder.curate.act.renaming import rename_new
from beholder.curate.act.run import Job, Say, free_bytes, take_over
from beholder.curate.act.shards import ParquetShard, ShardWriter, TarShard, keys_of
from beholder.curate.act.telling import and_more, bytes_text
from beholder.errors import OutputError, writing_failed
from beholder.io import storage
from beholder.locate.place import FilePlace, Place
from beholder.pixels.picture import PictureRef

_BATCH_LOOK, _BATCH_READ = 128, 32
_EXAMPLES = 3
_MANY = 1024
"""So many pictures that were left out, with none in between that was packed, are written down before the next shard."""


@dataclass(frozen=True)
class _Item:
    """A picture that is to be packed.

    Attributes:
        number: of its row.
        place: where it is.
        refused: why it is left out, if that is known before it is read.
        caption: of the column of captions; None where that has none.
    """

    number: int
    place: Place
    refused: Refused | None
    caption: str | None

    @property
    def caption_data(self) -> bytes:
        """The caption as it is packed into tars."""
        return (self.caption or "").encode()


@dataclass
class _Shard:
    """What is in the shard at hand."""

    number: int
    pictures: int = 0
    num_files: int = 0
    num_bytes: int = 0
    renamed: int = 0
    origins: dict[str, list[int]] = field(default_factory=dict)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    captions: Counter[str] = field(default_factory=Counter)


def rehearse(job: Job, say: Say) -> None:
    """Plan everything, read no picture, touch nothing."""
    given = _keys(job)
    summary, told = job.summary, job.told
    if told is not None:
        _take_over(job, told)
    _check_free_names(job, told)
    most, most_bytes = job.shard_limits
    shard = _Shard(len(told.shards) if told is not None else 0)
    start = told.num_planned if told is not None else 0
    for item in _looked_at(job, start, _BATCH_LOOK):
        place = item.place
        try:
            names, size = _named(job, given, item)
            if shard.pictures and (shard.pictures >= most or shard.num_bytes + size > most_bytes):
                shard = _Shard(shard.number + 1)
                given.begin_shard()
                names, size = _named(job, given, item)
        except Refused as error:
            summary.leave_out(error.reason, place.sample, error.text)
            continue
        given.give(names)
        if shard.pictures == 0:
            summary.num_shards += 1
        shard.pictures += 1
        shard.num_bytes += size
        summary.num_done += 1
        summary.num_files += len(names.names) + bool(names.caption)
        summary.num_bytes += size
        summary.count_captions(_captions_of(job, item, names))
        summary.num_unsized += place.kind == "url" and place.files[0].size is None
        summary.renamed += names.is_renamed
        job.progress(1, size)
        if summary.num_done - summary.num_before <= _EXAMPLES:
            say(f"  {place.sample} -> {_names_of(job.action, shard.number)[0]}: {', '.join(_shown(names))}")
    if (more := summary.num_done - summary.num_before - _EXAMPLES) > 0:
        say(f"  {and_more(more)}")
    needed = summary.num_bytes - summary.num_bytes_before
    if needed > (free := free_bytes(job.target)):
        summary.notes.append(f"the disk of {job.target} has {bytes_text(free)} free, {bytes_text(needed)} are needed")


def _shown(names: PackedNames) -> list[str]:
    return [*(name for _, name in names.names), *([names.caption] if names.caption else ())]


def _captions_of(job: Job, item: _Item, names: PackedNames) -> Counter[str]:
    """How a picture counts among the captions."""
    if job.options.caption_column is None:
        return Counter()
    if item.caption is None:
        return Counter([KEPT if names.has_own_caption else WITHOUT])
    return Counter([WRITTEN, REPLACED] if names.is_replaced else [WRITTEN])


def _names_of(action: str, number: int) -> list[str]:
    return [f"{number:05d}.tar", f"{number:05d}.parquet"] if action == "tars" else [f"train-{number:05d}.parquet"]


def _keys(job: Job) -> KeyGiver:
    """Names, none of which a shard that is finished has."""
    taken: set[str] = set()
    if job.action == "tars" and job.told is not None:
        for shard in job.told.shards:
            for path, *_ in shard.files[1:]:
                with contextlib.suppress(OSError, pa.ArrowException):  # taken away meanwhile: its keys are free
                    taken.update(keys_of(Path(path)))
    return KeyGiver(job.layout, taken, has_captions=job.options.caption_column is not None)


def _take_over(job: Job, told: Told) -> None:
    """Count what earlier runs did."""
    take_over(job, told)
    told.left_out.tell(job.summary)
    if told.is_finished and told.left_out:
        job.summary.notes.append("what was left out then is not tried again")


def _check_free_names(job: Job, told: Told | None) -> None:
    """Raise OutputError where the folder holds shards that are not ours."""
    ours = {Path(made[0]).name for shard in (told.shards if told is not None else ()) for made in shard.files}
    if not os.path.isdir(job.target):  # noqa: PTH112
        return
    for name in sorted(os.listdir(job.target)):  # noqa: PTH208
        if name.endswith((".tar", ".parquet")) and name not in ours:
            raise OutputError(f"{job.target} holds {name} already; name an empty folder, so that the two are not mixed")


def _looked_at(job: Job, start: int, at_once: int) -> Iterator[_Item]:
    """Every picture from `start` on."""
    number = start
    wants_more = job.action == "tars" and job.options.sidecars
    for batch in job.batches(start, at_once):
        samples = batch.column(columns.SAMPLE).to_pylist()
        sizes = (
            batch.column(columns.NUM_BYTES).to_pylist() if columns.NUM_BYTES in batch.column_names else [None] * len(samples)
        )
        column = job.options.caption_column
        captions = captions_of(batch, column) if column is not None else [None] * len(samples)
        places = map(with_recorded_size, job.finder.locate(samples, with_belongings=wants_more), sizes)
        for place, size, caption in zip(places, sizes, captions, strict=True):
            try:
                check_place(place, size)
                yield _Item(number, place, None, caption)
            except Refused as refused:
                yield _Item(number, place, refused, caption)
            number += 1


def _named(job: Job, given: KeyGiver, item: _Item, data: bytes | None = None) -> tuple[PackedNames, int]:
    """The names of the next picture in the shard (`data`: its bytes, if read), and about how many bytes. Raises Refused."""
    place = item.place
    if item.refused is not None:
        raise item.refused
    if job.action == "tars":
        names = given.names(place, data, has_caption=item.caption is not None)
    else:
        path = with_suffix(job.layout.path(place, place.files[0]), place.files[0], data)
        names = PackedNames(path, ((0, path),), False)
    size = len(item.caption_data) if names.caption else 0
    return names, size + sum(_size(place.files[i]) for i, _ in names.names)


def _size(file: FilePlace) -> int:
    """Bytes of a file, 0 where that cannot be told."""
    if file.size is not None:
        return file.size
    if file.ref is not None and file.ref.data is not None:
        return len(file.ref.data)
    if file.ref is None or file.ref.path is None or not storage.is_local(file.ref.path):
        return 0
    try:
        return storage.local_path(file.ref.path).stat().st_size
    except OSError:
        return 0


def apply(job: Job) -> None:
    """Pack, or go on packing. Raises OutputError when the disk is full; the same again continues."""
    if job.told is None:
        _check_free_names(job, None)
        with journal.new_journal(job.journal, **job.header) as (log, _):
            _Packing(job, log, journal.read_journal(job.journal)).run()
        return
    with journal.reopened(job.journal) as (log, told):
        _publish_last(told)
        _check_free_names(job, told)
        if told.is_finished:
            _take_over(job, told)
            return
        _Packing(job, log, told).run()


def _half(path: str, run: str) -> Path:
    """Where a file of a shard grows."""
    return Path(path).with_name(f".beholder-{run}-{Path(path).name}.tmp")


def _publish_last(told: Told) -> None:
    """Give the files of the last shard their names, if the run was killed before it could."""
    for path, *_ in told.shards[-1].files if told.shards else ():
        half = _half(path, told.header["id"])
        if half.exists():
            _publish(half, path)


def _publish(half: Path, path: str) -> None:
    try:
        rename_new(str(half), path)
    except OSError as error:
        raise writing_failed(path, error) from error


class _Packing:
    """Writes shards."""

    def __init__(self, job: Job, log: Journal, told: Told) -> None:
        self.is_continued = job.told is not None
        self.job, self.log, self.told = replace(job, told=told), log, told
        self.run_id = str(told.header["id"])
        self.given = _keys(self.job)
        self.known = job.known.replace_schema_metadata(None)
        self.shard = _Shard(len(told.shards))
        self.writer: ShardWriter | None = None
        self.next = told.num_planned

    def run(self) -> None:
        """All that is left."""
        job = self.job
        if self.is_continued:
            _take_over(job, self.told)
        try:
            self._make_folder()
            waiting: list[_Item] = []
            for item in _looked_at(job, self.next, _BATCH_READ):
                waiting.append(item)
                if len(waiting) == _BATCH_READ:
                    self._read_and_add(waiting)
                    waiting = []
            self._read_and_add(waiting)
            if self.shard.pictures:
                self._finish()
            self._note_left_out(journal.end())
        except OSError as error:
            raise writing_failed(job.target, error) from error
        finally:
            self._drop()

    def _make_folder(self) -> None:
        missing, at = [], self.job.target
        while not os.path.lexists(at):
            missing.append(at)
            at = os.path.dirname(at)  # noqa: PTH120
        self.log.write(*({"folder": folder} for folder in reversed(missing)), {"planned": self.next})
        os.makedirs(self.job.target, exist_ok=True)  # noqa: PTH103

    def _read_and_add(self, items: list[_Item]) -> None:
        contents = iter(self.job.finder.contents([item.place for item in items if item.refused is None]))
        for item in items:
            try:
                if item.refused is not None:
                    raise item.refused
                self._read(item, next(contents))
            except Refused as error:
                self._leave_out(item.place.sample, error)
            self.next = item.number + 1
        if self.writer is None and len(self.shard.left_out) >= _MANY:
            self._note_left_out({"planned": self.next})
            self.told.num_planned = self.next

    def _read(self, item: _Item, refs: list[tuple[str, PictureRef]]) -> None:
        """Put a picture into the shard, or into a new one where that is full. Raises Refused."""
        place = item.place
        if place.kind == "url":  # read before it is named: its name may not tell its format
            refs = [(refs[0][0], PictureRef(data=bytes_of(refs[0][1]))), *refs[1:]]
        names, _ = _named(self.job, self.given, item, data=refs[0][1].data)
        origins: dict[str, list[int]] = {}
        members = self._members(place, names, refs, origins)
        if names.caption:
            members.append((names.caption, item.caption_data, members[0][2]))
        size = sum(len(data) for _, data, _ in members)
        most, most_bytes = self.job.shard_limits
        if self.shard.pictures and (self.shard.pictures >= most or self.shard.num_bytes + size > most_bytes):
            self._finish()
            if names.is_continued:  # its belongings are in the shard before
                self._read(item, refs)
                return
        self._add(item, names, members, size)
        self.shard.captions += _captions_of(self.job, item, names)
        self.shard.origins |= origins

    def _members(
        self, place: Place, names: PackedNames, refs: list[tuple[str, PictureRef]], origins: dict[str, list[int]]
    ) -> list[tuple[str, bytes, int]]:
        """Names, bytes and times of what is written of a picture; the local files they are from go into `origins`.

        Raises Refused when the picture cannot be read.
        """
        found = []
        for i, name in names.names:
            ref = refs[i][1]
            try:
                data = bytes_of(ref)
            except Refused as error:
                if i == 0:
                    raise
                self.job.summary.leave_file(f"left out: {error}")
                continue
            with files.refusals(place.sample):
                found.append((name, data, self._time(place, ref, origins)))
        return found

    def _time(self, place: Place, ref: PictureRef, origins: dict[str, list[int]]) -> int:
        """When the local file that bytes are from was last written, in seconds; noted in `origins` for a later undo."""
        path = place.archive or ref.path
        if path is None or not storage.is_local(path):
            return 0
        path = os.path.abspath(storage.local_path(path))  # noqa: PTH100
        known = self.shard.origins.get(path) or origins.get(path)
        if known is None:
            status = os.stat(path)  # noqa: PTH116
            known = [status.st_size, status.st_mtime_ns]
        origins[path] = known
        return max(known[1] // 10**9, 0)

    def _add(self, item: _Item, names: PackedNames, members: list[tuple[str, bytes, int]], size: int) -> None:
        caption = item.caption
        if caption is None and names.has_own_caption:
            own = (data for name, data, _ in members if name[len(names.key) :].lower() in MEMBER_ENDS)
            caption = next((text_of_member(data) for data in own), None)
        if self.writer is None:
            self.writer = self._open()
        self.writer.add(names.key, members, item.number, caption)
        self.given.give(names)
        self.shard.pictures += 1
        self.shard.num_files += len(members)
        self.shard.num_bytes += size
        self.shard.renamed += names.is_renamed
        self.job.progress(1, size)

    def _leave_out(self, sample: str, refused: Refused) -> None:
        self.shard.left_out.append((sample, refused.reason, refused.text))
        self.job.summary.leave_out(refused.reason, sample, refused.text)

    def _note_left_out(self, marker: dict[str, Any]) -> None:
        """Write down what was left out since the last shard was finished, `marker` behind it."""
        lines = [{"skip": sample, "reason": reason, "text": text} for sample, reason, text in self.shard.left_out]
        self.log.write(*lines, marker)
        self.shard.left_out.clear()

    def _paths(self) -> list[str]:
        return [f"{self.job.target}/{name}" for name in _names_of(self.job.action, self.shard.number)]

    def _open(self) -> ShardWriter:
        halves = [_half(path, self.run_id) for path in self._paths()]
        for path in self._paths():
            if os.path.lexists(path):
                raise OutputError(
                    f"{path} is there already and is not of this act; take it away, then run the same command again"
                )
        self.log.write({"packing": Path(self._paths()[0]).name, "planned": self.told.num_planned})
        for half in halves:
            half.unlink(missing_ok=True)
        captions = self.job.options.caption_column
        if self.job.action == "tars":
            return TarShard(halves, self.known, captions)
        return ParquetShard(halves[0], self.known, captions)

    def _finish(self) -> None:
        """Close the shard, say in the journal what it is, then give its files their names."""
        assert self.writer is not None
        self.writer.close()
        self.writer = None
        made: list[list[Any]] = []
        for path in self._paths():
            half = _half(path, self.run_id)
            with half.open("rb+") as file:
                os.fsync(file.fileno())
            status = half.stat()
            made.append([path, status.st_size, status.st_mtime_ns, files.sha256_of(str(half))])
        shard = self.shard
        self.log.write(
            {
                "shard": Path(made[0][0]).name,
                "planned": self.next,
                "pictures": shard.pictures,
                "num_files": shard.num_files,
                "bytes": shard.num_bytes,
                "renamed": shard.renamed,
                "files": made,
                "origins": shard.origins,
                "left_out": shard.left_out,
            }
            | ({"captions": dict(shard.captions)} if shard.captions else {})
        )
        self.told.num_planned = self.next
        for path, *_ in made:
            _publish(_half(path, self.run_id), path)
        summary = self.job.summary
        summary.num_shards += 1
        summary.num_done += shard.pictures
        summary.num_files += shard.num_files
        summary.num_bytes += shard.num_bytes
        summary.renamed += shard.renamed
        summary.count_captions(shard.captions)
        self.shard = _Shard(shard.number + 1)
        self.given.begin_shard()

    def _drop(self) -> None:
        """Take away the shard that was not finished."""
        if self.writer is not None:
            with contextlib.suppress(OSError, ValueError, pa.ArrowException):
                self.writer.close()
            for path in self._paths():
                with contextlib.suppress(OSError):
                    _half(path, self.run_id).unlink(missing_ok=True)
            self.writer = None
