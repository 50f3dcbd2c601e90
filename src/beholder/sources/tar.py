"""Reader of tars of pictures (webdataset, img2dataset, any), with what the members and the table beside them say."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import SAMPLE, PictureReason
from beholder.errors import InputError
from beholder.io import locations, remote, storage
from beholder.io.schemas import schema_of
from beholder.io.tables import check_names
from beholder.sources.file_kinds import HEAD_BYTES, OTHER_SUFFIXES, PICTURE_SUFFIXES, TAR_SUFFIX, is_picture, is_tar_header
from beholder.sources.labels import UniqueNames, as_text, block_labels, column_of, passable, passed_columns, valid_text
from beholder.sources.reader import LateLabels, PictureBlock, PicturePart, PictureRef, SourceOptions, in_blocks
from beholder.sources.tar_file import BLOCK_BYTES, DAMAGE, MOST_MEMBER_BYTES, Member, TarBroken, TarFile, is_swollen, split_key

RANGED_BYTES = 1 << 30
"""Local tars without compression that are larger are gone through when they are inspected, so that they can be cut."""
KEY, CAPTION, CLS = "key", "caption", "cls"
SIDECARS = {"json": "json", "txt": CAPTION, "caption": CAPTION, "cls": CLS}
MOST_SIDECAR_BYTES = 1 << 20
_MOST_FIELDS = 1000
"""Of a JSON sidecar; each becomes a column."""
MARK_ROWS = 256
"""A walk can begin at about every so many-th picture."""
_MOST_OF_A_KEY = 64
"""Pictures of one key that are kept together; of more, the later ones do not get what is said of the first."""
MOST_WAITING_BYTES = 64 << 20
"""Bytes of sidecars that are kept of a tar because their pictures stand elsewhere in it, before or behind them."""
_PEEKED_SAMPLES = 32
_PEEKED_BYTES, _PEEKED_REMOTE_BYTES, _PEEKED_END_BYTES = 64 << 20, 2 << 20, 256 << 10
"""Columns are decided by the first so many pictures, as far as they lie in the first bytes, and by the last bytes of a tar."""
Sidecars = list[tuple[Member, str]]
"""Sidecars that were not read, and their kinds."""


def sidecar_fields(kind: str, data: bytes) -> dict[str, Any] | None:
    """What a sidecar of a kind (a value of `SIDECARS`) says of its pictures: numbers, truth values, null and text.

    Lists and objects inside JSON are its text again, as they are written later; unpacked they take some 25 times as much.
    None when it is no JSON object, or one of more than 1,000 fields.
    """
    if kind == "json":
        try:
            said = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(said, dict) or len(said) > _MOST_FIELDS:
            return None
        flat = {name: as_text(value) if isinstance(value, list | dict) else value for name, value in said.items()}
        return {valid_text(name): value for name, value in flat.items() if name not in (SAMPLE, KEY)}
    text = data.decode("utf-8", "replace").strip("\ufeff\r\n")
    return {kind: int(text) if kind == CLS and text.strip().isdecimal() and len(text) < 18 else text}


@dataclass(slots=True)
class Row:
    """One picture: its name, its key, where it is, what its sidecars say.

    `num_said_bytes` are those of the sidecars as stored; 0 for the later pictures of a key.
    """

    sample: str
    key: str | None
    ref: PictureRef
    fields: dict[str, Any] = field(default_factory=dict)
    num_said_bytes: int = 0


@dataclass
class Group:
    """Consecutive members of one key.

    Attributes:
        rows: pictures that were not given out.
        fields, sidecars: what JSON says, and what other members say.
        num_pictures: met so far.
        unread: sidecars met before the first picture that is wanted; read if there is one in this group.
        elsewhere: what members of this key say that stand in another place of the tar; None: not looked for.
        num_sidecars, num_bytes: of those that were read.
    """

    key: str
    rows: list[Row] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    sidecars: dict[str, Any] = field(default_factory=dict)
    num_pictures: int = 0
    unread: Sidecars = field(default_factory=list)
    elsewhere: dict[str, Any] | None = None
    num_sidecars: int = 0
    num_bytes: int = 0

    def take_rows(self) -> list[Row]:
        """The rows so far, with what is said of them: JSON fields first, then `caption` and `cls` where JSON has none."""
        fields = (self.elsewhere or {}) | self.sidecars | self.fields
        for row in self.rows:
            row.fields = fields
        if self.rows:
            self.rows[0].num_said_bytes, self.num_bytes = self.num_bytes, 0
        rows, self.rows = self.rows, []
        return rows


class _Strays:
    """Sidecars that do not stand beside a picture of their key; they belong to all pictures of it. What comes first counts.

    Attributes:
        late: row -> what was said of it after it was given out.
        num_left: sidecars that were passed over, as so many bytes were kept already.
        rows: key -> its pictures.
        said: key -> what was read of it, and how many sidecars that were.
        unread: key -> sidecars that were only noted.
    """

    def __init__(self, most_bytes: int) -> None:
        self.late: dict[int, dict[str, Any]] = {}
        self.num_left = 0
        self.rows: dict[str, list[int]] = {}
        self.said: dict[str, tuple[dict[str, Any], int]] = {}
        self.unread: dict[str, list[Sidecars]] = {}
        self._room = most_bytes

    def add(self, key: str, fields: dict[str, Any], num_sidecars: int, num_bytes: int) -> None:
        """Keep what sidecars say that have no picture beside them."""
        self._room -= num_bytes
        if self._room < 0:
            self.num_left += num_sidecars
            return
        for row in self.rows.get(key, ()):
            self.late[row] = fields | self.late.get(row, {})
        known, count = self.said.get(key, ({}, 0))
        self.said[key] = fields | known, count + num_sidecars

    def all_said(self) -> list[dict[str, Any]]:
        """What was read too late, or of keys without a picture so far."""
        return [*self.late.values(), *(fields for key, (fields, _) in self.said.items() if key not in self.rows)]

    @property
    def num_ownerless(self) -> int:
        """Sidecars, read or noted, of keys without a picture."""
        unread = sum(len(unit) for key, units in self.unread.items() if key not in self.rows for unit in units)
        return unread + sum(count for key, (_, count) in self.said.items() if key not in self.rows)


@dataclass(frozen=True)
class _ShardTable:
    """The Parquet file beside a tar, ready to be joined by key.

    Attributes:
        table: its columns that are passed through; `key` is not among them.
        rows: key -> row.
        names: all columns it has that could be passed.
    """

    table: pa.Table
    rows: dict[str, int]
    names: list[str]

    @classmethod
    def read(cls, path: str, options: SourceOptions) -> _ShardTable:
        """Read it whole: a shard has thousands of rows. Raises InputError when it is damaged."""
        with remote.read_errors(path), storage.open_parquet(path) as file:
            names = passable(file.schema_arrow, KEY).names
            wanted = passed_columns(names, None, options)
            table = file.read(columns=[KEY, *wanted])
        keys = table.column(KEY).cast(pa.large_string()).to_pylist()
        rows = {key: row for row, key in reversed(list(enumerate(keys))) if key is not None}
        return cls(table.select(wanted), rows, names)

    def join(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Its columns for these pictures, null (or what their JSON says) where it does not list them."""
        places = [self.rows.get(row.key) if row.key is not None else None for row in rows]
        taken = self.table.take(pa.array(places, pa.int64()))
        columns = dict(zip(taken.column_names, taken.columns, strict=True))
        if None in places:
            absent = pa.array([place is None for place in places])
            for name, column in columns.items():
                said = column_of([row.fields.get(name) for row in rows], column.type)
                columns[name] = pc.if_else(absent, said, column)
        return columns


