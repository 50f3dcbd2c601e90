"""Finds pictures in tars, zips, Parquet files, tables and listings by their samples."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import PictureReason
from beholder.errors import BeholderError, InputError
from beholder.io import locations, remote, storage, user_folders, writing
from beholder.io.records import json_value
from beholder.sources import parquet
from beholder.sources.file_kinds import SIDECAR_SUFFIXES, head_of, is_tar_name, kind_of_bytes, suffix_of
from beholder.sources.reader import PicturePart, PictureRef, SourceOptions, picture_reader, refs_of
from beholder.sources.tar import Group, Row, Walk, ref_of
from beholder.sources.tar_file import MOST_MEMBER_BYTES, Member, TarBroken, TarFile, is_swollen, split_key
from beholder.sources.zip import ZipReader, open_zip

_KEPT_NAMES_BYTES = 64 << 20
"""Names of a part that take more bytes are read again for every question."""


@dataclass
class NamedRows:
    """The pictures of one part of kind "files", "parquet", "table" or "zip", by their samples.

    Attributes:
        part: as `find_pictures` gives it.
    """

    part: PicturePart
    _names: pa.Array | None = field(default=None, repr=False)

    def find(self, samples: pa.Array) -> list[int | None]:
        """Row of each of `samples` (large_string); None where this part has none of that name. Raises InputError."""
        names = self._names
        if names is None:
            names = self._read_names()
            if names.nbytes <= _KEPT_NAMES_BYTES:
                self._names = names
        if len(samples) * 4 < len(names):  # a hash table of the wanted ones, and one pass over the names
            hits = np.flatnonzero(pc.is_in(names, value_set=samples).to_numpy(zero_copy_only=False))
            inside: list[int | None] = pc.index_in(samples, value_set=names.take(pa.array(hits))).to_pylist()
            return [None if at is None else int(hits[at]) for at in inside]
        found: list[int | None] = pc.index_in(samples, value_set=names).to_pylist()
        return found

    def refs(self, rows: Iterable[int]) -> dict[int, PictureRef]:
        """Where the pictures of these rows are; bytes that have no place of their own are read. Raises InputError."""
        return dict(refs_of(self.part, sorted(set(rows)), SourceOptions(columns=())))

    def _read_names(self) -> pa.Array:
        if self.part.kind == "zip":
            names: pa.Array = self.part.detail["members"].samples
            return names
        if self.part.kind == "parquet":
            return self._parquet_names()
        options = SourceOptions(columns=(), block_rows=1 << 16)
        blocks = picture_reader(self.part.kind).blocks(self.part, 0, None, options)
        return _joined(chunk for block in blocks for chunk in block.labels.column(0).chunks)

    def _parquet_names(self) -> pa.Array:
        """The samples without reading any picture."""
        part = self.part
        with remote.read_errors(part.path), storage.open_parquet(part.path) as file:
            renamed = parquet.sample_names(part, file)
            given = parquet.own_names(part, file)
        if given is None:
            return pa.array([parquet.row_name(part, row) for row in range(part.num_rows or 0)], pa.large_string())
        names = _joined(given.chunks)
        if not renamed:
            return names
        rows = sorted(renamed)
        mask = np.zeros(len(names), bool)
        mask[rows] = True
        return pc.replace_with_mask(names, pa.array(mask), pa.array([renamed[row] for row in rows], pa.large_string()))


def _joined(chunks: Iterable[pa.Array]) -> pa.Array:
    pieces = list(chunks)
    return pa.concat_arrays(pieces) if pieces else pa.array([], pa.large_string())


PlaceKind = Literal["file", "url", "tar", "zip", "row", "none"]


@dataclass(frozen=True)
class FilePlace:
    """One file: a picture, or what belongs to one.

    Attributes:
        name: its path in its archive; of other files the name alone.
        ref: where its bytes are, or why there are none; None: in a packed tar, `packed` says where.
        size: its bytes as stored, where known without reading it.
        packed: the member of a tar.
        owners: pictures that it belongs to; 1 for a picture itself.
    """

    name: str
    ref: PictureRef | None
    size: int | None = None
    packed: TarMember | None = None
    owners: int = 1


@dataclass(frozen=True)
class Place:
    """Where a picture of a score set is.

    Attributes:
        sample: its name in the score set.
        kind: "file" (a local one), "url", "tar", "zip", "row" (of a Parquet file or table), "none" (there is no picture).
        files: the picture first, then what belongs to it.
        source: number of the source that it is of; None where none is known.
        inside: path of the file, or of the archive that holds it, below that source; the name of a source that is one file.
        archive: the tar, zip or Parquet file that holds it (or its path), as it is opened.
        is_listed: whether a list or table names this very file, or it was listed at an address.
    """

    sample: str
    kind: PlaceKind
    files: tuple[FilePlace, ...]
    source: int | None = None
    inside: str = ""
    archive: str | None = None
    is_listed: bool = False

    @property
    def error(self) -> tuple[PictureReason, str] | None:
        """Why there is no picture, where that is known already."""
        ref = self.files[0].ref
        return ref.error if ref is not None else None


def missing_place(sample: str, text: str, reason: PictureReason = PictureReason.MISSING, inside: str = "") -> Place:
    """The place of a picture that is not there."""
    return Place(sample, "none", (FilePlace(sample, PictureRef(error=(reason, text))),), inside=inside)


Files = tuple[FilePlace, ...]


def _no_file(name: str, reason: PictureReason, text: str) -> Files:
    """A picture of an archive that cannot be had. `name`: its sample without the archive's path."""
    return (FilePlace(name.lstrip("/"), PictureRef(error=(reason, text))),)


