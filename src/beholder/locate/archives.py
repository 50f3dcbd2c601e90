"""Finds pictures in tars, zips, Parquet files, tables and listings by their samples."""

from __future__ import annotations

import contextlib
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import PictureReason
from beholder.errors import InputError
from beholder.io import storage
from beholder.sources import parquet
from beholder.sources.file_kinds import SIDECAR_SUFFIXES, head_of, is_tar_name, kind_of_bytes, suffix_of
from beholder.sources.reader import PicturePart, PictureRef, SourceOptions, picture_reader, refs_of
from beholder.sources.tar import TarMember, TarMembers, read_packed, tar_members
from beholder.sources.tar_file import MOST_MEMBER_BYTES
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
        with storage.remote_errors(part.path), storage.open_parquet(part.path) as file:
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


_MOST_OPEN = 64
Files = tuple[FilePlace, ...]


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
            if isinstance(archive, _Zip):
                return "zip", archive.find(names, with_belongings=with_belongings)
            return "tar", _in_tar(archive, names, with_belongings=with_belongings)
        except InputError as error:
            failed = PictureRef(error=(PictureReason.UNREADABLE, str(error)))
            return "none", [(FilePlace(name.lstrip("/"), failed),) for name in names]

    def _opened(self, path: str) -> TarMembers | _Zip:
        with self._lock:
            alone = self._busy.setdefault(path, threading.Lock())
        with alone:  # while an archive is gone through, so that others need not do it again
            found = self._known.get(path)
            if found is None or (isinstance(found, TarMembers) and _has_changed(found)):
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


def _has_changed(tar: TarMembers) -> bool:
    """Whether a local tar has another size than when it was gone through."""
    return storage.is_local(tar.path) and storage.size(tar.path) != tar.num_bytes


def _in_tar(tar: TarMembers, names: Sequence[str], *, with_belongings: bool) -> list[Files]:
    found: list[Files] = []
    for name, row in zip(names, tar.find(names), strict=True):
        if row is None:
            if tar.broken is not None and name == tar.broken[0]:
                error = tar.broken[1:]
            elif tar.broken is not None:
                error = (tar.broken[1], f"{tar.path} holds no picture called {name.lstrip('/')!r}, and {tar.broken[2]}")
            else:
                error = (PictureReason.MISSING, f"{tar.path} holds no picture called {name.lstrip('/')!r} (any more)")
            found.append((FilePlace(name.lstrip("/"), PictureRef(error=error)),))
            continue
        rows = [row]
        if with_belongings:
            rows += [other for other in tar.group(row) if other != row]
        members = [tar.member(other) for other in rows]
        pictures = sum(member.sample is not None for member in members)
        kept = members[:1] + [member for member in members[1:] if member.sample is None]
        found.append(
            tuple(
                FilePlace(m.name, m.ref, m.size, None if m.ref else m, owners=1 if m.sample is not None else pictures)
                for m in kept
            )
        )
    return found


class _Zip:
    """The directory of a zip."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.part = ZipReader().inspect(path, path, SourceOptions())
        self._rows = NamedRows(self.part)
        self._sidecars: dict[str, list[str]] | None = None

    def find(self, names: Sequence[str], *, with_belongings: bool) -> list[Files]:
        rows = self._rows.find(pa.array([self.path + name for name in names], pa.large_string()))
        refs = self._rows.refs(row for row in rows if row is not None)
        found: list[Files] = []
        with contextlib.ExitStack() as stack:
            archive = self._opened(stack) if with_belongings else None  # its directory is read once for all names
            for name, row in zip(names, rows, strict=True):
                found.append(self._files(name, row, refs, archive))
        return found

    def _opened(self, stack: contextlib.ExitStack) -> zipfile.ZipFile:
        stack.enter_context(storage.remote_errors(self.path))
        return open_zip(self.path, stack.enter_context(storage.open_binary(self.path)))

    def _files(self, name: str, row: int | None, refs: dict[int, PictureRef], archive: zipfile.ZipFile | None) -> Files:
        if row is None:
            text = f"{self.path} holds no picture called {name.lstrip('/')!r} (any more)"
            return (FilePlace(name.lstrip("/"), PictureRef(error=(PictureReason.MISSING, text))),)
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
            size = archive.getinfo(other).file_size
            try:
                if size > MOST_MEMBER_BYTES:
                    raise ValueError(f"it has {size:,} bytes")
                data = archive.read(other)
            except Exception as error:  # encrypted, packed in an unknown way, damaged: zipfile has no common error
                ref = PictureRef(error=(PictureReason.UNREADABLE, f"{self.path}/{other} cannot be read: {error}"))
                found.append(FilePlace(other, ref))
            else:
                found.append(FilePlace(other, PictureRef(data=data), len(data)))
        return found