@lru_cache(maxsize=1)
def _read_again(path: str, written_ns: int, options: SourceOptions) -> _ShardTable:
    """The table beside a tar that is cut into ranges, every one of which asks for it."""
    return _ShardTable.read(path, options)


@dataclass(frozen=True)
class TarIndex:
    """What reading a whole tar has shown, so that reading can begin in its middle and give the same.

    Attributes:
        num_rows: pictures, and the error at the end of a broken tar.
        rows, offsets: (M,) int64, ascending: row of the first picture of some groups, and where their first header begins.
        renames: row -> sample, of those whose name another one before has taken.
        skips_known_json: whether the first JSON member says nothing that the table beside lacks; None: there is no such member.
        strays: row of a picture -> sidecars of its key that stand elsewhere in the tar.
        num_ownerless: sidecars of whose key there is no picture.
    """

    num_rows: int
    rows: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    renames: dict[int, str]
    skips_known_json: bool | None
    strays: dict[int, list[Sidecars]]
    num_ownerless: int

    @classmethod
    def of(cls, tar: TarFile, path: str, columns: Sequence[str] | None, mark_rows: int) -> TarIndex:
        """Go through the headers of a tar. `path`: see `Walk`; `columns`: those of the table beside, if there is one."""
        table = _ShardTable(pa.table({}), {}, list(columns)) if columns is not None else None
        walk = Walk(tar, path, sys.maxsize, None, SourceOptions(), table, with_data=False, mark_rows=mark_rows)
        num_rows = sum(1 for _ in walk.rows())
        rows, offsets = np.array(walk.marks, np.int64).T.copy()
        found = walk.strays
        strays = {row: units for key, units in found.unread.items() for row in found.rows.get(key, ())}
        return cls(num_rows, rows, offsets, walk.renames, walk.skips_known_json, strays, found.num_ownerless)

    def place(self, row: int) -> tuple[int, int]:
        """(row, header) of the last known group that begins at or before `row`."""
        at = int(np.searchsorted(self.rows, row, side="right")) - 1
        return int(self.rows[at]), int(self.offsets[at])