def _gone_from(path: str, name: str) -> Files:
    return _no_file(name, PictureReason.MISSING, f"{path} holds no picture called {name.lstrip('/')!r} (any more)")


_VERSION = 4
_FOLDER = "tar-members"
_DIGEST_BYTES = 32
"""A kept table begins with the sha256 of what follows."""
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


@dataclass(slots=True)
class TarMember(Member):
    """A file in a tar, and what it is for its picture.

    Attributes:
        sample: what stands behind the tar's path in the name of the picture that it is; None: it is no picture.
        ref: where its bytes are; None for those of packed tars and sparse files, which `read_packed` reads.
    """

    sample: str | None = None
    ref: PictureRef | None = None


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

    kind: ClassVar[PlaceKind] = "tar"
    path: str
    num_bytes: int
    is_plain: bool
    rows: pa.Table
    broken: tuple[str, PictureReason, str] | None

    def find(self, names: Sequence[str], *, with_belongings: bool) -> list[Files]:
        """Pictures by what stands behind the tar's path in their samples ("/key", "/key.ext", "/key#2"), and what is theirs."""
        known = self.rows.column("sample").combine_chunks()
        rows = pc.index_in(pa.array(names, pa.large_string()), value_set=known, skip_nulls=True).to_pylist()
        return [self._files(name, row, with_belongings) for name, row in zip(names, rows, strict=True)]

    def _files(self, name: str, row: int | None, with_belongings: bool) -> Files:
        if row is None:
            if self.broken is None:
                return _gone_from(self.path, name)
            broken, reason, why = self.broken
            text = why if name == broken else f"{self.path} holds no picture called {name.lstrip('/')!r}, and {why}"
            return _no_file(name, reason, text)
        others = [other for other in self._group(row) if other != row] if with_belongings else []
        members = [self._member(other) for other in (row, *others)]
        pictures = sum(member.sample is not None for member in members)
        kept = members[:1] + [member for member in members[1:] if member.sample is None]
        return tuple(
            FilePlace(m.name, m.ref, m.size, None if m.ref else m, owners=1 if m.sample is not None else pictures) for m in kept
        )

    @property
    def has_changed(self) -> bool:
        """Whether a local tar has another size than when it was gone through."""
        return locations.is_local(self.path) and storage.size(self.path) != self.num_bytes

    def _member(self, row: int) -> TarMember:
        said = {name: self.rows.column(name)[row].as_py() for name in _SCHEMA.names if name != "group"}
        member = TarMember(**said)
        member.ref = ref_of(self.path, member, has_place=self.is_plain and member.num_stored == member.size)
        return member

    def _group(self, row: int) -> list[int]:
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


