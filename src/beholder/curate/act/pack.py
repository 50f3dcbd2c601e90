"""Pictures' own bytes packed into tars or Parquet files, shard after shard, each journaled before it gets its name."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beholder import columns
from beholder.curate.act import files, journal
from beholder.curate.act.files import Refused, rename_new
from beholder.curate.act.journal import Journal, JournalState, PackedShard
from beholder.curate.act.layout import CAPTION_ENDS, KeyGiver, PackedNames, with_suffix
from beholder.curate.act.messages import and_more
from beholder.curate.act.plan import Job, Say, bytes_of, check_place, folders_between
from beholder.curate.options import PARQUET_BYTES, SHARDED, TAR_BYTES, TAR_COUNT, ActionOptions
from beholder.errors import InputError, OutputError, writing_failed
from beholder.io import crash, locations, storage
from beholder.io.schemas import is_text
from beholder.locate.archives import FilePlace, Place
from beholder.sources.labels import valid_text
from beholder.sources.reader import PictureRef

_BATCH_LOOK, _BATCH_READ = 128, 32
_EXAMPLES = 3
KEY, IMAGE = "key", "image"
CAPTION, TEXT = "caption", "text"
"""Columns that hold captions: in the table beside a tar, and in Parquet as Hugging Face's trainers have it."""
_GROUP_BYTES, _GROUP_ROWS = 32 << 20, 1000
"""Most bytes and rows of a row group of pictures."""
_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})

Member = tuple[str, bytes, int]
"""Name, bytes, and time in seconds."""
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


def check_caption_column(schema: pa.Schema, options: ActionOptions) -> None:
    """Raise InputError where the column of captions is not there, or is not text. `schema`: of the rows that are kept."""
    name = options.caption_column
    if name is None or options.action is None or options.action[0] not in SHARDED:
        return
    if name not in schema.names or name in columns.OF_A_SELECTION:
        hidden = (*columns.OF_A_SELECTION, columns.SAMPLE)
        there = [repr(field.name) for field in schema if is_text(field.type) and field.name not in hidden]
        known = f"columns of text: {', '.join(there)}" if there else "there is no column of text but the sample"
        raise InputError(f"--caption-column {name!r}: the scores have no such column; {known} (--join brings more)")
    kind = schema.field(name).type
    if not is_text(kind):
        raise InputError(f"--caption-column {name!r} holds {kind}, not text; name a column of text")


def shard_limits(action: str, options: ActionOptions) -> tuple[int, int]:
    """Most pictures and most bytes of a tar or Parquet file."""
    if action == "tars":
        return options.shard_count or TAR_COUNT, options.shard_bytes or TAR_BYTES
    return options.shard_count or 1 << 62, options.shard_bytes or PARQUET_BYTES


def _check_free_names(target: str, shards: Sequence[PackedShard]) -> None:
    """Raise OutputError where the folder holds other shards than these."""
    ours = {Path(made[0]).name for shard in shards for made in shard.files}
    for name in sorted(os.listdir(target)) if os.path.isdir(target) else ():  # noqa: PTH112, PTH208
        if name.endswith((".tar", ".parquet")) and name not in ours:
            raise OutputError(f"{target} holds {name} already; name an empty folder, so that the two are not mixed")