class Walk:
    """Goes through a tar once and groups its members by key.

    Args:
        tar: an open tar.
        path: what stands before the keys in sample names.
        start, stop: rows whose bytes and sidecars are read; others are only counted.
        options: decides which sidecars are needed.
        table: the shard's Parquet file.
        with_data: read pictures' bytes where places cannot be given.
        index: what an earlier walk has told; the groups long before `start` are left out then.
        mark_rows, most_waiting_bytes: see `MARK_ROWS`, `MOST_WAITING_BYTES`.
    """

    def __init__(
        self, tar: TarFile, path: str, start: int, stop: int | None, options: SourceOptions, table: _ShardTable | None,
        *, with_data: bool = True, index: TarIndex | None = None, mark_rows: int = MARK_ROWS,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:  # fmt: skip
        self.tar, self.path, self.start, self.stop, self.table, self.with_data = tar, path, start, stop, table, with_data
        self.options, self.index, self.mark_rows = options, index, mark_rows
        self.names = UniqueNames() if index is None else None
        self.renames: dict[int, str] = {} if index is None else index.renames
        self.gives_places = tar.is_plain and locations.is_local(tar.path)
        self.count, self.first_byte = (0, 0) if index is None else index.place(start)
        self.marks = [(self.count, self.first_byte)]
        given = {KEY, *(table.names if table is not None else ())}
        self.wants_fields = any(name == "*" or name not in given for name in options.columns)
        self.skips_known_json: bool | None = None if index is None else index.skips_known_json
        self.strays = _Strays(most_waiting_bytes)
        self.num_unusable = 0
        self.last_byte = 0

    def rows(self) -> Iterator[Row]:
        """All pictures up to `stop`, then an error where the tar is broken."""
        group: Group | None = None
        try:
            for member in self.tar.members(self.first_byte):
                self.last_byte = member.offset + member.num_stored
                split = split_key(member.name)
                if split is None:
                    continue
                if group is None or group.key != split[0]:
                    if group is not None:
                        yield from self._ended(group)
                    if self.stop is not None and self.count >= self.stop:
                        return
                    group = Group(split[0])
                    if self.count - self.marks[-1][0] >= self.mark_rows and not self.tar.has_globals:
                        self.marks.append((self.count, member.header))
                if len(group.rows) >= _MOST_OF_A_KEY:
                    yield from group.take_rows()
                self.add(group, member, split[1])
        except TarBroken as broken:
            if group is not None:
                yield from self._ended(group)
            yield self._broken(broken, group)
            return
        if group is not None:
            yield from self._ended(group)

    def remarks(self, *, is_end: bool) -> dict[str, int]:
        """What could not be said of any picture, after all rows: lines and counts. `is_end`: of the tar, not of a range."""
        ownerless = self.strays.num_ownerless if self.index is None else self.index.num_ownerless
        counts = {
            "sidecars in tars (.json, .txt, .cls) belong to no picture": ownerless if is_end and self.wants_fields else 0,
            "sidecars in tars stand too far from their pictures, so what they say is left out": self.strays.num_left,
            "sidecars in tars are no JSON objects, larger than 1 MiB, or of over 1,000 fields, so what they say is left out": (
                self.num_unusable
            ),
        }
        return {text: count for text, count in counts.items() if count}

    def _ended(self, group: Group) -> list[Row]:
        """The last rows of a group. What stands without a picture is kept for pictures of its key elsewhere in the tar."""
        if self.index is None and not group.num_pictures:
            if group.unread:
                self.strays.unread.setdefault(group.key, []).append(group.unread)
            elif group.num_sidecars:
                self.strays.add(group.key, self._told(group), group.num_sidecars, group.num_bytes)
        return group.take_rows()

    def _told(self, group: Group) -> dict[str, Any]:
        """What a group without pictures says of others of its key that the table beside does not say."""
        fields = group.sidecars | group.fields
        if self.table is None or group.key not in self.table.rows:
            return fields
        return {name: value for name, value in fields.items() if name not in self.table.names}

    def add(self, group: Group, member: Member, extension: str) -> None:
        """Take one member, which is of the key of `group`."""
        last = extension.rsplit(".", 1)[-1]
        is_wanted = self.count >= self.start
        if last in SIDECARS:
            if self.wants_fields and member.link is None:
                group.unread.append((member, SIDECARS[last]))
                if is_wanted:
                    self._read_sidecars(group)
                elif last == "json" and self.table is not None and self.skips_known_json is None:
                    self._read_sidecars(Group(group.key, unread=[(member, "json")]))  # it decides for the whole tar
            return
        if last in OTHER_SUFFIXES:
            return
        if last not in PICTURE_SUFFIXES and (member.link is not None or not is_picture(self.tar.read(member, HEAD_BYTES))):
            return
        if is_wanted:
            self._read_sidecars(group)
            if self.wants_fields and group.elsewhere is None:
                self._look_elsewhere(group)
        if self.wants_fields and self.index is None:
            self.strays.rows.setdefault(group.key, []).append(self.count)
        ref = self._ref(member) if is_wanted and self.with_data else PictureRef()
        group.rows.append(Row(self._sample(group, group.key, extension), group.key, ref))
        group.num_pictures += 1
        self.count += 1

    def _sample(self, group: Group | None, key: str, extension: str) -> str:
        is_first = group is None or group.key != key or group.num_pictures == 0
        return self._unique(f"{self.path}/{key}" if is_first else f"{self.path}/{key}.{extension}")

    def _unique(self, name: str) -> str:
        """The name of the picture of row `count`."""
        if self.names is None:
            return self.renames.get(self.count, name)
        given = self.names.take(name)
        if given != name:
            self.renames[self.count] = given
        return given

    def _look_elsewhere(self, group: Group) -> None:
        """What is said in other places of the tar of the picture of row `count`, the first of its group that is wanted."""
        units = self.index.strays.get(self.count, ()) if self.index is not None else self.strays.unread.get(group.key, ())
        group.elsewhere = self.strays.said.get(group.key, ({}, 0))[0]
        for unit in units:
            apart = Group(group.key, unread=list(unit))
            self._read_sidecars(apart)
            group.elsewhere = self._told(apart) | group.elsewhere

    def _read_sidecars(self, group: Group) -> None:
        """What its small members say; one that is not as it should be says nothing, its picture is as good as before."""
        for member, kind in group.unread:
            if kind == "json" and self.skips_known_json and self.table is not None and group.key in self.table.rows:
                continue
            said = sidecar_fields(kind, self.tar.read(member)) if member.size <= MOST_SIDECAR_BYTES else None
            if said is None:
                self.num_unusable += 1
                continue
            group.num_sidecars += 1
            group.num_bytes += member.num_stored
            if kind != "json":
                group.sidecars |= said
                continue
            group.fields |= said
            if self.skips_known_json is None:
                self.skips_known_json = self.table is not None and set(group.fields) <= set(self.table.names)
        group.unread = []

    def _broken(self, broken: TarBroken, group: Group | None) -> Row:
        """The row that stands for the rest of a broken tar."""
        split = split_key(broken.name) if broken.name else None
        error = PictureRef(error=(broken.reason, broken.message))
        if split is not None and split[1].rsplit(".", 1)[-1] in PICTURE_SUFFIXES:
            return Row(self._sample(group, split[0], split[1]), split[0], error)
        return Row(self._unique(f"{self.path}#broken"), None, error)

    def _ref(self, member: Member) -> PictureRef:
        has_place = self.gives_places and member.holes is None
        return ref_of(self.tar.path, member, has_place=has_place) or PictureRef(data=self.tar.read(member))


def ref_of(path: str, member: Member, *, has_place: bool) -> PictureRef | None:
    """Where a member's bytes are, or why there are none; None for those that have no place in the file."""
    if member.link is not None:
        text = f"a link inside the archive to {member.link}, which is not followed"
        return PictureRef(error=(PictureReason.UNREADABLE, text))
    if member.size > MOST_MEMBER_BYTES:
        return PictureRef(error=(PictureReason.UNREADABLE, f"the member has {member.size:,} bytes, too many for a picture"))
    if is_swollen(member.size, member.num_stored):
        text = f"the member has {member.size:,} bytes, of which {member.num_stored:,} are stored, as of no picture"
        return PictureRef(error=(PictureReason.TOO_LARGE, text))
    if member.size == 0:
        return PictureRef(data=b"")
    return PictureRef(path=path, offset=member.offset, length=member.size) if has_place else None


@dataclass(frozen=True, kw_only=True)
class TarReader:
    """Reads tars; `sample` is the tar's path as given, "/", and the key (webdataset's: the path up to the first dot).

    The second and later pictures of a key are named key.extension. Local plain tars give places, all others bytes.
    Columns, with "*": `key`; the columns of the shard's Parquet file (`00000.parquet` beside `00000.tar`), joined by `key`;
    fields of the `.json` members that it lacks; `caption` from `.txt` and `cls` from `.cls` members where neither has them.
    A broken tar ends with one picture that has an error. Local plain tars of more than `ranged_bytes` know how many pictures
    they have and can be cut anywhere; others are one shard each.

    Attributes:
        ranged_bytes, mark_rows, most_waiting_bytes: see `RANGED_BYTES`, `MARK_ROWS`, `MOST_WAITING_BYTES`.
    """

    ranged_bytes: int = RANGED_BYTES
    mark_rows: int = MARK_ROWS
    most_waiting_bytes: int = MOST_WAITING_BYTES

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """Look at the first header (of large local tars at all), and for named columns at the first samples.

        Raises InputError for what is no tar.
        """
        num_bytes = storage.size(path)
        if num_bytes == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        identity = {"bytes": num_bytes, "contents": storage.content_sample(path, num_bytes)}
        table = _table_beside(path)
        kinds: dict[str, pa.Field] = {KEY: pa.field(KEY, pa.string())}
        table_columns: list[str] | None = None
        if table is not None:
            with remote.read_errors(table), storage.open_parquet(table) as file:
                schema = file.schema_with_ranges(None if "*" in options.columns else options.columns)
            check_names(schema.names, table)
            if KEY in schema.names:
                identity["table bytes"] = storage.size(table)
                table_kinds = {field.name: field for field in passable(schema, KEY)}
                table_columns = list(table_kinds)
                kinds |= table_kinds
            else:
                table = None
        with TarFile(path, num_bytes) as tar:
            if any(column not in (SAMPLE, *kinds) for column in options.columns):
                kinds |= {name: kind for name, kind in _peek(tar).items() if name not in kinds}
            schema = pa.schema(list(kinds.values()))
            detail = {"table": table, "schema": schema, "columns": list(kinds), "is_plain": tar.is_plain}
            num_rows = None
            if num_bytes > self.ranged_bytes and tar.is_plain and locations.is_local(path):
                detail["index"] = TarIndex.of(tar, path, table_columns, self.mark_rows)
                num_rows = detail["index"].num_rows or None
        return PicturePart(path, name, "tar", num_rows, num_bytes, identity, detail=detail)

    def blocks(self, part: PicturePart, start: int, stop: int | None, options: SourceOptions) -> Iterator[PictureBlock]:
        """Pictures [start, stop). Raises InputError before the first one only, or when a server fails for good."""
        path, index = part.detail["table"], part.detail.get("index")
        if path is None:
            table = None
        elif index is None:
            table = _ShardTable.read(path, options)
        else:
            table = _read_again(path, locations.local_path(path).stat().st_mtime_ns, options)
        with TarFile(part.path, part.num_bytes) as tar:
            walk = Walk(
                tar, part.path, start, stop, options, table, index=index, most_waiting_bytes=self.most_waiting_bytes
            )  # fmt: skip
            wanted = itertools.islice(walk.rows(), start - walk.count, None if stop is None else stop - walk.count)
            for rows in in_blocks(wanted, lambda row: len(row.ref.data or b"") + row.num_said_bytes, options):
                yield _block(rows, table, options)
            last = _last_block(walk, options, is_end=stop is None or (part.num_rows is not None and stop >= part.num_rows))
            if last.late is not None or last.remarks:
                yield last


def _table_beside(path: str) -> str | None:
    """The shard's Parquet file, if there is one. A server that does not let us ask is taken to have none."""
    if locations.is_web(path) and "?" in path:
        return None
    candidate = TAR_SUFFIX.sub("", path) + ".parquet"
    try:
        return candidate if candidate != path and storage.exists(candidate) else None
    except InputError:
        return None


def _peek(tar: TarFile) -> dict[str, pa.Field]:
    """The fields that the first pictures have, and those that members near the tar's end tell of; and their types.

    A server that fails tells of none: reading the tar will say so.
    """
    said: list[dict[str, Any]] = []
    with contextlib.suppress(InputError):
        if tar.is_plain and not locations.is_local(tar.path):
            said += _said_within(tar, 0, min(tar.num_bytes, _PEEKED_REMOTE_BYTES))
            is_whole = tar.num_bytes <= _PEEKED_REMOTE_BYTES
        else:
            is_whole = True
            walk = Walk(tar, "", 0, None, SourceOptions(), None, with_data=False)
            for row in walk.rows():
                said.append(row.fields)
                if len(said) >= _PEEKED_SAMPLES or walk.last_byte > _PEEKED_BYTES:
                    is_whole = False
                    break
            said += walk.strays.all_said()
        if tar.is_plain and not is_whole:
            low = max(0, tar.num_bytes - _PEEKED_END_BYTES) // BLOCK_BYTES * BLOCK_BYTES
            said += _said_within(tar, low, tar.num_bytes)
    names = dict.fromkeys(name for fields in said for name in fields)
    found = schema_of(pa.table({name: column_of([fields.get(name) for fields in said]) for name in names}))
    return {field.name: field for field in found}


def _said_within(tar: TarFile, low: int, high: int) -> list[dict[str, Any]]:
    """What sidecars in these bytes of a plain tar say; at the end, as in some tars all captions stand behind all pictures."""
    data = storage.read_range(tar.path, low, high)
    starts = (at for at in range(0, len(data), BLOCK_BYTES) if is_tar_header(data[at : at + BLOCK_BYTES]))
    said: list[dict[str, Any]] = []
    with contextlib.suppress(*DAMAGE), tarfile.open(fileobj=io.BytesIO(data[next(starts, len(data)) :]), mode="r:") as archive:
        for info in archive:
            split = split_key(valid_text(info.name))
            kind = SIDECARS.get(split[1].rsplit(".", 1)[-1]) if split is not None else None
            content = archive.extractfile(info) if kind is not None and info.size <= MOST_SIDECAR_BYTES else None
            if kind is not None and content is not None:
                said.append(sidecar_fields(kind, content.read()) or {})
    return said


def _block(rows: list[Row], table: _ShardTable | None, options: SourceOptions) -> PictureBlock:
    joined = table.join(rows) if table is not None else {}
    available = list(dict.fromkeys([KEY, *joined, *(name for row in rows for name in row.fields)]))
    passed: dict[str, Any] = {}
    for name in passed_columns(available, None, options):
        if name == KEY:
            passed[name] = pa.array([row.key for row in rows], pa.string())
        else:
            passed[name] = joined[name] if name in joined else column_of([row.fields.get(name) for row in rows])
    if "*" not in options.columns:
        passed |= {name: pa.nulls(len(rows)) for name in options.columns if name not in passed and name != SAMPLE}
    return PictureBlock([row.ref for row in rows], block_labels([row.sample for row in rows], passed, options))


def _last_block(walk: Walk, options: SourceOptions, *, is_end: bool) -> PictureBlock:
    """No picture, but what the tar has said of earlier ones after they were given out, and what it said of none."""
    late = None
    said = list(walk.strays.late.values())
    names = passed_columns(dict.fromkeys(name for fields in said for name in fields), None, options)
    if names:
        passed = {name: column_of([fields.get(name) for fields in said]) for name in names}
        late = LateLabels(np.fromiter(walk.strays.late, np.int64), pa.table(passed))
    return PictureBlock([], block_labels([], {}, SourceOptions()), late, walk.remarks(is_end=is_end))
