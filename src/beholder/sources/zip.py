"""Reader of zips of pictures: stored ones are places in the file, packed ones bytes."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.columns import PictureReason
from beholder.errors import InputError, damaged
from beholder.io import locations, remote, storage
from beholder.sources.file_kinds import HEAD_BYTES, OTHER_SUFFIXES, PICTURE_SUFFIXES, is_picture, suffix_of
from beholder.sources.labels import UniqueNames, block_labels, valid_text
from beholder.sources.reader import PictureBlock, PicturePart, PictureRef, SourceOptions, in_blocks
from beholder.sources.tar_file import MOST_MEMBER_BYTES, is_swollen

_LOCAL_HEADER = struct.Struct("<4s22sHH")
_ENCRYPTED = 1
_NUMBERS = ("header_offset", "compress_size", "file_size", "compress_type", "flag_bits", "CRC", "_end_offset")
"""Fields of `zipfile.ZipInfo` that opening a member needs; newer Pythons see by the last one that members overlap."""
_MOST, _NO_NUMBER = (1 << 63) - 1, -1 << 63


class ZipReader:
    """Reads zips in the order of their directory, which only `inspect` reads.

    `sample` is the zip's path as given, "/", and the member's.
    """

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """Read the directory. Raises InputError when it is no whole zip, or a numpy archive."""
        num_bytes = storage.size(path)
        with remote.read_errors(path), storage.open_binary(path) as file:
            archive = open_zip(path, file)
            if is_numpy(archive):
                raise InputError(f"{path} holds numpy arrays, no pictures")
            pictures, num_ignored = _pictures(archive)
        if not pictures:
            raise InputError(f"{path} holds no pictures")
        identity = {"bytes": num_bytes, "contents": storage.content_sample(path, num_bytes)}
        detail = {"members": _Members.of(pictures, path)}
        return PicturePart(path, name, "zip", len(pictures), num_bytes, identity, num_ignored=num_ignored, detail=detail)

    def blocks(self, part: PicturePart, start: int, stop: int | None, options: SourceOptions) -> Iterator[PictureBlock]:
        """Pictures [start, stop), found where `inspect` saw them; nothing else of the zip is read."""
        members: _Members = part.detail["members"]
        stop = len(members.samples) if stop is None else min(stop, len(members.samples))
        with remote.read_errors(part.path), storage.open_binary(part.path) as file:
            archive = _KnownZip(file)
            refs = (_ref(archive, file, members.info(row), part) for row in range(start, stop))
            low = start
            for some in in_blocks(refs, lambda ref: len(ref.data or b""), options):
                yield PictureBlock(some, block_labels(members.samples.slice(low, len(some)), {}, options))
                low += len(some)


@dataclass(frozen=True)
class _Members:
    """What the directory says of the pictures in a zip, packed so that millions fit.

    Attributes:
        samples: (N,) large_string, unique.
        names: (N,) large_binary: as the directory has them, in UTF-8.
        numbers: (N, 7) int64: `_NUMBERS` of each.
    """

    samples: pa.Array
    names: pa.Array
    numbers: npt.NDArray[np.int64]

    @classmethod
    def of(cls, pictures: Sequence[zipfile.ZipInfo], path: str) -> _Members:
        """Pack them; samples begin with `path`."""
        unique = UniqueNames()
        samples = pa.array([unique.take(f"{path}/{valid_text(info.filename)}") for info in pictures], pa.large_string())
        names = pa.array([info.orig_filename.encode("utf-8", "surrogatepass") for info in pictures], pa.large_binary())
        numbers = np.empty((len(pictures), len(_NUMBERS)), np.int64)
        for row, info in enumerate(pictures):
            given = [getattr(info, name, None) for name in _NUMBERS]
            numbers[row] = [_NO_NUMBER if value is None else max(min(value, _MOST), -_MOST) for value in given]
        return cls(samples, names, numbers)

    def info(self, row: int) -> zipfile.ZipInfo:
        """One member as `zipfile` wants it."""
        info = zipfile.ZipInfo(self.names[row].as_py().decode("utf-8", "surrogatepass"))
        for name, value in zip(_NUMBERS, self.numbers[row].tolist(), strict=True):
            if value != _NO_NUMBER:
                setattr(info, name, value)
        return info


class _KnownZip(zipfile.ZipFile):
    """A zip whose members are known already: its directory is not read again (should Python rename the method, it is)."""

    def _RealGetContents(self) -> None:  # noqa: N802
        """Read nothing."""


def open_zip(path: str, file: IO[bytes]) -> zipfile.ZipFile:
    """Read the directory of a zip. Raises InputError."""
    with damaged(lambda why: InputError(f"{path} is not a whole zip file: {why}; write it again")):
        return zipfile.ZipFile(file)


def is_numpy(archive: zipfile.ZipFile) -> bool:
    """Whether it is an .npz: all members are arrays."""
    names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def _pictures(archive: zipfile.ZipFile) -> tuple[list[zipfile.ZipInfo], int]:
    """Members that are pictures by suffix, or by their first bytes where the suffix tells nothing; how many are not."""
    found, num_ignored = [], 0
    for info in archive.infolist():
        pieces = info.filename.split("/")
        names = [piece.encode("utf-8", "replace") for piece in pieces if piece not in (".", "..")]
        if info.filename.endswith("/") or any(locations.is_ignored_name(name) for name in names):
            continue
        suffix = suffix_of(info.filename)
        if suffix in PICTURE_SUFFIXES or (suffix not in OTHER_SUFFIXES and _begins_as_picture(archive, info)):
            found.append(info)
        else:
            num_ignored += 1
    return found, num_ignored


class _MemberError(Exception):
    """A member that cannot be unpacked; the text says why."""


def _begins_as_picture(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    try:
        with damaged(_MemberError), archive.open(info) as member:
            return is_picture(member.read(HEAD_BYTES))
    except (_MemberError, OSError):
        return False


def _ref(archive: zipfile.ZipFile, file: IO[bytes], info: zipfile.ZipInfo, part: PicturePart) -> PictureRef:
    """Where one member's bytes are, or what is wrong with it."""

    def wrong(reason: PictureReason, text: str) -> PictureRef:
        return PictureRef(error=(reason, text))

    if info.flag_bits & _ENCRYPTED:
        return wrong(PictureReason.UNREADABLE, "the zip's member is encrypted")
    if info.file_size > MOST_MEMBER_BYTES:
        return wrong(PictureReason.UNREADABLE, f"the member has {info.file_size:,} bytes, too many for a picture")
    if is_swollen(info.file_size, info.compress_size):
        packed = f"{info.file_size:,} bytes out of {info.compress_size:,}"
        return wrong(PictureReason.TOO_LARGE, f"the zip's member unpacks to {packed}, as no picture does")
    try:
        if info.compress_type == zipfile.ZIP_STORED and locations.is_local(part.path) and info.file_size:
            file.seek(info.header_offset)
            magic, _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            if magic != b"PK\3\4":
                return wrong(PictureReason.UNREADABLE, "the zip is damaged: no member where its directory says one is")
            offset = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
            if offset + info.file_size > part.num_bytes:
                return wrong(PictureReason.TRUNCATED, "the zip's member goes beyond its end")
            return PictureRef(path=part.path, offset=offset, length=info.file_size)
        with damaged(_MemberError):
            try:
                with archive.open(info) as member:
                    data = member.read(info.file_size + 1)
            except (EOFError, struct.error):
                return wrong(PictureReason.TRUNCATED, "the zip's member breaks off")
            except NotImplementedError as error:
                return wrong(PictureReason.UNREADABLE, f"the zip's member is packed in a way that is not known here: {error}")
            except RuntimeError as error:
                return wrong(PictureReason.UNREADABLE, f"the zip's member cannot be read: {error}")
    except struct.error:
        return wrong(PictureReason.TRUNCATED, "the zip's member breaks off")
    except (_MemberError, ValueError) as error:  # ValueError: a place before the start
        return wrong(PictureReason.DAMAGED, f"the zip's member is damaged: {error}")
    except OSError as error:
        return wrong(PictureReason.UNREADABLE, f"the zip's member cannot be read: {error}")
    if len(data) != info.file_size:
        return wrong(PictureReason.TRUNCATED, f"the zip's member breaks off: {len(data)} of {info.file_size} bytes are there")
    return PictureRef(data=data)
