"""Names inside tars and zips in; where those members are, what belongs to them, and the bytes of packed ones out."""

from __future__ import annotations

import contextlib
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Sequence

import pyarrow as pa

from beholder.columns import PictureReason
from beholder.errors import InputError
from beholder.io import storage
from beholder.locate.named_rows import NamedRows
from beholder.locate.place import FilePlace, Place, PlaceKind
from beholder.pixels.picture import PictureRef, SourceOptions
from beholder.sources.pictures.looks import head_of
from beholder.sources.pictures.magic import SIDECAR_SUFFIXES, is_tar_name, kind_of_bytes, suffix_of
from beholder.sources.pictures.tar_index import TarMember, TarMembers, read_packed, tar_members
from beholder.sources.pictures.tar_members import MOST_MEMBER_BYTES
from beholder.sources.pictures.zip import ZipReader, open_zip

_MOST_OPEN = 64
Files = tuple[FilePlace, ...]


class Archives:
    """Looks into tars and zips; what was learnt of the last few is kept. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tars: OrderedDict[str, TarMembers] = OrderedDict()
        self._zips: OrderedDict[str, _Zip] = OrderedDict()
        self._busy: dict[str, threading.Lock] = {}

    def knows(self, path: str) -> bool:
        """Whether `path` has been opened as an archive lately."""
        return path in self._tars or path in self._zips

    def find(self, path: str, names: Sequence[str], *, with_belongings: bool) -> tuple[PlaceKind, list[Files]]:
        """The archive's kind; of each name (a sample without the archive's path) the picture and what belongs to it.

        What is not there, or in a broken archive, is a file with an error.
        """
        try:
            if is_zip(path):
                return "zip", self._zip(path).find(names, with_belongings=with_belongings)
            return "tar", _in_tar(self._tar(path), names, with_belongings=with_belongings)
        except InputError as error:
            failed = PictureRef(error=(PictureReason.UNREADABLE, str(error)))
            return "none", [(FilePlace(name.lstrip("/"), failed),) for name in names]

    def _tar(self, path: str) -> TarMembers:
        with self._alone(path):
            found = self._tars.get(path)
            if found is None or _has_changed(found):
                found = tar_members(path)
            with self._lock:
                self._tars[path] = found
                self._tars.move_to_end(path)
                if len(self._tars) > _MOST_OPEN:
                    self._tars.popitem(last=False)
            return found

    def _zip(self, path: str) -> _Zip:
        with self._alone(path):
            found = self._zips.get(path)
            if found is None:
                found = _Zip(path)
            with self._lock:
                self._zips[path] = found
                self._zips.move_to_end(path)
                if len(self._zips) > _MOST_OPEN:
                    self._zips.popitem(last=False)
            return found

    def _alone(self, path: str) -> threading.Lock:
        """Held while an archive is gone through, so that others need not do it again."""
        with self._lock:
            return self._busy.setdefault(path, threading.Lock())

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
                for member, ref in read_packed(self._tar(path), members.values()):
                    read[path, member.offset] = ref
            except InputError as error:
                failed = PictureRef(error=(PictureReason.UNREADABLE, str(error)))
                read |= {(path, offset): failed for offset in members if (path, offset) not in read}
        return [[(file.name, file.ref or read[place.archive or "", _offset(file)]) for file in place.files] for place in places]

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._tars.clear()
            self._zips.clear()


def _offset(file: FilePlace) -> int:
    assert file.packed is not None
    return file.packed.offset


def is_zip(path: str) -> bool:
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
