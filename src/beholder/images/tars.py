"""A tar (webdataset, img2dataset, any) in, its pictures out, with what the `.json`, `.txt` and `.cls` members beside say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beholder import storage
from beholder.columns import SAMPLE, PictureReason
from beholder.errors import InputError
from beholder.images.labels import UniqueNames, block_labels, column_of, is_heavy, passed_columns, valid_text
from beholder.images.magic import HEAD_BYTES, OTHER_SUFFIXES, PICTURE_SUFFIXES, TAR_SUFFIX, is_picture
from beholder.images.picture import PictureBlock, PicturePart, PictureRef, SourceOptions
from beholder.images.tar_members import MOST_MEMBER_BYTES, Member, TarBroken, TarFile, split_key

KEY, CAPTION, CLS = "key", "caption", "cls"
_SIDECARS = {"json": "json", "txt": CAPTION, "caption": CAPTION, "cls": CLS}
_MOST_SIDECAR_BYTES = 1 << 20
_MOST_OF_A_KEY = 64
"""Pictures of one key that are kept together; of more, the later ones do not get what is said of the first."""
_PEEKED_SAMPLES = 32


@dataclass
class _Row:
    """One picture: its name, its key, where it is, what its sidecars say."""

    sample: str
    key: str | None
    ref: PictureRef
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Group:
    """Consecutive members of one key."""

    key: str
    rows: list[_Row] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    sidecars: dict[str, Any] = field(default_factory=dict)
    num_pictures: int = 0

    def take_rows(self) -> list[_Row]:
        """The rows so far, with what is said of them: JSON fields first, then `caption` and `cls` where JSON has none."""
        fields = self.sidecars | self.fields
        for row in self.rows:
            row.fields = fields
        rows, self.rows = self.rows, []
        return rows


class TarReader:
    """Reads tars; `sample` is the tar's path as given, "/", and the key (webdataset's: the path up to the first dot).

    The second and later pictures of a key are named key.extension. Local plain tars give places, all others bytes.
    Columns, with "*": `key`; the columns of the shard's Parquet file (`00000.parquet` beside `00000.tar`), joined by `key`;
    fields of the `.json` members that it lacks; `caption` from `.txt` and `cls` from `.cls` members where neither has them.
    A broken tar ends with one picture that has an error.
    """

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """Look at the first header, and for named columns at the first samples. Raises InputError for what is no tar."""
        num_bytes = storage.size(path)
        if num_bytes == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        identity = {"bytes": num_bytes, "contents": storage.content_sample(path, num_bytes)}
        table = _table_beside(path)
        detail: dict[str, Any] = {"table": table, "columns": [KEY]}
        if table is not None:
            with storage.remote_errors(table), storage.open_parquet(table) as file:
                schema = file.schema_arrow
            if KEY in schema.names:
                identity["table bytes"] = storage.size(table)
                detail["columns"] += [field.name for field in schema if field.name != KEY and not is_heavy(field.type)]
            else:
                detail["table"] = None
        with TarFile(path, num_bytes) as tar:
            missing = [column for column in options.columns if column not in ("*", SAMPLE, *detail["columns"])]
            if missing:
                detail["columns"] += [name for name in _peek(tar) if name not in detail["columns"]]
        return PicturePart(path, name, "tar", None, num_bytes, identity, detail=detail)

    def blocks(self, part: PicturePart, start: int, stop: int | None, options: SourceOptions) -> Iterator[PictureBlock]:
        """Pictures [start, stop). Raises InputError before the first one only, or when a server fails for good."""
        table = _ShardTable.read(part.detail["table"], options) if part.detail["table"] else None
        with TarFile(part.path, part.num_bytes) as tar:
            rows: list[_Row] = []
            num_bytes = 0
            for index, row in enumerate(_Walk(tar, part.path, start, stop, options, table).rows()):
                if index < start:
                    continue
                if stop is not None and index >= stop:
                    break
                rows.append(row)
                num_bytes += len(row.ref.data or b"")
                if len(rows) >= options.block_rows or num_bytes >= options.block_bytes:
                    yield _block(rows, table, options)
                    rows, num_bytes = [], 0
            if rows:
                yield _block(rows, table, options)


def _table_beside(path: str) -> str | None:
    """The shard's Parquet file, if there is one. A server that does not let us ask is taken to have none."""
    if storage.is_web(path) and "?" in path:
        return None
    candidate = TAR_SUFFIX.sub("", path) + ".parquet"
    try:
        return candidate if candidate != path and storage.exists(candidate) else None
    except InputError:
        return None


def _peek(tar: TarFile) -> list[str]:
    """Names of the fields that the first samples have."""
    names: dict[str, None] = {}
    walk = _Walk(tar, "", 0, _PEEKED_SAMPLES, SourceOptions(), None, with_data=False)
    for row in walk.rows():
        names |= dict.fromkeys(row.fields)
    return list(names)


