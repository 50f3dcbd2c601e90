"""Sidecars of a tar that do not stand beside a picture of their key in; what they say of which pictures out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import SAMPLE, PictureReason
from beholder.errors import BeholderError, InputError
from beholder.io import storage
from beholder.io.csv_tables import check_names
from beholder.io.schemas import schema_of
from beholder.pixels.picture import LateLabels, PictureBlock, PicturePart, PictureRef, SourceOptions
from beholder.sources.file_kinds import HEAD_BYTES, OTHER_SUFFIXES, PICTURE_SUFFIXES, TAR_SUFFIX, is_picture, is_tar_header
from beholder.sources.labels import UniqueNames, as_text, block_labels, column_of, is_heavy, passed_columns, valid_text
from beholder.sources.tar_file import BLOCK_BYTES, DAMAGE, MOST_MEMBER_BYTES, Member, TarBroken, TarFile, split_key

_MOST_WAITING_BYTES = 64 << 20
"""Bytes of sidecars that are kept of a tar because their pictures stand elsewhere in it, before or behind them."""
Unread = list[tuple[Member, str]]
"""Sidecars and their kinds."""


class Strays:
    """Sidecars that do not stand beside a picture of their key; they belong to all pictures of it. What comes first counts.

    Attributes:
        late: row -> what was said of it after it was given out.
        num_left: sidecars that were passed over, as `_MOST_WAITING_BYTES` were kept already.
    """

    def __init__(self) -> None:
        self.late: dict[int, dict[str, Any]] = {}
        self.num_left = 0
        self._rows: dict[str, list[int]] = {}
        self._said: dict[str, tuple[dict[str, Any], int]] = {}
        self._unread: dict[str, list[Unread]] = {}
        self._num_bytes = 0

    def meet_picture(self, key: str, row: int) -> None:
        """Note that there is a picture of this key."""
        self._rows.setdefault(key, []).append(row)

    def meet_sidecars(self, key: str, fields: dict[str, Any], num_sidecars: int, num_bytes: int) -> None:
        """Keep what sidecars say that have no picture beside them."""
        self._num_bytes += num_bytes
        if self._num_bytes > _MOST_WAITING_BYTES:
            self.num_left += num_sidecars
            return
        for row in self._rows.get(key, ()):
            self.late[row] = fields | self.late.get(row, {})
        known, count = self._said.get(key, ({}, 0))
        self._said[key] = fields | known, count + num_sidecars

    def meet_unread(self, key: str, members: Unread) -> None:
        """Note where sidecars are that have no picture beside them."""
        self._unread.setdefault(key, []).append(members)

    def said_of(self, key: str) -> dict[str, Any]:
        """What was read so far."""
        return self._said.get(key, ({}, 0))[0]

    def unread_of(self, key: str) -> list[Unread]:
        """What was noted so far."""
        return self._unread.get(key, [])

    def said_of_none(self) -> list[dict[str, Any]]:
        """What was read of keys without a picture so far."""
        return [fields for key, (fields, _) in self._said.items() if key not in self._rows]

    def unread_by_row(self) -> dict[int, list[Unread]]:
        """What was noted, by the pictures of the keys."""
        return {row: units for key, units in self._unread.items() for row in self._rows.get(key, ())}

    @property
    def num_ownerless(self) -> int:
        """Sidecars, read or noted, of keys without a picture."""
        unread = sum(len(unit) for key, units in self._unread.items() if key not in self._rows for unit in units)
        return unread + sum(count for key, (_, count) in self._said.items() if key not in self._rows)


KEY, CAPTION, CLS = "key", "caption", "cls"
SIDECARS = {"json": "json", "txt": CAPTION, "caption": CAPTION, "cls": CLS}
MOST_SIDECAR_BYTES = 1 << 20
_MOST_FIELDS = 1000
"""Of a JSON sidecar; each becomes a column."""
_MARK_ROWS = 256
"""A walk can begin at about every so many-th picture."""
_MOST_OF_A_KEY = 64
"""Pictures of one key that are kept together; of more, the later ones do not get what is said of the first."""


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


@dataclass
class Row:
    """One picture: its name, its key, where it is, what its sidecars say."""

    sample: str
    key: str | None
    ref: PictureRef
    fields: dict[str, Any] = field(default_factory=dict)
    num_said_bytes: int = 0
    """Of the sidecars, as stored; 0 for the later pictures of a key."""


@dataclass
class _Group:
    """Consecutive members of one key."""

    key: str
    rows: list[Row] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    sidecars: dict[str, Any] = field(default_factory=dict)
    num_pictures: int = 0
    unread: Unread = field(default_factory=list)
    """Sidecars met before the first picture that is wanted, and their kinds; read if there is one in this group."""
    elsewhere: dict[str, Any] = field(default_factory=dict)
    """What members of this key say that stand in another place of the tar."""
    has_looked: bool = False
    num_sidecars: int = 0
    num_bytes: int = 0
    """Of sidecars that were read."""

    def take_rows(self) -> list[Row]:
        """The rows so far, with what is said of them: JSON fields first, then `caption` and `cls` where JSON has none."""
        fields = self.elsewhere | self.sidecars | self.fields
        for row in self.rows:
            row.fields = fields
        if self.rows:
            self.rows[0].num_said_bytes, self.num_bytes = self.num_bytes, 0
        rows, self.rows = self.rows, []
        return rows


@dataclass(frozen=True)
class TarIndex:
    """What going through a whole tar has told, so that a walk can begin in its middle and give the same.

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
    strays: dict[int, list[Unread]]
    num_ownerless: int

    def place(self, row: int) -> tuple[int, int]:
        """(row, header) of the last known group that begins at or before `row`."""
        at = int(np.searchsorted(self.rows, row, side="right")) - 1
        return int(self.rows[at]), int(self.offsets[at])