class _Packer:
    """Goes through the pictures and says under which names, and in which shard, each is packed.

    `state` is kept as a reader of the journal would have it, and the counts are made of it.
    """

    def __init__(self, job: Job, state: JournalState) -> None:
        self.job, self.state = job, state
        self.is_tar = job.action == "tars"
        self.most, self.most_bytes = shard_limits(job.action, job.options)
        taken: set[str] = set()
        for shard in state.shards if self.is_tar else ():
            for path, *_ in shard.files[1:]:
                with contextlib.suppress(OSError, pa.ArrowException):  # taken away meanwhile: its keys are free
                    taken.update(pq.read_table(path, columns=[KEY]).column(0).to_pylist())
        self.keys = KeyGiver(job.layout, taken, has_captions=job.options.caption_column is not None)
        self.shard = PackedShard(self.file_names()[0])
        if job.earlier is not None:
            job.summary.count_before(state)
            job.summary.leave_out_all(state)
            if state.is_finished and state.left_out.reasons:
                job.summary.notes.append("what was left out then is not tried again")

    def items(self, at_once: int) -> Iterator[list[_Item]]:
        """Every picture that was not looked at yet, some at a time."""
        job, column = self.job, self.job.options.caption_column
        for at in range(self.state.num_planned, job.kept.num_rows, at_once):
            rows = job.kept.slice(at, at_once)
            captions = _captions_of(rows, column) if column is not None else [None] * rows.num_rows
            found = []
            located = job.located(rows, with_belongings=self.is_tar and job.options.sidecars)
            for number, ((place, size), caption) in enumerate(zip(located, captions, strict=True), at):
                refused = None
                try:
                    check_place(place, size)
                except Refused as error:
                    refused = error
                found.append(_Item(number, place, refused, caption))
            yield found

    def names(self, item: _Item, data: bytes | None = None) -> PackedNames:
        """The names of the next picture in the shard. `data`: its bytes, if read. Raises Refused."""
        if item.refused is not None:
            raise item.refused
        if self.is_tar:
            return self.keys.names(item.place, data, has_caption=item.caption is not None)
        picture = item.place.files[0]
        path = with_suffix(valid_text(self.job.layout.path(item.place, picture)), picture, data)
        return PackedNames(path, ((0, path),), False)

    def has_room(self, size: int) -> bool:
        """Whether a picture of so many bytes, with what belongs to it, goes into the shard at hand."""
        shard = self.shard
        return not shard.pictures or (shard.pictures < self.most and shard.num_bytes + size <= self.most_bytes)

    def count(self, item: _Item, names: PackedNames, num_files: int, size: int) -> None:
        """The picture is in the shard at hand."""
        self.keys.give(names)
        shard = self.shard
        shard.pictures += 1
        shard.num_files += num_files
        shard.num_bytes += size
        shard.renamed += names.is_renamed
        if self.job.options.caption_column is not None:
            if item.caption is None:
                shard.captions["kept" if names.has_own_caption else "without"] += 1
            else:
                shard.captions["written"] += 1
                shard.captions += Counter(replaced=int(names.is_replaced))
        self.job.progress(1, size)

    def file_names(self) -> list[str]:
        """Of the files of the shard at hand."""
        number = len(self.state.shards)
        return [f"{number:05d}.tar", f"{number:05d}.parquet"] if self.is_tar else [f"train-{number:05d}.parquet"]

    def next_shard(self) -> None:
        """The one at hand is finished."""
        self.state.shards.append(self.shard)
        self.shard = PackedShard(self.file_names()[0])
        self.keys.begin_shard()


def rehearse(job: Job, say: Say) -> None:
    """Plan everything, read no picture, touch nothing."""
    packer = _Packer(job, job.state)
    _check_free_names(job.target, packer.state.shards)
    summary, num_shown, num_new = job.summary, 0, 0
    for item in (item for items in packer.items(_BATCH_LOOK) for item in items):
        place = item.place
        try:
            names = packer.names(item)
            size = _size_of(item, names)
            if not packer.has_room(size):
                packer.next_shard()
                names = packer.names(item)
                size = _size_of(item, names)
        except Refused as error:
            summary.leave_out(error.reason, place.sample, error.text)
            continue
        shown = [*(name for _, name in names.names), *([names.caption] if names.caption else ())]
        packer.count(item, names, len(shown), size)
        summary.num_unsized += place.kind == "url" and place.files[0].size is None
        num_new += 1
        if num_shown < _EXAMPLES:
            num_shown += 1
            say(f"  {place.sample} -> {packer.file_names()[0]}: {', '.join(shown)}")
    if packer.shard.pictures:
        packer.next_shard()
    summary.count_done(packer.state)
    if num_new > num_shown:
        say(f"  {and_more(num_new - num_shown)}")
    job.note_room(summary.num_bytes - summary.num_bytes_before)


def _size_of(item: _Item, names: PackedNames) -> int:
    """About how many bytes a picture takes, with what belongs to it."""
    return (len(item.caption_data) if names.caption else 0) + sum(_size(item.place.files[i]) for i, _ in names.names)


def _size(file: FilePlace) -> int:
    """Bytes of a file, 0 where that cannot be told."""
    if file.size is not None:
        return file.size
    if file.ref is not None and file.ref.data is not None:
        return len(file.ref.data)
    if file.ref is None or file.ref.path is None or not locations.is_local(file.ref.path):
        return 0
    try:
        return locations.local_path(file.ref.path).stat().st_size
    except OSError:
        return 0