class _Noting(Walk):
    """A walk that writes down every member it groups."""

    def __init__(self, tar: TarFile) -> None:
        super().__init__(tar, "", 0, None, SourceOptions(columns=()), None, with_data=False)
        self.columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
        self._group: Group | None = None
        self._number = -1

    def add(self, group: Group, member: Member, extension: str) -> None:
        """Note it as well."""
        if group is not self._group:
            self._group, self._number = group, self._number + 1
        before = self.count
        super().add(group, member, extension)
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
        with TarFile(path, num_bytes) as tar:
            walk = _Noting(tar)
            last: Row | None = None
            for last in walk.rows():  # noqa: B007 (the last one tells how the tar ends)
                pass
            is_plain = tar.is_plain
        _join_groups(walk.columns)
        broken = (last.sample, *last.ref.error) if last is not None and last.ref.error is not None else None
        found = TarMembers(path, num_bytes, is_plain, pa.table(walk.columns, _SCHEMA), broken)
        if kept is not None:
            with contextlib.suppress(BeholderError):  # a cache that cannot be written is none
                _keep(found, kept)
    return found


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
    if locations.is_local(path):
        local = locations.local_path(path)
        state = f"{os.path.realpath(local)}\0{num_bytes}\0{local.stat().st_mtime_ns}"
    else:
        tag = storage.content_sample(path, num_bytes)
        if not tag:
            return None
        state = f"{path}\0{num_bytes}\0{tag}"
    name = hashlib.sha256(f"{_VERSION}\0{state}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return str(user_folders.cache_folder() / _FOLDER / f"{name}.arrow")


def _keep(found: TarMembers, place: str) -> None:
    said = json.dumps({"num_bytes": found.num_bytes, "is_plain": found.is_plain, "broken": found.broken})
    table = found.rows.replace_schema_metadata({"tar": said})
    packed = pa.BufferOutputStream()
    with pa.ipc.new_file(packed, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    contents = packed.getvalue()
    with writing.write_whole(place) as temporary, temporary.open("wb") as file:
        file.write(hashlib.sha256(contents).digest())
        file.write(contents)


def _read_kept(place: str, path: str, num_bytes: int) -> TarMembers | None:
    try:
        data = memoryview(Path(place).read_bytes())
        digest, contents = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(contents).digest() != digest:
            return None
        table = pa.ipc.open_file(pa.py_buffer(contents)).read_all()
        told = json_value(table.schema.metadata[b"tar"])
        broken = told["broken"] and (told["broken"][0], PictureReason(told["broken"][1]), told["broken"][2])
        is_right = table.schema.equals(_SCHEMA, check_metadata=False) and told["num_bytes"] == num_bytes
        return TarMembers(path, num_bytes, told["is_plain"], table, broken) if is_right else None
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError):
        return None


def read_packed(tar: TarMembers, wanted: Iterable[TarMember]) -> Iterator[tuple[TarMember, PictureRef]]:
    """Bytes of members that have no place, in the order of the tar, which is gone through once; a broken one is an error."""
    ordered = sorted(wanted, key=lambda member: member.offset)
    if not ordered:
        return
    with TarFile(tar.path, tar.num_bytes) as file:
        for member in ordered:
            try:
                yield member, _read_packed(file, member)
            except TarBroken as broken:
                yield member, PictureRef(error=(broken.reason, broken.message))


def _read_packed(file: TarFile, member: TarMember) -> PictureRef:
    """Bytes of one member; of a sparse one by its header as it is now, which is held to the same bounds as any other."""
    found: Member | None = member
    if member.num_stored != member.size:
        found = next(iter(file.members(member.header)), None)
    if found is None or found.name != member.name:
        text = f"{file.path} holds {member.name} no more where it was; it has changed"
        return PictureRef(error=(PictureReason.MISSING, text))
    return ref_of(file.path, found, has_place=False) or PictureRef(data=file.read(found))


_MOST_OPEN = 64


class Archives:
    """Looks into tars and zips; what was learnt of the last few is kept. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, TarMembers | _Zip] = OrderedDict()
        self._busy: dict[str, threading.Lock] = {}

    def knows(self, path: str) -> bool:
        """Whether `path` has been opened as an archive lately."""
        return path in self._known

    def find(self, path: str, names: Sequence[str], *, with_belongings: bool) -> tuple[PlaceKind, list[Files]]:
        """The archive's kind; of each name (a sample without the archive's path) the picture and what belongs to it.

        What is not there, or in a broken archive, is a file with an error.
        """
        try:
            archive = self._opened(path)
            return archive.kind, archive.find(names, with_belongings=with_belongings)
        except InputError as error:
            return "none", [_no_file(name, PictureReason.UNREADABLE, str(error)) for name in names]

    def _opened(self, path: str) -> TarMembers | _Zip:
        with self._lock:
            alone = self._busy.setdefault(path, threading.Lock())
        with alone:  # while an archive is gone through, so that others need not do it again
            found = self._known.get(path)
            if found is None or (isinstance(found, TarMembers) and found.has_changed):
                found = _Zip(path) if _is_zip(path) else tar_members(path)
            with self._lock:
                self._known[path] = found
                self._known.move_to_end(path)
                if len(self._known) > _MOST_OPEN:
                    self._known.popitem(last=False)
            return found

    def contents(self, places: Sequence[Place]) -> list[list[tuple[str, PictureRef]]]:
        """(name, place of the bytes) of every file of each place; members of packed tars are read, each tar once."""
        wanted: dict[str, dict[int, TarMember]] = {}
        for place in places:
            for file in place.files:
                if file.ref is None and file.packed is not None and place.archive is not None:
                    wanted.setdefault(place.archive, {})[file.packed.offset] = file.packed
        read: dict[tuple[str, int], PictureRef] = {}
        for path, members in wanted.items():
            try:
                for member, ref in read_packed(cast(TarMembers, self._opened(path)), members.values()):
                    read[path, member.offset] = ref
            except InputError as error:
                failed = PictureRef(error=(PictureReason.UNREADABLE, str(error)))
                read |= {(path, offset): failed for offset in members if (path, offset) not in read}
        return [[(file.name, file.ref or read[place.archive or "", _offset(file)]) for file in place.files] for place in places]

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()


def _offset(file: FilePlace) -> int:
    assert file.packed is not None
    return file.packed.offset


def _is_zip(path: str) -> bool:
    """Whether an archive is a zip: by its name, else by its first bytes. Raises InputError."""
    if is_tar_name(path):
        return False
    return suffix_of(path) == "zip" or kind_of_bytes(head_of(path)) == "zip"


class _Zip:
    """The directory of a zip."""

    kind: ClassVar[PlaceKind] = "zip"

    def __init__(self, path: str) -> None:
        self.path = path
        self.part = ZipReader().inspect(path, path, SourceOptions())
        self._rows = NamedRows(self.part)
        self._sidecars: dict[str, list[str]] | None = None

    def find(self, names: Sequence[str], *, with_belongings: bool) -> list[Files]:
        """Pictures by what stands behind the zip's path in their samples, and what is theirs."""
        rows = self._rows.find(pa.array([self.path + name for name in names], pa.large_string()))
        refs = self._rows.refs(row for row in rows if row is not None)
        with contextlib.ExitStack() as stack:
            archive = None
            if with_belongings:  # its directory is read once for all names
                stack.enter_context(remote.read_errors(self.path))
                archive = open_zip(self.path, stack.enter_context(storage.open_binary(self.path)))
            return [self._files(name, row, refs, archive) for name, row in zip(names, rows, strict=True)]

    def _files(self, name: str, row: int | None, refs: dict[int, PictureRef], archive: zipfile.ZipFile | None) -> Files:
        if row is None:
            return _gone_from(self.path, name)
        info = self.part.detail["members"].info(row)
        picture = FilePlace(info.filename, refs[row], info.file_size)
        return (picture, *(self._belongings(archive, info.filename) if archive is not None else ()))

    def _belongings(self, archive: zipfile.ZipFile, name: str) -> list[FilePlace]:
        """Members such as cat.json and cat.jpg.txt beside cat.jpg, read."""
        if self._sidecars is None:
            self._sidecars = {}
            for other in archive.namelist():
                if suffix_of(other) in SIDECAR_SUFFIXES:
                    self._sidecars.setdefault(other.rpartition(".")[0], []).append(other)
        stem = name.rpartition(".")[0]
        wanted = [*self._sidecars.get(name, ()), *(self._sidecars.get(stem, ()) if stem != name else ())]
        found = []
        for other in wanted:
            info = archive.getinfo(other)
            size = info.file_size
            try:
                if size > MOST_MEMBER_BYTES or is_swollen(size, info.compress_size):
                    raise ValueError(f"it has {size:,} bytes")
                data = archive.read(other)
            except Exception as error:  # encrypted, packed in an unknown way, damaged: zipfile has no common error
                ref = PictureRef(error=(PictureReason.UNREADABLE, f"{self.path}/{other} cannot be read: {error}"))
                found.append(FilePlace(other, ref))
            else:
                found.append(FilePlace(other, PictureRef(data=data), len(data)))
        return found