def index_of(tar: TarFile, path: str, columns: Sequence[str] | None) -> TarIndex:
    """Go through the headers of a tar. `path`: see `Walk`; `columns`: those of the table beside, None where there is none."""
    table = ShardTable(pa.table({}), {}, list(columns)) if columns is not None else None
    walk = Walk(tar, path, sys.maxsize, None, SourceOptions(), table, with_data=False)
    num_rows = sum(1 for _ in walk.rows())
    rows, offsets = np.array(walk.marks, np.int64).T.copy()
    skips = walk.skips_known_json if walk.has_seen_json else None
    found = walk.strays
    return TarIndex(num_rows, rows, offsets, walk.renames, skips, found.unread_by_row(), found.num_ownerless)


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
    """

    def __init__(
        self, tar: TarFile, path: str, start: int, stop: int | None, options: SourceOptions, table: ShardTable | None,
        *, with_data: bool = True, index: TarIndex | None = None,
    ) -> None:  # fmt: skip
        self.tar, self.path, self.start, self.stop, self.table, self.with_data = tar, path, start, stop, table, with_data
        self.options = options
        self.names = UniqueNames() if index is None else None
        self.renames: dict[int, str] = {} if index is None else index.renames
        self.gives_places = tar.is_plain and storage.is_local(tar.path)
        self.count, self.first_byte = (0, 0) if index is None else index.place(start)
        self.marks = [(self.count, self.first_byte)]
        given = set(table.names) | {KEY} if table is not None else {KEY}
        self.wants_fields = "*" in options.columns or any(name not in given for name in options.columns)
        self.has_seen_json = index is not None and index.skips_known_json is not None
        self.skips_known_json = index is not None and bool(index.skips_known_json)
        self.index = index
        self.strays = Strays()
        self.num_unusable = 0
        self.last_byte = 0

    def rows(self) -> Iterator[Row]:
        """All pictures up to `stop`, then an error where the tar is broken."""
        group: _Group | None = None
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
                    group = _Group(split[0])
                    if self.count - self.marks[-1][0] >= _MARK_ROWS and not self.tar.has_globals:
                        self.marks.append((self.count, member.header))
                if len(group.rows) >= _MOST_OF_A_KEY:
                    yield from group.take_rows()
                self._add(group, member, split[1])
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

    def _ended(self, group: _Group) -> list[Row]:
        """The last rows of a group. What stands without a picture is kept for pictures of its key elsewhere in the tar."""
        if self.index is None and not group.num_pictures:
            if group.unread:
                self.strays.meet_unread(group.key, group.unread)
            elif group.num_sidecars:
                self.strays.meet_sidecars(group.key, self._told(group), group.num_sidecars, group.num_bytes)
        return group.take_rows()

    def _told(self, group: _Group) -> dict[str, Any]:
        """What a group without pictures says of others of its key that the table beside does not say."""
        fields = group.sidecars | group.fields
        if self.table is None or group.key not in self.table.rows:
            return fields
        return {name: value for name, value in fields.items() if name not in self.table.names}

    def _add(self, group: _Group, member: Member, extension: str) -> None:
        last = extension.rsplit(".", 1)[-1]
        if last in SIDECARS:
            if self.wants_fields and member.link is None:
                self._meet_sidecar(group, member, SIDECARS[last])
            return
        if last not in PICTURE_SUFFIXES:
            if last in OTHER_SUFFIXES or member.link is not None:
                return
            if not is_picture(self.tar.read(member, HEAD_BYTES)):
                return
        wanted = self.count >= self.start
        if wanted:
            self._read_unread(group)
        if wanted and self.wants_fields and not group.has_looked:
            group.has_looked = True
            self._look_elsewhere(group)
        if self.wants_fields and self.index is None:
            self.strays.meet_picture(group.key, self.count)
        ref = self._ref(member) if wanted and self.with_data else PictureRef()
        group.rows.append(Row(self._sample(group, group.key, extension), group.key, ref))
        group.num_pictures += 1
        self.count += 1

    def _sample(self, group: _Group | None, key: str, extension: str) -> str:
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

    def _meet_sidecar(self, group: _Group, member: Member, kind: str) -> None:
        """Read it now, or keep it until a picture of its group is wanted. The first JSON decides for the whole tar."""
        if self.count >= self.start:
            self._read_unread(group)
            self._add_sidecar(group, member, kind)
            return
        if kind == "json" and self.table is not None and not self.has_seen_json:
            self._add_sidecar(_Group(group.key), member, kind)
        group.unread.append((member, kind))

    def _read_unread(self, group: _Group) -> None:
        for member, kind in group.unread:
            self._add_sidecar(group, member, kind)
        group.unread = []

    def _look_elsewhere(self, group: _Group) -> None:
        """What is said in other places of the tar of the picture of row `count`, the first of its group that is wanted."""
        units = self.index.strays.get(self.count, ()) if self.index is not None else self.strays.unread_of(group.key)
        group.elsewhere = self.strays.said_of(group.key)
        for unit in units:
            apart = _Group(group.key)
            for member, kind in unit:
                self._add_sidecar(apart, member, kind)
            group.elsewhere = self._told(apart) | group.elsewhere

    def _add_sidecar(self, group: _Group, member: Member, kind: str) -> None:
        """What a small member says; one that is not as it should be says nothing, its picture is as good as before."""
        is_known = self.table is not None and group.key in self.table.rows
        if kind == "json" and is_known and self.skips_known_json:
            return
        said = None
        if member.num_stored <= MOST_SIDECAR_BYTES:
            said = sidecar_fields(kind, self.tar.read(member))
        if said is None:
            self.num_unusable += 1
            return
        group.num_sidecars += 1
        group.num_bytes += member.num_stored
        if kind != "json":
            group.sidecars |= said
            return
        group.fields |= said
        if self.table is not None and not self.has_seen_json:
            self.skips_known_json = set(group.fields) <= set(self.table.names)
        self.has_seen_json = True

    def _broken(self, broken: TarBroken, group: _Group | None) -> Row:
        """The row that stands for the rest of a broken tar."""
        split = split_key(broken.name) if broken.name else None
        error = PictureRef(error=(broken.reason, broken.message))
        if split is not None and split[1].rsplit(".", 1)[-1] in PICTURE_SUFFIXES:
            return Row(self._sample(group, split[0], split[1]), split[0], error)
        return Row(self._unique(f"{self.path}#broken"), None, error)

    def _ref(self, member: Member) -> PictureRef:
        if member.link is not None:
            text = f"a link inside the archive to {member.link}, which is not followed"
            return PictureRef(error=(PictureReason.UNREADABLE, text))
        if member.size > MOST_MEMBER_BYTES:
            return PictureRef(error=(PictureReason.UNREADABLE, f"the member has {member.size:,} bytes, too many for a picture"))
        if member.size == 0:
            return PictureRef(data=b"")
        if self.gives_places and member.holes is None:
            return PictureRef(path=self.tar.path, offset=member.offset, length=member.size)
        return PictureRef(data=self.tar.read(member))


class ShardTable:
    """The Parquet file beside a tar, ready to be joined by key.

    Attributes:
        table: its columns that are passed through; `key` is not among them.
        rows: key -> row.
        names: all columns it has that could be passed.
    """

    def __init__(self, table: pa.Table, rows: dict[str, int], names: list[str]) -> None:
        self.table, self.rows, self.names = table, rows, names

    @classmethod
    def read(cls, path: str, options: SourceOptions) -> ShardTable:
        """Read it whole: a shard has thousands of rows. Raises InputError when it is damaged."""
        with storage.remote_errors(path), storage.open_parquet(path) as file:
            names = [column.name for column in file.schema_arrow if column.name != KEY and not is_heavy(column.type)]
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


RANGED_BYTES = 1 << 30
"""Local tars without compression that are larger are gone through when they are inspected, so that they can be cut."""
_PEEKED_SAMPLES = 32
_PEEKED_BYTES, _PEEKED_REMOTE_BYTES, _PEEKED_END_BYTES = 64 << 20, 2 << 20, 256 << 10
"""Columns are decided by the first so many pictures, as far as they lie in the first bytes, and by the last bytes of a tar."""


class TarReader:
    """Reads tars; `sample` is the tar's path as given, "/", and the key (webdataset's: the path up to the first dot).

    The second and later pictures of a key are named key.extension. Local plain tars give places, all others bytes.
    Columns, with "*": `key`; the columns of the shard's Parquet file (`00000.parquet` beside `00000.tar`), joined by `key`;
    fields of the `.json` members that it lacks; `caption` from `.txt` and `cls` from `.cls` members where neither has them.
    A broken tar ends with one picture that has an error. Local plain tars of more than RANGED_BYTES know how many pictures
    they have and can be cut anywhere; others are one shard each.
    """

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """Look at the first header (of large local tars at all), and for named columns at the first samples.

        Raises InputError for what is no tar.
        """
        num_bytes = storage.size(path)
        if num_bytes == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        identity = {"bytes": num_bytes, "contents": storage.content_sample(path, num_bytes)}
        table = _table_beside(path)
        detail: dict[str, Any] = {"table": table}
        kinds: dict[str, pa.Field] = {KEY: pa.field(KEY, pa.string())}
        table_columns: list[str] | None = None
        if table is not None:
            with storage.remote_errors(table), storage.open_parquet(table) as file:
                schema = file.schema_with_ranges
            check_names(schema.names, table)
            if KEY in schema.names:
                identity["table bytes"] = storage.size(table)
                table_kinds = {field.name: field for field in schema if field.name != KEY and not is_heavy(field.type)}
                table_columns = list(table_kinds)
                kinds |= table_kinds
            else:
                detail["table"] = None
        with TarFile(path, num_bytes) as tar:
            if any(column not in (SAMPLE, *kinds) for column in options.columns):
                kinds |= {name: kind for name, kind in _peek(tar).items() if name not in kinds}
            detail["is_plain"] = tar.is_plain
            if num_bytes > RANGED_BYTES and tar.is_plain and storage.is_local(path):
                detail["index"] = index_of(tar, path, table_columns)
        detail["schema"] = pa.schema(list(kinds.values()))
        detail["columns"] = list(kinds)
        num_rows = detail["index"].num_rows or None if "index" in detail else None
        return PicturePart(path, name, "tar", num_rows, num_bytes, identity, detail=detail)

    def blocks(self, part: PicturePart, start: int, stop: int | None, options: SourceOptions) -> Iterator[PictureBlock]:
        """Pictures [start, stop). Raises InputError before the first one only, or when a server fails for good."""
        table = _table_of(part, options)
        with TarFile(part.path, part.num_bytes) as tar:
            rows: list[Row] = []
            num_bytes = 0
            walk = Walk(tar, part.path, start, stop, options, table, index=part.detail.get("index"))
            for index, row in enumerate(walk.rows(), walk.count):
                if index < start:
                    continue
                if stop is not None and index >= stop:
                    break
                rows.append(row)
                num_bytes += len(row.ref.data or b"") + row.num_said_bytes
                if len(rows) >= options.block_rows or num_bytes >= options.block_bytes:
                    yield _block(rows, table, options)
                    rows, num_bytes = [], 0
            if rows:
                yield _block(rows, table, options)
            last = _last_block(walk, options, is_end=stop is None or (part.num_rows is not None and stop >= part.num_rows))
            if last.late is not None or last.remarks:
                yield last


def _table_beside(path: str) -> str | None:
    """The shard's Parquet file, if there is one. A server that does not let us ask is taken to have none."""
    if storage.is_web(path) and "?" in path:
        return None
    candidate = TAR_SUFFIX.sub("", path) + ".parquet"
    try:
        return candidate if candidate != path and storage.exists(candidate) else None
    except InputError:
        return None