def _captions_of(rows: pa.Table, column: str) -> list[str | None]:
    """The caption of each row; None where there is none, or only white space."""
    texts = rows.column(column).cast(pa.large_string()).to_pylist()
    return [text if text is not None and text.strip() else None for text in texts]


def apply(job: Job) -> None:
    """Pack, or go on packing. Raises OutputError when the disk is full; the same again continues."""
    if job.earlier is None:
        _check_free_names(job.target, [])
    with job.open_journal() as (log, state):
        for path, *_ in state.shards[-1].files if state.shards else ():  # if the run was killed before they had their names
            half = _half(path, state.run)
            if half.exists():
                _publish(half, path)
        _check_free_names(job.target, state.shards)
        packing = _Packing(job, state, log)
        if not state.is_finished:
            packing.run()


def _half(path: str, run: str) -> Path:
    """Where a file of a shard grows."""
    return Path(path).with_name(files.half_name(run, Path(path).name))


def _publish(half: Path, path: str) -> None:
    try:
        rename_new(str(half), path)
    except OSError as error:
        raise writing_failed(path, error) from error
    crash.reach("pack file published")


class _Packing(_Packer):
    """Writes shards."""

    def __init__(self, job: Job, state: JournalState, log: Journal) -> None:
        super().__init__(job, state)
        self.log = log
        self.known = job.known.replace_schema_metadata(None)
        self.writer: TarShard | ParquetShard | None = None
        self.next = state.num_planned
        self.origins: dict[str, list[int]] = {}
        """Local files that the shard at hand is made of -> size, time (ns)."""
        self.left_out: list[tuple[str, str, str]] = []
        """What was left out since the last shard."""

    def run(self) -> None:
        """All that is left."""
        target = self.job.target
        try:
            made = folders_between(files.existing_part(target), target)
            self.log.write(*({"folder": folder} for folder in made), {"planned": self.next})
            os.makedirs(target, exist_ok=True)  # noqa: PTH103
            for items in self.items(_BATCH_READ):
                self._read_and_add(items)
            if self.shard.pictures:
                self._finish()
            self._note_left_out(journal.end_line())
            self.job.summary.count_done(self.state)
        except OSError as error:
            raise writing_failed(target, error) from error
        finally:
            self._drop()

    def _read_and_add(self, items: list[_Item]) -> None:
        contents = iter(self.job.finder.contents([item.place for item in items if item.refused is None]))
        for item in items:
            try:
                self._read(item, next(contents) if item.refused is None else [])
            except Refused as error:
                self.left_out.append((item.place.sample, error.reason, error.text))
                self.job.summary.leave_out(error.reason, item.place.sample, error.text)
            self.next = item.number + 1
        if self.writer is None and len(self.left_out) >= _MANY:
            self._note_left_out({"planned": self.next})
            self.state.num_planned = self.next

    def _read(self, item: _Item, refs: list[tuple[str, PictureRef]]) -> None:
        """Put a picture into the shard, or into a new one where that is full. Raises Refused."""
        place = item.place
        if place.kind == "url" and refs:  # read before it is named: its name may not tell its format
            refs = [(refs[0][0], PictureRef(data=bytes_of(refs[0][1]))), *refs[1:]]
        names = self.names(item, refs[0][1].data if refs else None)
        origins: dict[str, list[int]] = {}
        members = self._members(place, names, refs, origins)
        if names.caption:
            members.append((names.caption, item.caption_data, members[0][2]))
        size = sum(len(data) for _, data, _ in members)
        if not self.has_room(size):
            self._finish()
            if names.is_continued:  # its belongings are in the shard before
                self._read(item, refs)
                return
        caption = item.caption
        if caption is None and names.has_own_caption:
            own = (data for name, data, _ in members if name[len(names.key) :].lower() in CAPTION_ENDS)
            caption = next((_text_of_member(data) for data in own), None)
        if self.writer is None:
            self.writer = self._open()
        self.writer.add(names.key, members, item.number, caption)
        self.count(item, names, len(members), size)
        self.origins |= origins

    def _members(
        self, place: Place, names: PackedNames, refs: list[tuple[str, PictureRef]], origins: dict[str, list[int]]
    ) -> list[Member]:
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
        if path is None or not locations.is_local(path):
            return 0
        path = os.path.abspath(locations.local_path(path))  # noqa: PTH100
        known = self.origins.get(path) or origins.get(path)
        if known is None:
            status = os.stat(path)  # noqa: PTH116
            known = [status.st_size, status.st_mtime_ns]
        origins[path] = known
        return max(known[1] // 10**9, 0)

    def _note_left_out(self, marker: dict[str, Any]) -> None:
        """Write down what was left out since the last shard was finished, `marker` behind it."""
        lines = [{"skip": sample, "reason": reason, "text": text} for sample, reason, text in self.left_out]
        self.log.write(*lines, marker)
        self.left_out.clear()

    def _paths(self) -> list[tuple[str, Path]]:
        """The files of the shard at hand, and where they grow."""
        paths = [f"{self.job.target}/{name}" for name in self.file_names()]
        return [(path, _half(path, self.state.run)) for path in paths]

    def _open(self) -> TarShard | ParquetShard:
        for path, _ in self._paths():
            if os.path.lexists(path):
                raise OutputError(
                    f"{path} is there already and was not made by this act; remove it, then run the same command again"
                )
        self.log.write({"packing": self.file_names()[0], "planned": self.state.num_planned})
        (_, half), *others = self._paths()
        for _, made in self._paths():
            made.unlink(missing_ok=True)
        column = self.job.options.caption_column
        return TarShard(half, others[0][1], self.known, column) if self.is_tar else ParquetShard(half, self.known, column)

    def _finish(self) -> None:
        """Close the shard, say in the journal what it is, then give its files their names."""
        assert self.writer is not None
        self.writer.close()
        self.writer = None
        made = []
        for path, half in self._paths():
            with half.open("rb+") as file:
                os.fsync(file.fileno())
            status = half.stat()
            made.append((path, status.st_size, status.st_mtime_ns, storage.sha256_of(half)))
        crash.reach("pack shard written")
        self.shard.files = tuple(made)
        more = {"planned": self.next, "origins": self.origins, "left_out": self.left_out}
        self.log.write(self.shard.to_json() | more)
        self.state.num_planned = self.next
        for path, half in self._paths():
            _publish(half, path)
        self.next_shard()
        self.origins, self.left_out = {}, []

    def _drop(self) -> None:
        """Take away the shard that was not finished."""
        if self.writer is not None:
            with contextlib.suppress(OSError, ValueError, pa.ArrowException):
                self.writer.close()
            for _, half in self._paths():
                with contextlib.suppress(OSError):
                    half.unlink(missing_ok=True)


def _text_of_member(data: bytes) -> str | None:
    """The text of a member that is a caption, as scoring reads it; None for an empty one."""
    return data.decode("utf-8", "replace").strip("\ufeff\r\n") or None


class TarShard:
    """A tar of pictures, and a Parquet file of the same rows: `key`, `sample`, and all that is known of them.

    Args:
        tar, table: where they are written.
        known: what is known of all pictures, `sample` first.
        captions: the column that captions are of. Then the column `caption` of the table has those that are in the tar; another
            one of that name becomes `source_caption`.
    """

    def __init__(self, tar: Path, table: Path, known: pa.Table, captions: str | None = None) -> None:
        self._tar = tarfile.open(tar, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._table, self._known = table, known
        self._rows: list[int] = []
        self._keys: list[str] = []
        self._names = {name: name for name in known.column_names if name not in (KEY, CAPTION if captions == CAPTION else KEY)}
        self._has_captions = captions is not None
        if self._has_captions:
            self._names = columns.source_names(self._names, [CAPTION])
        self._captions: list[str | None] = []

    def add(self, key: str, members: list[Member], row: int, caption: str | None = None) -> None:
        """One picture, its bytes first, and what belongs to it; `row`: of the table of what is known."""
        for name, data, time in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), time, 0o644
            self._tar.addfile(info, io.BytesIO(data))
        self._keys.append(key)
        self._rows.append(row)
        self._captions.append(caption)

    def close(self) -> None:
        """Finish the files."""
        self._tar.close()
        table = self._known.take(pa.array(self._rows, pa.int64()))
        made = {KEY: pa.array(self._keys, pa.string())} | {new: table.column(name) for name, new in self._names.items()}
        if self._has_captions:
            made[CAPTION] = pa.array(self._captions, pa.string())
        pq.write_table(pa.table(made), self._table, compression="zstd", write_page_checksum=True)


class ParquetShard:
    """A Parquet file as Hugging Face's datasets has it: `image` (struct of bytes and path), then all that is known.

    Where captions are of a column, those that are not empty stand in `text`; another column of that name becomes `source_text`.
    Row groups have at most 1,000 rows and about 32 MiB of pictures, so that one picture can be had without the others.
    """

    def __init__(self, path: Path, known: pa.Table, captions: str | None = None) -> None:
        if captions == TEXT:
            known = known.drop_columns([TEXT])
        self._has_captions = captions is not None
        self._known, self._schema = known, parquet_schema(known.schema, has_captions=self._has_captions)
        self._captions: list[str | None] = []
        light = [name for name in self._schema.names if name != IMAGE]
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="snappy", use_dictionary=light, write_page_checksum=True
        )
        self._images: list[dict[str, Any]] = []
        self._rows: list[int] = []
        self._num_bytes = 0

    def add(self, key: str, members: list[Member], row: int, caption: str | None = None) -> None:
        """One picture, the first of the members, which alone is kept; `key`: its path, `row`: of the table of what is known."""
        data = members[0][1]
        if self._rows and (self._num_bytes + len(data) > _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS):
            self._flush()
        self._images.append({"bytes": data, "path": key})
        self._rows.append(row)
        self._captions.append(caption)
        self._num_bytes += len(data)

    def _flush(self) -> None:
        if self._rows:
            table = self._known.take(pa.array(self._rows, pa.int64()))
            first: list[pa.Array] = [pa.array(self._images, _IMAGE)]
            if self._has_captions:
                first.append(pa.array(self._captions, pa.string()))
            kinds = self._schema.types[len(first) :]
            others = [column.cast(kind) for column, kind in zip(table.columns, kinds, strict=True)]
            self._writer.write_table(pa.table([*first, *others], schema=self._schema))
        self._images, self._rows, self._captions, self._num_bytes = [], [], [], 0

    def close(self) -> None:
        """Finish the files."""
        self._flush()
        self._writer.close()


