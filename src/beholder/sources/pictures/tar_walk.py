"""An open tar in, its pictures one by one out: named, grouped by key, with what the members beside them say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import SAMPLE, PictureReason
from beholder.io import storage
from beholder.pixels.picture import PictureRef, SourceOptions
from beholder.sources.pictures.labels import UniqueNames, as_text, column_of, is_heavy, passed_columns, valid_text
from beholder.sources.pictures.magic import HEAD_BYTES, OTHER_SUFFIXES, PICTURE_SUFFIXES, is_picture
from beholder.sources.pictures.tar_members import MOST_MEMBER_BYTES, Member, TarBroken, TarFile, split_key
from beholder.sources.pictures.tar_strays import Strays, Unread

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