def _table_of(part: PicturePart, options: SourceOptions) -> ShardTable | None:
    """The table beside; of a tar that is cut into ranges it is kept, as every one of them asks again."""
    path = part.detail["table"]
    if path is None:
        return None
    if "index" not in part.detail:
        return ShardTable.read(path, options)
    return _read_again(path, storage.local_path(path).stat().st_mtime_ns, options)


@lru_cache(maxsize=1)
def _read_again(path: str, written_ns: int, options: SourceOptions) -> ShardTable:
    return ShardTable.read(path, options)


def _peek(tar: TarFile) -> dict[str, pa.Field]:
    """The fields that the first pictures have, and those that members near the tar's end tell of; and their types.

    A server that fails tells of none: reading the tar will say so.
    """
    said: list[dict[str, Any]] = []
    with contextlib.suppress(InputError):
        if tar.is_plain and not storage.is_local(tar.path):
            said += _said_within(tar, 0, min(tar.num_bytes, _PEEKED_REMOTE_BYTES))
            is_whole = tar.num_bytes <= _PEEKED_REMOTE_BYTES
        else:
            is_whole = _said_first(tar, said)
        if tar.is_plain and not is_whole:
            low = max(0, tar.num_bytes - _PEEKED_END_BYTES) // BLOCK_BYTES * BLOCK_BYTES
            said += _said_within(tar, low, tar.num_bytes)
    names = dict.fromkeys(name for fields in said for name in fields)
    found = schema_of(pa.table({name: column_of([fields.get(name) for fields in said]) for name in names}))
    return {field.name: field for field in found}


