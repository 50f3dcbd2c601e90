"""A tar in, a table of its members out: which picture each belongs to and where its bytes are; kept for the next time."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import PictureReason
from beholder.errors import BeholderError
from beholder.io import storage
from beholder.pixels.picture import PictureRef, SourceOptions
from beholder.sources.pictures.tar_members import MOST_MEMBER_BYTES, Member, TarBroken, TarFile, split_key
from beholder.sources.pictures.tar_walk import Row, Walk

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