class _Walk:
    """Goes through a tar once and groups its members by key.

    Args:
        tar: an open tar.
        path: what stands before the keys in sample names.
        start, stop: rows whose bytes and sidecars are read; others are only counted.
        options: decides which sidecars are needed.
        table: the shard's Parquet file.
        with_data: read pictures' bytes where places cannot be given.
    """

    def __init__(
        self, tar: TarFile, path: str, start: int, stop: int | None, options: SourceOptions, table: _ShardTable | None,
        *, with_data: bool = True,
    ) -> None:  # fmt: skip
        self.tar, self.path, self.start, self.stop, self.table, self.with_data = tar, path, start, stop, table, with_data
        self.options = options
        self.names = UniqueNames()
        self.gives_places = tar.is_plain and storage.is_local(tar.path)
        self.count = 0
        given = set(table.names) | {KEY} if table is not None else {KEY}
        self.wants_fields = "*" in options.columns or any(name not in given for name in options.columns)
        self.has_seen_json = self.skips_known_json = False

    def rows(self) -> Iterator[_Row]:
        """All pictures up to `stop`, then an error where the tar is broken."""
        group: _Group | None = None
        try:
            for member in self.tar.members():
                split = split_key(member.name)
                if split is None:
                    continue
                if group is None or group.key != split[0]:
                    if group is not None:
                        yield from group.take_rows()
                    if self.stop is not None and self.count >= self.stop:
                        return
                    group = _Group(split[0])
                if len(group.rows) >= _MOST_OF_A_KEY:
                    yield from group.take_rows()
                self._add(group, member, split[1])
        except TarBroken as broken:
            if group is not None:
                yield from group.take_rows()
            yield self._broken(broken, group)
            return
        if group is not None:
            yield from group.take_rows()

    def _add(self, group: _Group, member: Member, extension: str) -> None:
        last = extension.rsplit(".", 1)[-1]
        if last in _SIDECARS:
            if self.wants_fields and self.count >= self.start and member.num_stored <= _MOST_SIDECAR_BYTES:
                self._add_sidecar(group, member, _SIDECARS[last])
            return
        if last not in PICTURE_SUFFIXES:
            if last in OTHER_SUFFIXES or member.link is not None:
                return
            if not is_picture(self.tar.read(member, HEAD_BYTES)):
                return
        wanted = self.with_data and self.count >= self.start
        ref = self._ref(member) if wanted else PictureRef()
        group.rows.append(_Row(self._sample(group, group.key, extension), group.key, ref))
        group.num_pictures += 1
        self.count += 1

    def _sample(self, group: _Group | None, key: str, extension: str) -> str:
        is_first = group is None or group.key != key or group.num_pictures == 0
        return self.names.take(f"{self.path}/{key}" if is_first else f"{self.path}/{key}.{extension}")

    def _add_sidecar(self, group: _Group, member: Member, kind: str) -> None:
        """What a small member says; one that is not as it should be says nothing, its picture is as good as before."""
        is_known = self.table is not None and group.key in self.table.rows
        if kind == "json":
            if is_known and self.skips_known_json:
                return
            try:
                said = json.loads(self.tar.read(member))
            except (ValueError, RecursionError):
                return
            if isinstance(said, dict):
                group.fields |= {valid_text(name): value for name, value in said.items() if name not in (SAMPLE, KEY)}
                if self.table is not None and not self.has_seen_json:
                    self.skips_known_json = set(group.fields) <= set(self.table.names)
                self.has_seen_json = True
            return
        text = self.tar.read(member).decode("utf-8", "replace").strip("\ufeff\r\n")
        group.sidecars[kind] = int(text) if kind == CLS and text.strip().isdecimal() and len(text) < 18 else text

    def _broken(self, broken: TarBroken, group: _Group | None) -> _Row:
        """The row that stands for the rest of a broken tar."""
        split = split_key(broken.name) if broken.name else None
        error = PictureRef(error=(broken.reason, broken.message))
        if split is not None and split[1].rsplit(".", 1)[-1] in PICTURE_SUFFIXES:
            return _Row(self._sample(group, split[0], split[1]), split[0], error)
        return _Row(self.names.take(f"{self.path}#broken"), None, error)

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


class _ShardTable:
    """The Parquet file beside a tar, ready to be joined by key.

    Attributes:
        table: its columns that are passed through; `key` is not among them.
        rows: key -> row.
        names: all columns it has that could be passed.
    """

    def __init__(self, table: pa.Table, rows: dict[str, int], names: list[str]) -> None:
        self.table, self.rows, self.names = table, rows, names

    @classmethod
    def read(cls, path: str, options: SourceOptions) -> _ShardTable:
        """Read it whole: a shard has thousands of rows. Raises InputError when it is damaged."""
        with storage.remote_errors(path), storage.open_parquet(path) as file:
            names = [column.name for column in file.schema_arrow if column.name != KEY and not is_heavy(column.type)]
            wanted = passed_columns(names, None, options)
            try:
                table = file.read(columns=[KEY, *wanted])
            except (pa.ArrowException, OSError) as error:
                why = " ".join(str(error).split())[:200]
                raise InputError(f"{path} is damaged: {why}; write it again, or remove it") from None
        keys = table.column(KEY).cast(pa.large_string()).to_pylist()
        rows = {key: row for row, key in reversed(list(enumerate(keys))) if key is not None}
        return cls(table.select(wanted), rows, names)

    def join(self, rows: Sequence[_Row]) -> dict[str, Any]:
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


def _block(rows: list[_Row], table: _ShardTable | None, options: SourceOptions) -> PictureBlock:
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