def _said_first(tar: TarFile, said: list[dict[str, Any]]) -> bool:
    """Add what is said of the first pictures; whether there are no others."""
    walk = Walk(tar, "", 0, None, SourceOptions(), None, with_data=False)
    for row in walk.rows():
        said.append(row.fields)
        if len(said) >= _PEEKED_SAMPLES or walk.last_byte > _PEEKED_BYTES:
            said += [*walk.strays.late.values(), *walk.strays.said_of_none()]
            return False
    said += [*walk.strays.late.values(), *walk.strays.said_of_none()]
    return True


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


def _last_block(walk: Walk, options: SourceOptions, *, is_end: bool) -> PictureBlock:
    """No picture, but what the tar has said of earlier ones after they were given out, and what it said of none."""
    late = None
    if walk.strays.late:
        said = list(walk.strays.late.values())
        names = passed_columns(dict.fromkeys(name for fields in said for name in fields), None, options)
        passed = {name: column_of([fields.get(name) for fields in said]) for name in names}
        if passed:
            late = LateLabels(np.fromiter(walk.strays.late, np.int64), pa.table(passed))
    return PictureBlock([], block_labels([], {}, SourceOptions()), late, walk.remarks(is_end=is_end))


def _block(rows: list[Row], table: ShardTable | None, options: SourceOptions) -> PictureBlock:
    joined = table.join(rows) if table is not None else {}
    available = [KEY, *joined]
    available += [name for name in dict.fromkeys(name for row in rows for name in row.fields) if name not in available]
    passed: dict[str, Any] = {}
    for name in passed_columns(available, None, options):
        if name == KEY:
            passed[name] = pa.array([row.key for row in rows], pa.string())
        else:
            passed[name] = joined[name] if name in joined else column_of([row.fields.get(name) for row in rows])
    if "*" not in options.columns:
        passed |= {name: pa.nulls(len(rows)) for name in options.columns if name not in passed and name != SAMPLE}
    return PictureBlock([row.ref for row in rows], block_labels([row.sample for row in rows], passed, options))