def parquet_schema(schema: pa.Schema, *, has_captions: bool = False) -> pa.Schema:
    """`image`, captions as `text`, and the other columns, in types of Hugging Face's datasets, its features in the metadata.

    A column for which it has no words is left out of the features: it takes that from its Arrow type, and `image` stays one.
    """
    names = columns.source_names(schema.names, [IMAGE, TEXT] if has_captions else [IMAGE])
    fields = [pa.field(TEXT, pa.string())] if has_captions else []
    fields += [pa.field(names[field.name], _plain(field.type)) for field in schema]
    features: dict[str, Any] = {IMAGE: {"_type": "Image"}}
    for field in fields:
        if (feature := _feature(field.type)) is not None:
            features[field.name] = feature
    made = pa.schema([pa.field(IMAGE, _IMAGE), *fields])
    return made.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type itself, or what holds the same values where datasets cannot read it.

    Maps become lists of `key` and `value`, extension types (uuid, json) what they are stored as.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([("key", _plain(kind.key_type)), ("value", _plain(kind.item_type))]))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return kind
    inside = kind.value_field.with_type(_plain(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(inside)
    return pa.list_(inside, kind.list_size if pa.types.is_fixed_size_list(kind) else -1)


_WORDS = {"halffloat": "float16", "float": "float32", "double": "float64", "date32[day]": "date32", "date64[ms]": "date64"}
"""Types that datasets calls by other names than Arrow does."""


def _feature(kind: pa.DataType) -> Any:
    """A type in the words of Hugging Face's datasets; None where there are none that all its versions know."""
    if pa.types.is_dictionary(kind):
        return _feature(kind.value_type)
    if pa.types.is_struct(kind) and kind.num_fields:
        found = {field.name: _feature(field.type) for field in kind}
        return None if any(feature is None for feature in found.values()) else found
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inside = _feature(kind.value_type)
        if inside is None:
            return None
        if pa.types.is_struct(kind.value_type):  # its Sequence of a struct is a struct of lists
            return [inside] if pa.types.is_list(kind) else None
        length = {"length": kind.list_size} if pa.types.is_fixed_size_list(kind) else {}
        return {"feature": inside, **length, "_type": "LargeList" if pa.types.is_large_list(kind) else "Sequence"}
    if pa.types.is_nested(kind):
        return None
    return {"dtype": _WORDS.get(str(kind), str(kind)), "_type": "Value"}