_VERSION = 2
_FOLDER = "tar-members"
_SCHEMA = pa.schema(
    {
        "name": pa.large_string(),
        "group": pa.int64(),
        "offset": pa.int64(),
        "num_stored": pa.int64(),
        "size": pa.int64(),
        "header": pa.int64(),
        "link": pa.large_string(),
        "sample": pa.large_string(),
    }
)


@dataclass(frozen=True)
class TarMember:
    """A file in a tar.

    Attributes:
        name: its path in the tar.
        sample: what stands behind the tar's path in the name of the picture that it is; None: it is no picture.
        ref: where its bytes are; None for those of packed tars and sparse files, which `read_packed` reads.
        size: its bytes.
        header, offset, num_stored: as in `tar_members.Member`.
    """

    name: str
    sample: str | None
    ref: PictureRef | None
    size: int
    header: int
    offset: int
    num_stored: int


@dataclass(frozen=True)
class TarMembers:
    """All members of a tar that belong to pictures by webdataset's rule, and those of their keys.

    Attributes:
        path: the tar.
        num_bytes: its size when it was gone through.
        is_plain: whether places in it can be given, as it is not compressed.
        rows: `_SCHEMA`, in the order of the tar; those of equal `group`s have one key and belong together.
        broken: (sample, reason, message) of the error at the end of a broken tar.
    """

    path: str
    num_bytes: int
    is_plain: bool
    rows: pa.Table
    broken: tuple[str, PictureReason, str] | None

    def find(self, names: Sequence[str]) -> list[int | None]:
        """Rows of pictures by what stands behind the tar's path in their samples: "/key", "/key.ext", "/key#2"."""
        found: list[int | None] = pc.index_in(
            pa.array(names, pa.large_string()), value_set=self.rows.column("sample").combine_chunks(), skip_nulls=True
        ).to_pylist()
        return found

    def member(self, row: int) -> TarMember:
        """One member."""
        item = {name: self.rows.column(name)[row].as_py() for name in _SCHEMA.names}
        return TarMember(
            item["name"], item["sample"], self._ref(item), item["size"], item["header"], item["offset"], item["num_stored"]
        )

    def group(self, row: int) -> list[int]:
        """Rows of all members of the key of `row`, in the order of the tar."""
        order, groups = self._by_group
        group = self.rows.column("group")[row].as_py()
        low, high = groups.searchsorted(group, "left"), groups.searchsorted(group, "right")
        found: list[int] = order[low:high].tolist()
        return found

    @cached_property
    def _by_group(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows in the order of their groups, and these groups."""
        groups = self.rows.column("group").to_numpy()
        order = np.argsort(groups, kind="stable")
        return order, groups[order]

    def _ref(self, item: dict[str, Any]) -> PictureRef | None:
        if item["link"] is not None:
            text = f"a link inside the archive to {item['link']}, which is not followed"
            return PictureRef(error=(PictureReason.UNREADABLE, text))
        if item["size"] > MOST_MEMBER_BYTES:
            text = f"the member has {item['size']:,} bytes, too many for a picture"
            return PictureRef(error=(PictureReason.UNREADABLE, text))
        if item["size"] == 0:
            return PictureRef(data=b"")
        if not self.is_plain or item["num_stored"] != item["size"]:
            return None
        return PictureRef(path=self.path, offset=item["offset"], length=item["size"])


class _Noting(Walk):
    """A walk that writes down every member it groups."""

    def __init__(self, tar: TarFile) -> None:
        super().__init__(tar, "", 0, None, SourceOptions(columns=()), None, with_data=False)
        self.columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
        self._group: Any = None
        self._number = -1

    def _add(self, group: Any, member: Member, extension: str) -> None:
        if group is not self._group:
            self._group, self._number = group, self._number + 1
        before = self.count
        super()._add(group, member, extension)
        values = (
            member.name, self._number, member.offset, member.num_stored, member.size, member.header, member.link,
            group.rows[-1].sample if self.count > before else None,
        )  # fmt: skip
        for name, value in zip(_SCHEMA.names, values, strict=True):
            self.columns[name].append(value)


def tar_members(path: str) -> TarMembers:
    """Go through a tar, or read what an earlier time has kept of it in the cache folder. Raises InputError."""
    num_bytes = storage.size(path)
    kept = _place_in_cache(path, num_bytes)
    found = _read_kept(kept, path, num_bytes) if kept is not None else None
    if found is None:
        found = _gone_through(path, num_bytes)
        if kept is not None:
            with contextlib.suppress(BeholderError):  # a cache that cannot be written is none
                _keep(found, kept)
    return found


def _gone_through(path: str, num_bytes: int) -> TarMembers:
    with TarFile(path, num_bytes) as tar:
        walk = _Noting(tar)
        last: Row | None = None
        for last in walk.rows():  # noqa: B007 (the last one tells how the tar ends)
            pass
        is_plain = tar.is_plain
    _join_groups(walk.columns)
    broken = None
    if last is not None and last.ref.error is not None:
        broken = (last.sample, *last.ref.error)
    return TarMembers(path, num_bytes, is_plain, pa.table(walk.columns, _SCHEMA), broken)


def _join_groups(columns: dict[str, list[Any]]) -> None:
    """Give members of one key one group where they do not stand together in the tar.

    Where a key was used again for another picture, in tars that were joined (an extension is there twice), stretches with
    pictures stay groups of their own, and one without goes with the one before it, or else the first.
    """
    stretches: dict[str, list[list[int]]] = {}
    last = -1
    for row, (name, group) in enumerate(zip(columns["name"], columns["group"], strict=True)):
        split = split_key(name)
        found = stretches.setdefault(split[0] if split is not None else name, [])
        if group != last:
            found.append([])
        found[-1].append(row)
        last = group
    for some in stretches.values():
        if len(some) < 2:
            continue
        names = [columns["name"][row].lower() for rows in some for row in rows]
        owner = some[0]
        if len(set(names)) < len(names):
            with_pictures = [rows for rows in some if any(columns["sample"][row] is not None for row in rows)]
            owner = with_pictures[0] if with_pictures else owner
        for rows in some:
            if len(set(names)) < len(names) and any(columns["sample"][row] is not None for row in rows):
                owner = rows
            for row in rows:
                columns["group"][row] = columns["group"][owner[0]]


def _place_in_cache(path: str, num_bytes: int) -> str | None:
    """Where the table of this very file is kept; None where a changed file could not be told from it."""
    if storage.is_local(path):
        local = storage.local_path(path)
        state = f"{os.path.realpath(local)}\0{num_bytes}\0{local.stat().st_mtime_ns}"
    else:
        tag = storage.content_sample(path, num_bytes)
        if not tag:
            return None
        state = f"{path}\0{num_bytes}\0{tag}"
    name = hashlib.sha256(f"{_VERSION}\0{state}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return str(storage.cache_folder() / _FOLDER / f"{name}.arrow")


def _keep(found: TarMembers, place: str) -> None:
    said = [str(found.num_bytes), str(int(found.is_plain)), *(found.broken or ())]
    table = found.rows.replace_schema_metadata({"tar": "\0".join(map(str, said))})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with storage.write_whole(place) as temporary, pa.ipc.new_file(str(temporary), table.schema, options=options) as writer:
        writer.write_table(table)


def _read_kept(place: str, path: str, num_bytes: int) -> TarMembers | None:
    try:
        with pa.OSFile(place) as file:
            table = pa.ipc.open_file(file).read_all()
        told = table.schema.metadata[b"tar"].decode().split("\0")
    except (OSError, pa.ArrowException, KeyError, TypeError, UnicodeDecodeError):
        return None
    if not table.schema.equals(_SCHEMA, check_metadata=False) or len(told) not in (2, 5) or told[0] != str(num_bytes):
        return None
    if len(told) == 5 and told[3] not in list(PictureReason):
        return None
    broken = (told[2], PictureReason(told[3]), told[4]) if len(told) == 5 else None
    return TarMembers(path, num_bytes, told[1] == "1", table, broken)


def read_packed(tar: TarMembers, wanted: Iterable[TarMember]) -> Iterator[tuple[TarMember, PictureRef]]:
    """Bytes of members that have no place, in the order of the tar, which is gone through once; a broken one is an error."""
    ordered = sorted(wanted, key=lambda member: member.offset)
    if not ordered:
        return
    with TarFile(tar.path, tar.num_bytes) as file:
        for member in ordered:
            try:
                if member.num_stored == member.size:
                    data = file.read(Member(member.name, member.offset, member.num_stored, member.size, header=member.header))
                else:
                    data = file.read(next(file.members(member.header)))
                yield member, PictureRef(data=data)
            except TarBroken as broken:
                yield member, PictureRef(error=(broken.reason, broken.message))
